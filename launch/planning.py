"""Which placement each stored array gets, under a memory limit, and why.

Every array begins as is fastest by the cost model (launch/costs.py): a copy on every device, its
rows dealt over the axis `model`, or over all devices. While a device has too little room, the array
that saves most bytes for a second that it adds is split further. If all are and there is still no
room, and one host has all devices, the largest tables keep their hottest rows on the devices and
the others in its memory (`compress.partition`, `placement.host`). Nothing is allocated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ctr_jax import compress, predict
from ctr_jax.data import schema as schema_lib
from ctr_jax.tables import leaf as leaf_lib
from ctr_jax.tables import placement
from ctr_jax.train import mesh as mesh_lib
from ctr_jax.train import state as state_lib
from experiments import report
from launch import costs
from launch import devices as devices_lib

_BOTH = placement.rows(placement.AXES, least=1)
CHOICES = {
  'replicated': placement.replicated(),
  'rows:model': placement.rows('model', least=1),
  'rows:data+model': _BOTH,
}
_ROUGH = 1 << 14  # Hottest rows are counted in steps of so many.


class Task(NamedTuple):
  """What is planned.

  Attributes:
    schema: of a sample.
    rows: table → rows.
    net: a Flax module.
    dim: embedding dimension.
    recipe: how it learns.
    batch: samples of a step, of all devices.
    mesh: axis → devices.
    device: what the devices are.
    limit: bytes that a device may hold.
    host_limit: bytes of tables that a host may hold.
    rules: techniques by table.
    placements: by array, before any that is chosen.
    slack: of the buckets.
  """

  schema: schema_lib.Schema
  rows: Mapping[str, int]
  net: Any
  dim: int
  recipe: state_lib.Recipe
  batch: int
  mesh: Mapping[str, int]
  device: devices_lib.Device
  limit: int
  host_limit: int
  rules: compress.Rules = (('.*', compress.identity()),)
  placements: placement.Rules = ()
  slack: float = 1.25

  @property
  def devices(self) -> int:
    return self.mesh['data'] * self.mesh['model']

  def build(self, layout) -> predict.Model:
    return predict.build(self.schema, self.rows, self.rules, self.net, self.dim, layout=layout)


class Line(NamedTuple):
  """One stored array of a plan.

  Attributes:
    name: of the array.
    leaf: as it is stored, without the rows that fill hands.
    where: its placement.
    cost: of a device.
    why: it lies there, in words.
  """

  name: str
  leaf: leaf_lib.Leaf
  where: placement.Placement
  cost: costs.Cost
  why: str


class Plan(NamedTuple):
  """A placement for every array, and what they come to.

  Attributes:
    task: with the rules that the plan needs.
    model: what is trained.
    placements: rules that place it.
    lines: by array.
    net: cost of the net.
  """

  task: Task
  model: predict.Model
  placements: placement.Rules
  lines: tuple[Line, ...]
  net: costs.Net

  @property
  def tables(self) -> int:
    """Bytes of tables on a device."""
    return sum(x.cost.table for x in self.lines)

  @property
  def slots(self) -> int:
    """Bytes of the row optimizer's state on a device."""
    return sum(x.cost.slots for x in self.lines)

  @property
  def padding(self) -> int:
    """Bytes that the device's layout adds to all that lasts."""
    net = self.net.held - self.net.params - self.net.opt
    return net + sum(x.cost.held - x.cost.table - x.cost.slots for x in self.lines)

  @property
  def activations(self) -> int:
    """Bytes of a step's own: see `activations`."""
    return activations(self.task, self.net, [x.cost for x in self.lines])

  @property
  def total(self) -> int:
    """Bytes of a device."""
    lasting = self.tables + self.slots + self.net.params + self.net.opt + self.padding
    return lasting + self.activations

  @property
  def host(self) -> int:
    """Bytes of tables and their state in the host's memory."""
    return sum(x.cost.host for x in self.lines)

  def moves(self) -> list[tuple[str, costs.Move]]:
    """(what of, collective) of a step."""
    found = [(line.name, move) for line in self.lines for move in line.cost.moves]
    return found + [('net', move) for move in self.net.moves(self.task.devices)]

  def terms(self) -> dict[str, float]:
    """Seconds of a step by term; they add up to the expected time (launch/costs.py)."""
    device = self.task.device
    touched = sum(x.cost.touched for x in self.lines)
    net = max(self.net.products / device.products, self.net.touched / device.bandwidth)
    return {
      'tables': touched / device.bandwidth,
      'net': net,
      'exchange': sum(move.seconds(device) for _, move in self.moves()),
      'host': sum(x.cost.linked for x in self.lines) / device.host_link,
    }


