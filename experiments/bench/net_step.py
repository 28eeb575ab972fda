r"""Training throughput of a whole net on small tables: DCN by the BARS recipe for Frappe_x1.

  python -m experiments.bench.net_step
  python -m experiments.bench.net_step --rounds=3 --steps=8      # a quick look
  python -m experiments.bench.net_step --cores=1                 # on a busy machine

10 features × dim 10, MLP [400]*3 beside 3 cross layers, batch 4096, batch norm, dropout 0.2, dense
Adam over net and tables, L2 over whole tables, gradient clip. Contestants live in processes of
their own and take turns; ratios are of turns of the same round. Peers that are not installed
(`pip install ctr_jax[bench]`) are 'not measured'. On a busy machine use --cores=1 and compare CPU
times: with two, torch's threads burn them while they wait for a core that others have.

What was tried, with the prediction first; CPU time of a step on one core, ours in the end = 1.00:

- Threefry costs a third → mask by a counter hash: Flax's own layers 1.95 → 1.55.
- Batch norm's backward (strided column sums, stored masks) costs a third → hand-written backward
  that reads the masks off the output: only 1.55 → 1.45. XLA's column sums are fast (0.2-0.5 ms).
- The 40 ms that the backward could not account for were not arithmetic but the kernel's: XLA takes
  74 MB a step and frees them, glibc returns them, 18,000 page faults. Settings for malloc, or eight
  steps in one call (`lax.scan`), which share an allocation on every system: 1.45 → 1.14.
- Products by Eigen and not by YNNPACK: 1.14 → 1.00 (the products alone 0.90 → 0.78).
- No difference beyond the noise of ±3%: sums over the batch as products with ones, in two levels
  (variadic ones are ten times slower), E[x²] - mean², fewer stored arrays in the backward, Adam
  over one flat vector, neither Adam nor clip (2%), oneDNN, fast math, other
  schedulers, wider vectors.
- Tables are 2% of a step: ten gathers and a stack 1.0, concatenated along columns 0.85, one stacked
  array and one gather 0.55, products with one-hot rows for tiny tables 1.25.

So 78% of what is left are matrix products: on one core no step can be over 2.3 times torch's.
"""

import importlib.metadata
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
from absl import flags

from experiments import common, report
from experiments.bench import net_step_models as bench
from experiments.bench import net_step_peers as peers

_ROUNDS = flags.DEFINE_integer('rounds', 9, 'Turns of each contestant.')
_STEPS = flags.DEFINE_integer('steps', 16, 'Steps in a turn.')
_BATCH = flags.DEFINE_integer('batch', 4096, 'Samples per step.')
_CONTESTANTS = flags.DEFINE_list('contestants', [], 'Only these.')
_CORES = flags.DEFINE_integer(
  'cores',
  None,
  'Use only so many cores. With one, nobody spins while waiting, so that CPU times can be compared '
  'even on a machine that others use too.',
)
flags.declare_key_flag('save_result')
_WORKER = flags.DEFINE_string('worker', None, 'Used by the benchmark itself: whom to run.')

_STEPS_PER_CALL = 8


# XLA on the CPU hands most products and reductions to YNNPACK; at these sizes Eigen, which it has
# too, does the products faster. Other backends do not know the option.
_EIGEN = {'xla_cpu_experimental_ynn_fusion_type': ''}

# XLA takes the temporaries of a step (74 MB) from malloc and frees them after it. glibc returns
# such blocks to the system, so that each step pays 18,000 page faults; told not to, it keeps them.
_KEEP_PAGES = {
  'MALLOC_ARENA_MAX': '1',
  'MALLOC_MMAP_MAX_': '0',
  'MALLOC_TRIM_THRESHOLD_': str(1 << 32),
}


class Contestant(NamedTuple):
  build: Any
  environment: dict[str, str]
  options: dict[str, Any]


