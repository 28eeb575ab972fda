r"""What marking touched rows costs a training step, and how large and slow delta checkpoints are.

  python -m experiments.bench.delta_step --save_result
  python -m experiments.bench.delta_step --rows=100000 --rounds=3      # a quick look

The model of `experiments.bench.train_step`: 26 features of one id each with power-law frequencies,
dim 16, batch 4096, one small hidden layer, row-wise Adagrad. Steps with marks and without take
turns, and the ratios are of medians over the turns: of time, and of the process's time on the CPU,
which others do not disturb. Then so many steps are saved as a delta, and the whole as a full
checkpoint. Measured results are in
experiments/RESULTS.md.
"""

import pathlib
import statistics
import tempfile
import time
from typing import Any

from absl import flags

from ctr_jax.tables import rowwise, stack
from ctr_jax.train import checkpoint, touched
from experiments import common, report
from experiments.bench import train_step_models as bench

_ROWS = flags.DEFINE_list('rows', ['100000', '1000000', '10000000'], 'Rows of all tables.')
_ROUNDS = flags.DEFINE_integer('rounds', 9, 'Turns with marks and without.')
_STEPS = flags.DEFINE_integer('steps', 10, 'Steps in a turn.')
_SAVED = flags.DEFINE_integer('saved_steps', 20, 'Steps between two checkpoints.')
_FEATURES, _DIM, _UNITS, _BATCH = 26, 16, 32, 4096


def turns(ours: bench.Ours, inputs: list, marks: touched.Touched) -> dict[str, tuple]:
  """Medians of milliseconds per step, (time, CPU): plain, with marks, and of the marks alone."""

  def marked():
    for x in inputs:
      ours.train([x])
      marks.add(x)

  def plain():
    for x in inputs:
      ours.train([x])

  def alone():
    for x in inputs:
      marks.add(x)

  ways = {'plain': plain, 'marked': marked, 'marks': alone}
  plain()  # Compiles.
  found = {name: [] for name in ways}
  for _ in range(_ROUNDS.value):
    for name, run in ways.items():
      started = time.perf_counter(), time.process_time()
      run()
      ended = time.perf_counter(), time.process_time()
      found[name].append([1e3 * (b - a) / len(inputs) for a, b in zip(started, ended, strict=True)])
  return {name: tuple(map(statistics.median, zip(*ms, strict=True))) for name, ms in found.items()}


def saved(ours: bench.Ours, columns: list) -> dict[str, float]:
  """Bytes and seconds of a full checkpoint, and of a delta after the steps of some batches."""
  found = {}
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    checkpoints = checkpoint.Checkpoints(folder, ours.model, {}, deltas=9)

    def save(name):
      started = time.perf_counter()
      checkpoints.save('last', ours.state, {})
      checkpoints.wait()
      found[f'{name}_s'] = time.perf_counter() - started
      files = [p for p in folder.rglob('*') if p.is_file()]
      found[f'{name}_bytes'] = sum(p.stat().st_size for p in files)

    save('full')
    for name in ('first', 'delta'):  # The first one compiles its gathers.
      for x in map(ours.prepare, columns):
        ours.train([x])
        checkpoints.moved(x)
      before = found['full_bytes'] + found.get('first_bytes', 0)
      save(name)
      found[f'{name}_bytes'] -= before
    checkpoints.close()
  return found


def measure(rows: int) -> dict[str, float]:
  """All figures for so many rows, spread evenly over a table for each feature."""
  sizes = (max(rows // _FEATURES, 1),) * _FEATURES
  shape = bench.Shape(sizes, _FEATURES, _DIM, _UNITS, _BATCH)
  ours = bench.Ours(shape, stack.apart, rowwise.adagrad(0.05))
  columns = bench.power_law(shape, max(_STEPS.value, _SAVED.value))
  inputs = [ours.prepare(x) for x in columns[: _STEPS.value]]
  marks = touched.Touched(ours.model, ours.state.slots)
  found = {'rows': rows} | turns(ours, inputs, marks)
  return found | saved(ours, columns[: _SAVED.value])


def render(rows: list[dict[str, Any]]) -> str:
  cells = [
    (
      f'{x["rows"]:,}',
      f'{x["plain"][0]:.1f}',
      f'{x["marked"][0] / x["plain"][0]:.3f}',
      f'{x["marked"][1] / x["plain"][1]:.3f}',
      f'{x["marks"][1]:.2f}',
      *(
        text
        for name in ('full', 'delta')
        for text in (report.size(x[f'{name}_bytes']), f'{x[f"{name}_s"]:.2f}')
      ),
    )
    for x in rows
  ]
  header = (
    'rows', 'step, ms', 'with marks', 'its CPU', 'marks, CPU ms', 'full', 'seconds', 'delta',
    'seconds',
  )  # fmt: skip
  return report.table(header, cells)


def main() -> None:
  rows = []
  for i, count in enumerate(_ROWS.value):
    print(f'[{i + 1}/{len(_ROWS.value)}] {count} rows', flush=True)
    rows.append(measure(int(float(count))))
  table, where = render(rows), common.environment()
  caption = (
    f'{_FEATURES} features × dim {_DIM}, batch {_BATCH}; a delta after {_SAVED.value} steps; '
    f'medians of {_ROUNDS.value} interleaved turns of {_STEPS.value} steps; {where["device"]}, '
    f'{where["cpu_cores"]} cores, load average {where["load_average"]:.1f}, jax {where["jax"]}, '
    f'{where["date"]}. `{common.command("bench.delta_step")}`'
  )
  print(f'\n{table}\n\n{caption}')
  found = {
    'command': common.command('bench.delta_step'), 'environment': where, 'rows': rows,
    'table': table, 'caption': caption,
  }  # fmt: skip
  common.save_bench('delta_step', found)


if __name__ == '__main__':
  common.run(main)
