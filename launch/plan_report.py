"""A plan as people read it: tables, devices, what moves, and the time of a step."""

from __future__ import annotations

from ctr_jax import compress
from experiments import report
from launch import ahead, planning


def text(plan: planning.Plan) -> str:
  """The whole plan."""
  return '\n\n'.join((_tables(plan), _devices(plan), _moves(plan), _step(plan), _flags(plan)))


def _tables(plan):
  """A line for each table; for each of its arrays, where a technique stores several."""
  rows = []
  for x in plan.lines:
    stored = f'{x.leaf.dtype.__name__ if isinstance(x.leaf.dtype, type) else x.leaf.dtype}'
    shape = '×'.join(f'{n:,}' for n in x.leaf.shape)
    rows.append((x.name, shape, stored, report.size(x.leaf.nbytes), where(x), x.why))
  parameters = sum(x.leaf.size for x in plan.lines)
  header = ('table', 'rows × columns', 'type', 'stored', 'placement', 'why')
  return (
    f'{plan.task.schema.name}: {parameters:,} parameters in tables, '
    f'{report.size(sum(x.leaf.nbytes for x in plan.lines))}\n\n{report.table(header, rows)}'
  )


def where(line: planning.Line) -> str:
  """A placement as `--placement` says it."""
  split, over, _ = line.where
  if split == 'nothing':
    return 'replicated'
  return split if split == 'host' or over == ('model',) else f'{split}:{"+".join(over)}'


def _devices(plan):
  task, net = plan.task, plan.net
  parts = (
    ('tables', plan.tables, 'exact'),
    ('optimizer state of tables', plan.slots, 'exact'),
    ('net', net.params, 'exact'),
    ('optimizer state of the net', net.opt, 'exact'),
    ('padding of the layout', plan.padding, 'launch/layouts.py' if task.device.tiled else ''),
    ('activations and rows on their way', plan.activations, 'estimate'),
  )
  rows = [(name, report.size(x), f'{x:,}', note) for name, x, note in parts]
  share = plan.total / task.limit
  rows.append(('total', report.size(plan.total), f'{plan.total:,}', f'{share:.1%} of the limit'))
  if plan.host:
    part = plan.host / task.host_limit
    rows.append(('memory of the host', report.size(plan.host), f'{plan.host:,}', f'{part:.1%}'))
  header = (f'each of {task.devices} × {task.device.name}', 'size', 'bytes', '')
  return (
    f'{report.table(header, rows)}\n\nEvery device holds as much: rows are dealt evenly. The limit '
    f'is {report.size(task.limit)} a device.'
  )


def _moves(plan):
  task, kinds = plan.task, {}
  for _, move in plan.moves():
    key = move.kind, move.over
    times, nbytes, seconds = kinds.get(key, (0, 0, 0.0))
    kinds[key] = times + move.times, nbytes + move.nbytes, seconds + move.seconds(task.device)
  rows = [
    (kind, over, times, report.size(nbytes), _time(seconds))
    for (kind, over), (times, nbytes, seconds) in sorted(kinds.items())
  ]
  header = ('collective', 'devices', 'times a step', 'bytes of a device', 'time')
  return report.table(header, rows) if rows else 'One device: nothing moves between devices.'


def _step(plan):
  terms, device = plan.terms(), plan.task.device
  notes = {
    'tables': f'{report.size(sum(x.cost.touched for x in plan.lines))} of memory lines',
    'net': f'{plan.net.products / 1e9:.3g} GFLOP, {report.size(plan.net.touched)} of memory',
    'exchange': 'all collectives, one after another',
    'host': f'{report.size(sum(x.cost.linked for x in plan.lines))} there and back',
  }
  total = sum(terms.values())
  rows = [(name, _time(x), f'{x / total:.0%}', notes[name]) for name, x in terms.items() if x]
  rows.append(('step', _time(total), '', f'{plan.task.batch / total / 1e6:.3g}M samples a second'))
  speeds = (
    f'{device.name}: {device.bandwidth / 1e9:.4g} GB/s of memory, {device.products / 1e12:.4g} '
    f'TFLOP/s, links of {device.link / 1e9:.4g} GB/s (launch/devices.py)'
  )
  return (
    f'{report.table(("expected", "time", "share", "of"), rows)}\n\n{speeds}. Terms add up, see '
    'launch/costs.py; launching and sorting are not in them.'
  )


def _time(seconds):
  return f'{seconds * 1e6:.1f} µs' if seconds < 1e-3 else f'{seconds * 1e3:.3g} ms'


def _flags(plan):
  """What an experiment is started with."""
  mesh = plan.task.mesh
  placed = ','.join(f'{x.name}={where(x)}' for x in plan.lines if x.leaf.by_row)
  stored = {t: str(compress.match(t, plan.task.rules)) for t in plan.task.rows}
  rules = [f"  ('{t}', {how})" for t, how in stored.items() if how != 'identity()']
  words = f'Train with: --mesh={mesh["data"]}x{mesh["model"]} --placement={placed}'
  return '\n'.join([words, *(['and the rules'] if rules else []), *rules])


def beside(plan: planning.Plan, found: ahead.Compiled, name: str) -> str:
  """The estimate beside what the compiler says."""
  lasting = plan.total - plan.activations
  rows = [
    _row('what lasts (arguments)', lasting, found.arguments),
    _row('temporary', plan.activations, found.temporary + found.outputs - found.aliased),
    _row('total', plan.total, found.total),
  ]
  own: dict[str, tuple[int, int]] = {}
  for _, move in plan.moves():
    count, nbytes = own.get(move.kind, (0, 0))
    own[move.kind] = count + move.times, nbytes + move.nbytes
  kinds = []
  for kind in sorted({*own, *found.collectives}):
    (count, nbytes), (seen, there) = own.get(kind, (0, 0)), found.collectives.get(kind, (0, 0))
    kinds.append((kind, count, seen, report.size(nbytes), report.size(there)))
  memory = report.table((name, 'estimate', 'compiler', 'estimate / compiler'), rows)
  moved = report.table(('collective', 'times', 'compiler', 'bytes', 'compiler'), kinds)
  return (
    f'{memory}\n\n{moved}\n\nCompiled in {found.seconds:.0f} s; the program takes '
    f'{report.size(found.code)} beside. Further all-reduces are of scalars and of batch '
    'statistics; what stands in a loop counts once.'
  )


def _row(name, mine, other):
  return name, f'{mine:,}', f'{other:,}', f'{mine / other:.4f}' if other else '–'
