"""The real training step, compiled ahead for TPUs that are not here: memory and collectives.

libtpu holds the compiler and describes topologies without any chip; arrays are shapes with a place
on that topology, so that nothing is allocated. `pip install 'ctr_jax[tpu]'` installs it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from typing import NamedTuple

import jax
from jax.experimental import topologies

from ctr_jax.train import mesh as mesh_lib
from launch import planning

# libtpu asks the metadata server of a cloud, and allows one process that drives chips: there is
# none to drive. Its machine is a name that it does not look up.
_ALONE = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_WORKER_ID': '0',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}
_KINDS = ('all-to-all', 'all-gather', 'all-reduce', 'reduce-scatter', 'collective-permute')
_BITS = {'pred': 8, 's8': 8, 'u8': 8, 'bf16': 16, 'f16': 16, 's64': 64, 'u64': 64, 'f64': 64}


class Compiled(NamedTuple):
  """What the compiler says of a step, for each chip.

  Attributes:
    arguments, outputs, aliased, temporary: bytes; outputs that are aliased lie where arguments lie.
    code: bytes of the program.
    collectives: kind → (how many there are, bytes that a chip gets of them).
    seconds: that compiling took.
  """

  arguments: int
  outputs: int
  aliased: int
  temporary: int
  code: int
  collectives: dict[str, tuple[int, int]]
  seconds: float

  @property
  def total(self) -> int:
    """Bytes of a chip's memory, without the program's code."""
    return self.arguments + self.outputs - self.aliased + self.temporary


def topology(name: str):
  """A description of TPUs that need not be here, as 'v5e:4x4'.

  Raises:
    ValueError: there is no compiler here, or no such topology.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise ValueError(
      "--compile needs TPU's compiler: pip install 'ctr_jax[tpu]' (or the libtpu that "
      f'jax {jax.__version__} names). The plan without it needs nothing.'
    )
  for key, value in _ALONE.items():
    os.environ.setdefault(key, value)
  try:
    return topologies.get_topology_desc(platform='tpu', topology_name=name)
  except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
    raise ValueError(f'--topology={name}: {str(error).splitlines()[0]}') from error


def compiled(plan: planning.Plan, name: str) -> Compiled:
  """Compiles the plan's training step for a topology; takes minutes for many tables.

  Raises:
    ValueError: no such topology, tables on the host, or the compiler finds no room.
  """
  task = plan.task
  if any(x.where.split == 'host' for x in plan.lines):
    raise ValueError('--compile: a step with tables in the memory of the host is several programs.')
  found = topology(name).devices
  if len(found) != task.devices:
    raise ValueError(f'{name} has {len(found)} chips, --mesh has {task.devices} devices.')
  begun = time.monotonic()
  mesh = mesh_lib.make(task.mesh['data'], task.mesh['model'], found)
  cluster = planning.cluster(plan, mesh)
  program = mesh_lib.program(cluster, plan.model, task.recipe)
  columns = planning.columns(task, task.batch // task.devices)
  inputs = mesh_lib.batch_like(cluster, plan.model, task.recipe, columns)
  try:
    done = program.step.lower(program.like(), inputs).compile()
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(f'{name}: {str(error).splitlines()[0]}') from error
  memory = done.memory_analysis()
  return Compiled(
    memory.argument_size_in_bytes,
    memory.output_size_in_bytes,
    memory.alias_size_in_bytes,
    memory.temp_size_in_bytes,
    memory.generated_code_size_in_bytes,
    collectives(done.as_text()),
    time.monotonic() - begun,
  )


def collectives(text: str) -> dict[str, tuple[int, int]]:
  """Kind → (number, bytes of their results) of the collectives in a compiled program's text.

  One in a loop counts once.
  """
  found = dict.fromkeys(_KINDS, (0, 0))
  pattern = re.compile(rf'= (.*?) ({"|".join(_KINDS)})(?:-start)?\(')
  for line in text.splitlines():
    match = pattern.search(line)
    if match:
      count, nbytes = found[match[2]]
      found[match[2]] = count + 1, nbytes + _nbytes(match[1])
  return {kind: x for kind, x in found.items() if x[0]}


def _nbytes(shapes):
  total = 0
  for dtype, sizes in re.findall(r'(\w+)\[([\d,]*)\]', shapes):
    numbers = 1
    for size in filter(None, sizes.split(',')):
      numbers *= int(size)
    total += numbers * _BITS.get(dtype, 32) // 8
  return total