def contestants() -> dict[str, Contestant]:
  """By name; the first is what ratios refer to."""
  stock = {'net': bench.StockDCN(bench.Recipe())}
  many = {'steps_per_call': _STEPS_PER_CALL}
  eigen = {'options': _EIGEN}
  ours = f'ctr_jax, {_STEPS_PER_CALL} steps per call'
  return {
    'torch': Contestant(peers.torch_dcn, {}, {}),
    'torch, keeping its pages': Contestant(peers.torch_dcn, _KEEP_PAGES, {}),
    'deepctr-torch': Contestant(peers.deepctr_dcn, {}, {}),
    'Flax, its own layers': Contestant(bench.jax_dcn, {}, stock),
    'ctr_jax': Contestant(bench.jax_dcn, {}, {}),
    ours: Contestant(bench.jax_dcn, {}, many),
    f'{ours}, Eigen': Contestant(bench.jax_dcn, {}, many | eigen),
    'ctr_jax, keeping its pages': Contestant(bench.jax_dcn, _KEEP_PAGES, {}),
    'ctr_jax, keeping its pages, Eigen': Contestant(bench.jax_dcn, _KEEP_PAGES, eigen),
    'the matrix products alone': Contestant(bench.products, _KEEP_PAGES, {}),
    'the matrix products alone, Eigen': Contestant(bench.products, _KEEP_PAGES, eigen),
  }


def cores() -> int:
  """How many cores each contestant may use."""
  return _CORES.value or len(os.sched_getaffinity(0))


def work(name: str) -> None:
  """A contestant's process: reads numbers of steps, answers seconds and CPU seconds.

  A process of its own, so that no library's waiting threads and no allocator's settings meet
  another's.
  """
  if _CORES.value:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: _CORES.value])
  # The answers go where stdout went; what libraries print goes to stderr.
  answers = os.fdopen(os.dup(sys.stdout.fileno()), 'w')
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
  recipe = bench.Recipe(batch=_BATCH.value)
  contestant = contestants()[name]
  try:
    run = contestant.build(
      recipe, peers.random_batches(recipe, _STEPS_PER_CALL), **contestant.options
    )
  except ImportError:
    print('missing', file=answers, flush=True)
    return
  run(_STEPS_PER_CALL)
  print('ready', file=answers, flush=True)
  for line in sys.stdin:
    run(1)  # Wakes threads and caches that slept through the others' turns.
    wall, cpu = time.perf_counter(), time.process_time()
    run(int(line))
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    print(*seconds, file=answers, flush=True)


class Worker:
  """The process of one contestant, asleep between its turns."""

  def __init__(self, name: str, contestant: Contestant):
    flags_of_it = [f'--worker={name}', f'--batch={_BATCH.value}', f'--cores={cores()}']
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'experiments.bench.net_step', *flags_of_it],
      env=os.environ | contestant.environment,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      cwd=common.PROJECT,
    )
    word = self._process.stdout.readline().strip()
    if word not in ('ready', 'missing'):
      raise ValueError(f'{name} did not start: its process says so above.')
    self.installed = word == 'ready'

  def run(self, steps: int) -> tuple[float, float]:
    """(seconds, CPU seconds) per step."""
    self._process.stdin.write(f'{steps}\n')
    self._process.stdin.flush()
    wall, cpu = map(float, self._process.stdout.readline().split())
    return wall / steps, cpu / steps

  def close(self):
    self._process.stdin.close()
    self._process.wait()


def measure(rounds: int, steps: int) -> list[dict[str, Any]]:
  """Every contestant takes a turn in every round; ratios are of the same round."""
  chosen = contestants()
  if _CONTESTANTS.value:
    chosen = {name: c for name, c in chosen.items() if name in _CONTESTANTS.value}
  workers = {name: Worker(name, c) for name, c in chosen.items()}
  turns = {name: [] for name, worker in workers.items() if worker.installed}
  for _ in range(rounds):
    for name, found in turns.items():
      found.append(workers[name].run(steps))
  for worker in workers.values():
    worker.close()
  reference = turns.get('torch')
  return [line(name, turns.get(name), reference, _BATCH.value) for name in chosen]


