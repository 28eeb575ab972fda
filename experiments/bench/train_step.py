r"""How long a training step takes, and how much memory, as tables grow; beside other libraries.

  python -m experiments.bench.train_step
  python -m experiments.bench.train_step --rows=10000,1000000 --rounds=3      # a quick look

Every method trains the same model on the same batches: 26 features of one id each with power-law
frequencies, dim 16, batch 4096, one small hidden layer, so that the tables are what is measured.
All methods of one size live in one process and take turns; medians are over the turns. Peak memory
is that of a process of its own for each size. Libraries that are not installed are `not measured`.
"""

import gc
import importlib.metadata
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from absl import flags

from ctr_jax import models
from ctr_jax.tables import rowwise, stack
from experiments import common
from experiments.bench import train_step_models as bench
from experiments.bench import train_step_peers as peers
from experiments.bench import train_step_report as as_markdown

_ROWS = flags.DEFINE_list('rows', ['10000', '100000', '1000000', '10000000'], 'Rows of all tables.')
_HUGE = flags.DEFINE_bool('huge', False, 'Also 1e8 rows; needs about 8 GB.')
_TABLES = flags.DEFINE_list(
  'tables', ['26', '1'], 'Over how many tables the rows are spread; features share what there is.'
)
_DENSE_ROWS = flags.DEFINE_integer(
  'dense_rows', 1_000_000, 'Dense Adam, whose step grows with the tables, up to so many rows.'
)
_MODEL_ROWS = flags.DEFINE_integer('model_rows', 1_000_000, 'Rows of the whole models; 0 for none.')
_FEATURES = flags.DEFINE_integer('features', 26, 'Features, one id each.')
_DIM = flags.DEFINE_integer('dim', 16, 'Embedding dimension.')
_UNITS = flags.DEFINE_integer('units', 32, 'Units of the hidden layer.')
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Turns of each method.')
_STEPS = flags.DEFINE_integer('steps', 15, 'Steps in a turn.')
_MEMORY = flags.DEFINE_bool('memory', True, 'Measure peak memory too.')
flags.declare_key_flag('save_result')
_CHILD = flags.DEFINE_string(
  'child', None, 'Used by the benchmark itself: TABLES,ROWS,LAYOUT whose memory to measure.'
)

_LAYOUTS = {'apart': stack.apart, 'stacked': stack.stacked}
_DISTRIBUTIONS = {'torch': 'torch', 'fbgemm': 'fbgemm-gpu-cpu', 'deepctr': 'deepctr-torch'}


