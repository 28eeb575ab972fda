r"""A table of 1e8 rows × 16: its step beside a small table's, on the device and on the host.

  python -m experiments.bench.huge_table            # needs about 16 GB
  python -m experiments.bench.huge_table --rows=1000000

Three models take turns in one process: 1e4 rows; 1e8 rows on the device; 1e8 rows of which the
first million (the most frequent ids) lie on the device and the others on the host. All see batches
of the same shape with the same number of distinct ids, so that only the table's size differs. At
the end the last two have taken the same steps, and every number of their tables, and of their
optimizer's state, is compared.
"""

import statistics
import time
from typing import Any

import jax
import numpy as np
import optax
from absl import flags

from ctr_jax import compress, models, predict
from ctr_jax.data import batches, schema
from ctr_jax.tables import placement, rowwise
from ctr_jax.train import hosted, loop
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib
from experiments import common, report

_ROWS = flags.DEFINE_integer('rows', 10**8, 'Rows of the large table.')
_SMALL = flags.DEFINE_integer('small_rows', 10**4, 'Rows of the small one.')
_HOT = flags.DEFINE_float('hot', 0.01, 'The part of the rows that stay on the device.')
_FEATURES = flags.DEFINE_integer('features', 4, 'Features that read the table.')
_DIM = flags.DEFINE_integer('dim', 16, 'Embedding dimension.')
_DISTINCT = flags.DEFINE_integer('distinct', 2048, 'Distinct ids of a batch.')
_ROUNDS = flags.DEFINE_integer('rounds', 9, 'Turns of each model.')
_STEPS = flags.DEFINE_integer('steps', 10, 'Steps in a turn.')
_BATCH = 4096


class Trained:
  """A model of one table and its state."""

  def __init__(self, rows: int, on_host: bool):
    names = [f'f{i}' for i in range(_FEATURES.value)]
    features = tuple(schema.Feature(name, table='t') for name in names)
    technique = compress.hot_cold(max(1, int(_HOT.value * rows)), compress.identity())
    net = models.NETS['dnn'](hidden=(32,), dropout=0.0, batch_norm=False)
    shape = schema.Schema('bench', features)
    self.model = predict.build(shape, {'t': rows}, [('.*', technique)], net, _DIM.value)
    recipe = state_lib.Recipe(optax.adam(1e-3), rowwise.adagrad(0.05))
    if on_host:
      rules = (('.*/part_1.*', placement.host()), ('.*', placement.replicated()))
      cold = placement.on_host(self.model.layout, rules)
      self.program = hosted.program(
        self.model, recipe, cold, lambda model: step_lib.program(model, recipe)
      )
    else:
      self.program = step_lib.program(self.model, recipe)
    self.state, self.losses = self.program.create(0), []

  def run(self, columns) -> None:
    """Steps as training takes them: the host's part in a thread, ahead of the device's."""
    for inputs in batches.prefetch(iter(columns), self.program.batch):
      self.state, metrics = self.program.step(self.state, inputs)
      self.losses.append(metrics['loss'])
    jax.block_until_ready((self.state, self.losses))


def columns_of(rows: int, count: int) -> list[dict[str, np.ndarray]]:
  """Batches whose ids are spread over all rows by a power law, of --distinct each."""
  rng = np.random.default_rng(0)
  names = [f'f{i}' for i in range(_FEATURES.value)]

  def batch():
    drawn = np.empty(0, np.int64)
    while len(drawn) < _DISTINCT.value:
      more = (rows + 1.0) ** rng.random(4 * _DISTINCT.value) - 1
      drawn = np.unique(np.append(drawn, np.minimum(more, rows - 1).astype(np.int64)))
    ids = rng.permutation(drawn)[: _DISTINCT.value].astype(np.int32)
    reads = rng.permutation(np.resize(ids, _BATCH * len(names))).reshape(len(names), _BATCH)
    labels = rng.integers(0, 2, _BATCH).astype(np.float32)
    return dict(zip(names, reads, strict=True)) | {'label': labels}

  return [batch() for _ in range(count)]


def timed(trained: dict[str, tuple[Trained, Any]]) -> dict[str, list[float]]:
  """Milliseconds per step of every turn."""
  turns: dict[str, list[float]] = {name: [] for name in trained}
  for model, columns in trained.values():
    model.run(columns[:2])  # Compiles, and touches the memory.
  for _ in range(_ROUNDS.value):
    for name, (model, columns) in trained.items():
      started = time.perf_counter()
      model.run(columns)
      turns[name].append(1e3 * (time.perf_counter() - started) / len(columns))
  return turns


def largest_difference(x: Trained, y: Trained) -> float:
  """Over all numbers of tables and slots, block by block."""
  found = float(np.max(np.abs(np.subtract(x.losses, y.losses))))
  arrays = (jax.tree.leaves((m.state.tables, m.state.slots)) for m in (x, y))
  for a, b in zip(*arrays, strict=True):
    for start in range(0, len(a), 1 << 20):
      part = slice(start, start + (1 << 20))
      ours, theirs = (np.asarray(z[part]).astype(np.float64) for z in (a, b))
      found = max(found, float(np.max(np.abs(ours - theirs))))
  return found


def main() -> None:
  small, rows = _SMALL.value, _ROWS.value
  names = [f'{n:,} rows, {where}' for n, where in ((small, 'device'), (rows, 'device'))]
  names.append(f'{rows:,} rows, {1 - _HOT.value:.0%} of them on the host')
  of_small, of_large = columns_of(small, _STEPS.value), columns_of(rows, _STEPS.value)
  trained = {
    names[0]: (Trained(small, False), of_small),
    names[1]: (Trained(rows, False), of_large),
    names[2]: (Trained(rows, True), of_large),
  }
  turns = timed(trained)
  nbytes = {
    name: sum(x.nbytes for x in jax.tree.leaves((m.state.tables, m.state.slots)))
    for name, (m, _) in trained.items()
  }
  first = turns[names[0]]
  lines = [
    {
      'model': name, 'bytes': nbytes[name], 'ms': statistics.median(ms), 'turns_ms': ms,
      'ratio': statistics.median(x / y for x, y in zip(ms, first, strict=True)),
    }
    for name, ms in turns.items()
  ]  # fmt: skip
  difference = largest_difference(*(trained[name][0] for name in names[1:]))
  cells = [
    [x['model'], report.size(x['bytes']), f'{x["ms"]:.2f}', f'{x["ratio"]:.2f}'] for x in lines
  ]
  table = report.table(['table', 'with its optimizer', 'ms/step', 'ratio'], cells)
  where = common.environment()
  caption = (
    f'{_FEATURES.value} features of one table × {_DIM.value}, batch {_BATCH}, {_DISTINCT.value} '
    f'distinct ids a batch; medians of {_ROUNDS.value} interleaved turns of {_STEPS.value} steps, '
    'ratios turn by turn. Largest difference between host and device after '
    f'{len(trained[names[1]][0].losses)} steps, over all numbers: {difference:g}. '
    f'{where["device"]}, {where["cpu_cores"]} cores, load average {where["load_average"]}, '
    f'jax {where["jax"]}, {where["date"]}. `{common.command("bench.huge_table")}`'
  )
  print(f'{table}\n\n{caption}')
  found = {'lines': lines, 'largest_difference': difference, 'environment': where}
  if common.SAVE.value:
    path = common.RESULTS / 'bench_huge_table.json'
    loop.write_json(path, found | {'table': table, 'caption': caption})


if __name__ == '__main__':
  common.run(main)