def activations(task: Task, net: costs.Net, arrays) -> int:
  """Bytes that a device needs during a step and not after it.

  What the net keeps for its backward pass, its vectors and their gradients, the gradients of its
  parameters, and rows on their way; what fits the fast memory beside the large one is kept there.
  """
  needed = net.kept + net.gradients + sum(x.buffers for x in arrays)
  return max(0, needed - task.device.fast)


def columns(task: Task, batch: int) -> dict[str, np.ndarray]:
  """A batch of so many samples, of which only shapes matter."""
  found = {'label': np.zeros(batch, np.float32)}
  for feature in task.schema.features:
    shape = (batch, feature.width) if feature.kind == 'ids' else (batch,)
    found[feature.name] = np.zeros(shape, np.float32 if feature.kind == 'numeric' else np.int32)
  return found


def plan(task: Task) -> Plan:
  """Places every array.

  Raises:
    ValueError: it cannot fit, with what would help.
  """
  share = task.batch // task.devices
  if share * task.devices != task.batch or not share:
    raise ValueError(
      f'--batch_size={task.batch} cannot be split over {task.devices} devices: use a multiple.'
    )
  wide = [f.name for f in task.schema.features if f.kind == 'ids' and not f.width]
  if wide:
    raise ValueError(
      f'{wide}: say in the schema how many elements are kept of them, as width = 20.'
    )
  net = _net(task)
  chosen = _Choices(task, net)
  chosen.fastest()
  if not chosen.shrink():
    task = _hot(chosen)
    chosen = _Choices(task, net)
    chosen.fastest()
    chosen.shrink()
  return _conclude(task, chosen, net)