def shape_of(tables: int, rows: int) -> bench.Shape:
  """`rows` in all, spread evenly."""
  size = max(rows // tables, 1)
  return bench.Shape((size,) * tables, _FEATURES.value, _DIM.value, _UNITS.value, _batch())


def _batch() -> int:
  return common.BATCH_SIZE.value or 4096


class Method(NamedTuple):
  """What is timed: `run` over `items`, a list of batches as it wants them."""

  run: Callable[[list[Any]], None]
  items: list[Any]


def each(function: Callable[[Any], Any]) -> Callable[[list[Any]], None]:
  """`function` on one item after another."""

  def run(items):
    for item in items:
      function(item)

  return run


def _our_methods(shape, columns, rows) -> dict[str, Method]:
  layouts = ['apart']
  if len(shape.sizes) > 1 and rows <= 20_000_000:
    layouts.append('stacked')
  methods = {}
  for name in layouts:
    ours = bench.Ours(shape, _LAYOUTS[name], rowwise.adagrad(0.05))
    title = f'{as_markdown.OURS}, {name}' if len(layouts) > 1 else as_markdown.OURS
    methods[title] = Method(ours.pipeline, columns)
    methods[f'… its step alone ({name})'] = Method(ours.train, [ours.prepare(x) for x in columns])
    methods[f'… its host work alone ({name})'] = Method(each(ours.prepare), columns)
  if rows <= _DENSE_ROWS.value:
    dense = bench.Ours(shape, stack.apart, None)
    methods['ctr_jax, dense Adam'] = Method(dense.pipeline, columns)
  return methods


def _peer(build, shape, columns) -> Method | None:
  try:
    prepare, step = build(shape)
  except ImportError:
    return None
  return Method(each(step), [prepare(x) for x in columns])


def methods_of(shape: bench.Shape, rows: int, columns) -> dict[str, Method | None]:
  """Name → what to time; None for a library that is not installed."""
  methods: dict[str, Method | None] = dict(_our_methods(shape, columns, rows))
  if rows <= _DENSE_ROWS.value:
    methods['torch, dense Adam'] = _peer(peers.torch_dense_adam, shape, columns)
  if rows <= 20_000_000:
    methods['torch, sparse Adagrad'] = _peer(peers.torch_sparse_adagrad, shape, columns)
    methods['FBGEMM on CPU, row-wise Adagrad'] = _peer(peers.fbgemm, shape, columns)
  return methods


def timed(methods: dict[str, Method | None]) -> dict[str, list[float] | None]:
  """Milliseconds per step of every turn; methods take turns, so that all see the same machine."""
  found = {name: None if method is None else [] for name, method in methods.items()}
  present = {name: method for name, method in methods.items() if method is not None}
  for method in present.values():  # Compiles, and touches the memory.
    method.run(method.items[:2])
  for _ in range(_ROUNDS.value):
    for name, (run, items) in present.items():
      started = time.perf_counter()
      run(items)
      found[name].append(1e3 * (time.perf_counter() - started) / len(items))
  return found


def _line(kind, tables, rows, turns, **more):
  return [
    {
      'section': kind, 'tables': tables, 'rows': rows, 'method': name, **more,
      'ms': None if ms is None else statistics.median(ms), 'turns_ms': ms,
    }
    for name, ms in turns.items()
  ]  # fmt: skip


def measure_steps(tables: int, rows: int) -> list[dict[str, Any]]:
  """Step times of all methods at one size."""
  shape = shape_of(tables, rows)
  columns = bench.power_law(shape, _STEPS.value)
  distinct = [bench.distinct_rows(shape, x) for x in columns]
  turns = timed(methods_of(shape, rows, columns))
  return _line('tables', tables, rows, turns, distinct_rows=statistics.fmean(distinct))


def measure_models(rows: int) -> list[dict[str, Any]]:
  """A whole DCN (2 cross layers, 128-128): ours beside deepctr-torch's at its own defaults."""
  shape = shape_of(_FEATURES.value, rows)
  columns = bench.power_law(shape, _STEPS.value)
  net = models.NETS['dcn'](hidden=(128, 128), dropout=0.0, batch_norm=False, cross_layers=2)
  ours = bench.Ours(shape, stack.apart, rowwise.adagrad(0.05), net)
  methods = {
    f'{as_markdown.OURS}, Adam for the net': Method(ours.pipeline, columns),
    'deepctr-torch, its defaults': _peer(peers.deepctr_dcn, shape, columns),
  }
  return _line('model', _FEATURES.value, rows, timed(methods))


def child(tables: int, rows: int, layout: str) -> dict[str, Any]:
  """Makes a model, trains a few steps; run in a process of its own, whose peak memory it says."""
  shape = shape_of(tables, rows)
  before = _peak()
  ours = bench.Ours(shape, _LAYOUTS[layout], rowwise.adagrad(0.05))
  made = _peak()
  ours.pipeline(bench.power_law(shape, 5))
  return {
    'tables': tables, 'rows': rows, 'layout': layout, 'bytes': ours.nbytes,
    'imports_peak': before, 'made_peak': made, 'peak': _peak(),
  }  # fmt: skip


def _peak() -> int:
  """The largest resident set of this process so far, in bytes.

  From /proc where there is one: ru_maxrss of a child starts at that of its parent.
  """
  status = pathlib.Path('/proc/self/status')
  if status.exists():
    line = next(x for x in status.read_text().splitlines() if x.startswith('VmHWM'))
    return 1024 * int(line.split()[1])
  import resource

  unit = 1 if sys.platform == 'darwin' else 1024
  return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure_memory(tables: int, rows: int, layout: str) -> dict[str, Any]:
  """`child` in a fresh process, against 1.25 × (tables + optimizer state) + 600 MB."""
  shape = [f'--{flag.name}={flag.value}' for flag in (_FEATURES, _DIM, _UNITS)]
  shape.append(f'--batch_size={_batch()}')
  command = [sys.executable, '-m', 'experiments.bench.train_step']
  done = subprocess.run(
    [*command, f'--child={tables},{rows},{layout}', *shape],
    cwd=common.PROJECT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ['killed, likely for memory'])[-1]
    return {'tables': tables, 'rows': rows, 'layout': layout, 'error': last}
  found = json.loads(done.stdout.splitlines()[-1])
  found['limit'] = int(1.25 * found['bytes'] + 600e6)
  return found | {'within': found['peak'] <= found['limit']}


def flatness(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Step time at the most rows over that at the fewest, for every row-sparse method."""
  by_method: dict[Any, list[dict[str, Any]]] = {}
  for x in steps:
    if x['section'] == 'tables' and x['ms'] is not None:
      by_method.setdefault((x['tables'], x['method']), []).append(x)
  return [
    {
      'tables': tables, 'method': method, 'from': xs[0]['rows'], 'to': xs[-1]['rows'],
      'ratio': xs[-1]['ms'] / xs[0]['ms'],
    }
    for (tables, method), xs in by_method.items() if len(xs) > 1
  ]  # fmt: skip


def _versions() -> dict[str, str]:
  found = {}
  for name, distribution in _DISTRIBUTIONS.items():
    try:
      found[name] = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
      found[name] = as_markdown.NOT_MEASURED
  return found


def _hardware() -> str:
  info = pathlib.Path('/proc/cpuinfo')
  lines = info.read_text().splitlines() if info.exists() else []
  named = [x.split(':', 1)[1].strip() for x in lines if x.startswith('model name')]
  return named[0] if named else jax.devices()[0].device_kind


def _command() -> str:
  words = common.command('bench.train_step').split()
  return ' '.join(word for word in words if not word.startswith('--result'))


def caption(found: dict[str, Any]) -> str:
  """How the table was measured, in a line."""
  where = found['environment']
  others = ', '.join(f'{name} {version}' for name, version in found['peers'].items())
  return (
    f'Batch {found["batch"]}, {found["features"]} features of dim {found["dim"]}, power-law ids; '
    f'medians of {found["rounds"]} interleaved turns of {found["steps_per_turn"]} steps; ratios '
    'are to the first line, whose host work is included (other libraries get their tensors ready '
    f'made). {found["hardware"]}, {where["cpu_cores"]} cores, device {where["device"]}, '
    f'jax {where["jax"]}, {others}, {where["date"]}. `{found["command"]}`'
  )


def main() -> None:
  if _CHILD.value:
    tables, rows, layout = _CHILD.value.split(',')
    print(json.dumps(child(int(tables), int(rows), layout)))
    return
  sizes = [int(float(x)) for x in _ROWS.value] + [10**8] * _HUGE.value
  tables = [int(x) for x in _TABLES.value]
  found: dict[str, Any] = {
    'command': _command(), 'environment': common.environment(),
    'hardware': _hardware(), 'peers': _versions(), 'batch': _batch(),
    'features': _FEATURES.value, 'dim': _DIM.value, 'rounds': _ROUNDS.value,
    'steps_per_turn': _STEPS.value, 'memory': [], 'steps': [],
  }  # fmt: skip
  for n in tables if _MEMORY.value else ():
    for layout in ('apart', 'stacked') if n > 1 else ('apart',):
      found['memory'] += [measure_memory(n, rows, layout) for rows in sizes]
      print(as_markdown.memory_table(found['memory'][-len(sizes) :]), '\n', flush=True)
  for n in tables:
    for rows in sizes:
      found['steps'] += (lines := measure_steps(n, rows))
      gc.collect()  # The next size needs the room.
      print(as_markdown.step_table(lines), '\n', flush=True)
  if _MODEL_ROWS.value:
    found['steps'] += measure_models(_MODEL_ROWS.value)
  found['flatness'] = flatness(found['steps'])
  found |= {'table': as_markdown.render(found), 'caption': caption(found)}
  print(f'{found["table"]}\n\n{found["caption"]}')
  common.save_bench('train_step', found)


if __name__ == '__main__':
  common.run(main)