def line(name, turns, reference, batch) -> dict[str, Any]:
  """One row of the table, from turns of (seconds, CPU seconds) per step."""
  if turns is None:
    return {'name': name, 'samples_per_second': None}
  walls, cpus = zip(*turns, strict=True)
  found = {
    'name': name,
    'samples_per_second': batch / statistics.median(walls),
    'best_samples_per_second': batch / min(walls),
    'cpu_ms_per_step': 1e3 * statistics.median(cpus),
    'seconds_per_step': walls,
    'cpu_seconds_per_step': cpus,
  }
  if reference:
    theirs_of = dict(zip(('wall', 'cpu'), zip(*reference, strict=True), strict=True))
    for key, here in (('wall', walls), ('cpu', cpus)):
      ratios = [theirs / ours for theirs, ours in zip(theirs_of[key], here, strict=True)]
      found[f'times_torch_{key}'] = statistics.median(ratios)
  return found


def render(found: dict[str, Any]) -> str:
  """A Markdown table: wall time (median, best turn, ratio), then CPU time and its ratio."""
  cells, reference = [], any('times_torch_wall' in row for row in found['rows'])
  for row in found['rows']:
    if row['samples_per_second'] is None:
      cells.append([row['name'], 'not measured', *[''] * 4])
      continue
    speeds = [f'{row[key] / 1e3:.1f}k' for key in ('samples_per_second', 'best_samples_per_second')]
    ratios = [f'{row[f"times_torch_{k}"]:.2f}×' if reference else '' for k in ('wall', 'cpu')]
    cells.append([row['name'], *speeds, ratios[0], f'{row["cpu_ms_per_step"]:.0f}', ratios[1]])
  header = ('training step', 'samples/s', 'best turn', 'of torch', 'CPU ms per step', 'of torch')
  return report.table(header, cells)


def _hardware() -> str:
  info = pathlib.Path('/proc/cpuinfo')
  lines = info.read_text().splitlines() if info.exists() else []
  named = [x.split(':', 1)[1].strip() for x in lines if x.startswith('model name')]
  return named[0] if named else jax.devices()[0].device_kind


def _versions() -> dict[str, str]:
  found = {}
  for name in ('torch', 'deepctr-torch'):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = 'not installed'
  return found


def caption(found: dict[str, Any]) -> str:
  """How the table was measured."""
  where = found['environment']
  recipe = found['recipe']
  versions = ', '.join(f'{name} {where[name]}' for name in ('jax', 'torch', 'deepctr-torch'))
  return (
    f'DCN, {len(recipe["rows"])} features × dim {recipe["dim"]}, MLP {list(recipe["hidden"])}, '
    f'{recipe["cross"]} cross layers, batch {recipe["batch"]}; medians of {found["rounds"]} '
    f'interleaved turns of {found["steps_per_turn"]} steps. {found["hardware"]}, '
    f'{found["cores"]} of {where["cpu_cores"]} cores, {versions}, {where["date"]}. '
    f'`{found["command"]}`'
  )


def main() -> None:
  if _WORKER.value:
    return work(_WORKER.value)
  found = {
    'experiment': 'bench.net_step',
    'command': common.command('bench.net_step'),
    'environment': common.environment() | _versions(),
    'recipe': bench.Recipe(batch=_BATCH.value)._asdict(),
    'hardware': _hardware(),
    'cores': cores(),
    'rounds': _ROUNDS.value,
    'steps_per_turn': _STEPS.value,
    'rows': measure(_ROUNDS.value, _STEPS.value),
  }
  found |= {'table': render(found), 'caption': caption(found)}
  print(f'{found["table"]}\n\n{found["caption"]}')
  common.save_bench('net_step', found)


if __name__ == '__main__':
  common.run(main)