def _net(task):
  model = task.build(compress_layout(task, task.placements))
  tables = {n: model.layout.arrays[n].struct for n in state_lib.dense(model, task.recipe)}

  def opt(params):
    return task.recipe.tx.init({'net': params, 'tables': tables})

  return costs.net(model, opt, task.device, task.batch // task.devices)


def compress_layout(task: Task, rules: placement.Rules):
  """For `Task.build`: the layout that a cluster with these placements has."""
  rules = (*rules, ('.*', placement.replicated()))
  return lambda plan: placement.dealt(plan, rules)


class _Choices:
  """What every array may be, what it is, and what that costs."""

  def __init__(self, task: Task, net: costs.Net):
    self.task, self.net = task, net
    self.model = task.build(compress_layout(task, ()))
    self.trained = set(state_lib.by_rows(self.model, task.recipe))
    index, _ = predict.inputs(self.model, columns(task, task.batch // task.devices))
    self.reads = {path: x.size for path, x in index.items()}
    self.options = {n: self._options(n) for n in self.model.layout.arrays}
    self.now: dict[str, str] = {}

  def _options(self, name):
    """Name of a choice → (placement, cost), of those that an array can have."""
    leaf, found = self.model.layout.arrays[name], {}
    given = next((x for p, x in self.task.placements if re.fullmatch(p, name)), None)
    wanted = CHOICES if given is None else {'given': given}
    if given is None and self.task.mesh['model'] == 1:
      wanted = {k: x for k, x in CHOICES.items() if k != 'rows:model'}
    for label, where in wanted.items():
      where = placement.of(name, leaf, [('.*', where)])
      found[label] = (where, self.cost(name, leaf, where))
      if not leaf.by_row:
        break
    return found

  def cost(self, name, leaf, where) -> costs.Cost:
    task, rules = self.task, [('.*', where)]
    slots = task.recipe.rows.slots if task.recipe.rows and name in self.trained else None
    reads = self.reads.get(name, 0)
    if where.split == 'host':
      found = slots(leaf) if slots else None
      return costs.on_host(leaf, found, reads, task.device, task.devices, task.slack)
    layout = placement.dealt({name: leaf}, rules)
    lie = placement.lies(layout, rules, task.mesh)[name]
    leaf = layout.arrays[name]
    found = slots(leaf) if slots else None
    return costs.array(leaf, found, lie, reads, task.device, task.devices, task.slack)

  def fastest(self):
    for name, options in self.options.items():
      self.now[name] = min(options, key=lambda x: options[x][1].seconds(self.task.device))

  def held(self, name, label=None) -> int:
    return self.options[name][label or self.now[name]][1].held

  def total(self, changed: Mapping[str, str] | None = None) -> int:
    """Bytes of a device, as it is or with some arrays lying as `changed` says."""
    now = self.now | (changed or {})
    arrays = [self.options[n][label][1] for n, label in now.items()]
    return self.net.held + activations(self.task, self.net, arrays) + sum(x.held for x in arrays)

  def shrink(self) -> bool:
    """Splits arrays until a device has room for all; whether it has."""
    while (total := self.total()) > self.task.limit:
      best, gain = None, 0.0
      for name, options in self.options.items():
        before = options[self.now[name]][1].seconds(self.task.device)
        for label, (_, cost) in options.items():
          saved = total - self.total({name: label})
          slower = max(cost.seconds(self.task.device) - before, 1e-9)
          if saved > 0 and saved / slower > gain:
            best, gain = (name, label), saved / slower
      if best is None:
        return False
      self.now[best[0]] = best[1]
    return True


def _hot(chosen: _Choices) -> Task:
  """The task with the tails of its largest tables in the host's memory."""
  task, lines = chosen.task, chosen.model.layout.arrays
  over = chosen.total() - task.limit
  _refuse(chosen, over)
  rules, placements = list(task.rules), list(task.placements)
  by_size = sorted((n for n in lines if n in task.rows), key=chosen.held, reverse=True)
  for name in by_size:
    if over <= 0:
      break
    held, leaf = chosen.held(name), lines[name]
    # The tail's rows of a batch come to the devices: they need room too.
    tail = chosen.cost(name, leaf, placement.host()).buffers
    keep = max(0, held - over - tail)
    hot = int(leaf.rows * keep / held) // _ROUGH * _ROUGH
    own = compress.match(name, rules)
    if hot:
      rules.insert(0, (re.escape(name), compress.partition((0, hot), (own, own))))
    placements.insert(0, (re.escape(f'{name}/part_1' if hot else name) + '.*', placement.host()))
    over -= held - held * hot // leaf.rows - tail
  task = task._replace(rules=tuple(rules), placements=tuple(placements))
  return task


def _refuse(chosen, over):
  task, short = chosen.task, report.size(chosen.total())
  need = -(-task.devices * chosen.total() // task.limit)
  sentence = (
    f'A device would hold {short} with every table split over all {task.devices}, and may hold '
    f'{report.size(task.limit)}. It fits about {need:,} of them; or store shorter values '
    "(--rules '.*=cast(bfloat16, stochastic)'), fewer rows (hash_trick), or use a smaller batch."
  )
  if task.devices > task.device.hosted:
    raise ValueError(
      f'{sentence} Tables in the memory of a host need all devices on one, and a host of '
      f'{task.device.name} has {task.device.hosted}.'
    )
  if task.recipe.rows is None:
    raise ValueError(f'{sentence} Tables in the memory of a host need a row optimizer.')


def _conclude(task, chosen, net):
  total = chosen.total()
  lines = []
  for name, options in chosen.options.items():
    where, cost = options[chosen.now[name]]
    why = _why(chosen, name)
    lines.append(Line(name, chosen.model.layout.leaves[name], where, cost, why))
  host = sum(x.cost.host for x in lines)
  if total > task.limit:
    _refuse(chosen, total - task.limit)
    raise ValueError(
      f'A device would hold {report.size(total)} with the large tables in the memory of the host, '
      f'and may hold {report.size(task.limit)}: use a smaller batch or a smaller net.'
    )
  if host > task.host_limit:
    raise ValueError(
      f'The tables that do not fit the devices take {report.size(host)} of the host, which has '
      f'{report.size(task.host_limit)} for them. Use more devices, or shorter values (--rules).'
    )
  rules = tuple((re.escape(x.name), x.where) for x in lines if x.leaf.by_row)
  rules = (*rules, ('.*', placement.replicated()))
  model = task.build(lambda plan: placement.dealt(plan, rules))
  return Plan(task, model, rules, tuple(lines), net)


def cluster(plan: Plan, mesh) -> mesh_lib.Cluster:
  """What trains the plan's model on a mesh of devices."""
  return mesh_lib.Cluster(mesh, plan.placements, slack=plan.task.slack)


def _why(chosen, name) -> str:
  """In words, from the costs of the alternatives."""
  options, label, device = chosen.options[name], chosen.now[name], chosen.task.device
  where, cost = options[label]
  if where.split == 'host':
    return f"{report.size(cost.host)} in the host's memory; devices see the rows of a batch"
  if len(options) == 1:
    return 'read whole' if not chosen.model.layout.arrays[name].by_row else 'as --placement says'
  rival = min((x for x in options if x != label), key=lambda x: options[x][1].seconds(device))
  mine, other = (options[x][1].seconds(device) * 1e6 for x in (label, rival))
  if mine <= other:
    return f'{mine:.1f} µs a step, {rival} {other:.1f} µs'
  saved = options[rival][1].held - cost.held
  return f'leaves {report.size(saved)} a device; {rival} would take {other:.1f} µs, not {mine:.1f}'
