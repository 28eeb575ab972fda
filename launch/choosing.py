"""Which placement each stored array gets, under a memory limit, and why.

Every array begins as is fastest by the cost model (launch/costs.py): a copy on every device, its
rows dealt over the axis `model`, or over all devices. While a device has too little room, the array
that saves most bytes for a second that it adds is split further. If all are and there is still no
room, and one host has all devices, the large tables keep their hottest rows on the devices, each
the same share, and the others in its memory (`compress.partition`, `placement.host`).

Nothing is allocated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from ctr_jax import compress, predict
from ctr_jax.tables import placement
from ctr_jax.train import state as state_lib
from experiments import report
from launch import costs
from launch.planning import Line, Plan, Task, activations, columns

CHOICES = {
  'replicated': placement.replicated(),
  'rows:model': placement.rows('model', least=1),
  'rows:data+model': placement.rows(placement.AXES, least=1),
}
_ROUGH = 1 << 14  # Hottest rows are counted in steps of so many.


def plan(task: Task) -> Plan:
  """Places every array.

  Raises:
    ValueError: it cannot fit, with what would help.
  """
  share = task.batch // task.devices
  if share * task.devices != task.batch or share < 1:
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
  model = task.build(_layout(task.placements))
  tables = {n: model.layout.arrays[n].struct for n in state_lib.dense(model, task.recipe)}

  def opt(params):
    return task.recipe.tx.init({'net': params, 'tables': tables})

  return costs.net(model, opt, task.device, task.batch // task.devices)


def _layout(rules: placement.Rules):
  """For `Task.build`: the layout of a cluster with these placements, all else copied."""
  rules = (*rules, ('.*', placement.replicated()))
  return lambda plan: placement.dealt(plan, rules)


class _Choices:
  """What every array may be, what it is, and what that costs."""

  def __init__(self, task: Task, net: costs.Net):
    self.task, self.net = task, net
    self.model = task.build(_layout(()))
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
    if given is None:
      wanted = {k: x for k, x in CHOICES.items() if self.evenly(x)}
      if self.task.mesh['model'] == 1:
        wanted.pop('rows:model')
    for label, where in wanted.items():
      where = placement.of(name, leaf, [('.*', where)])
      found[label] = (where, self.cost(name, leaf, where))
      if not leaf.by_row:
        break
    return found

  def evenly(self, where: placement.Placement) -> bool:
    """Whether the devices that it is split over can share the lanes of rows evenly."""
    parts = math.prod(self.task.mesh[axis] for axis in where.over)
    return placement.LANES % parts == 0

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
  """The task with the tails of its large tables in the host's memory, the same share of each."""
  task, arrays, over = chosen.task, chosen.model.layout.arrays, chosen.total() - chosen.task.limit
  _refuse(chosen)
  free = (n for n in arrays if n in task.rows and 'given' not in chosen.options[n])
  large = [n for n in free if chosen.held(n) > task.limit // 100]
  # The tails' rows of a batch come to the devices: they need room too.
  room = sum(chosen.cost(n, arrays[n], placement.host()).buffers for n in large)
  kept = 1 - (over + room) / max(1, sum(map(chosen.held, large)))
  rules, placements = list(task.rules), list(task.placements)
  for name in large:
    hot, pattern = int(arrays[name].rows * kept) // _ROUGH * _ROUGH, re.escape(name)
    if hot > 0:
      own = compress.match(name, rules)
      rules.insert(0, (pattern, compress.partition((0, hot), (own, own))))
      pattern += '/part_1.*'
    placements.insert(0, (pattern, placement.host()))
  return task._replace(rules=tuple(rules), placements=tuple(placements))


def _refuse(chosen):
  """Raises, unless the host may take what finds no room."""
  task, short = chosen.task, report.size(chosen.total())
  need = -(-task.devices * chosen.total() // task.limit)
  far = f'over all {task.devices}'
  if not chosen.evenly(CHOICES['rows:data+model']):
    far = f'as far as {task.devices} devices can share {placement.LANES} lanes evenly'
  sentence = (
    f'A device would hold {short} with every table split {far}, and may hold '
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
    _refuse(chosen)
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
