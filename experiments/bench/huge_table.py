r"""A table of 1e8 rows × 16: its step beside a small table's, on the device and on the host.

  python -m experiments.bench.huge_table            # needs about 8 GB
  python -m experiments.bench.huge_table --rows=1000000

Two models take turns, alike but for the table of one of their features: 1e4 rows on the device; and
1e8 rows, first all on the device, then with the first million (the most frequent ids) on the device
and the others on the host. The other features have tables of 1e4 rows each. All see batches of the
same shape with the same number of distinct ids, so that only the table's size differs. Host and
device take the same steps, and every number of their tables and of the optimizer's state is
compared.
"""

import gc
import hashlib
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
from ctr_jax.train import hosted
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib
from experiments import common, report

_ROWS = flags.DEFINE_integer('rows', 10**8, 'Rows of the large table.')
_SMALL = flags.DEFINE_integer('small_rows', 10**4, 'Rows of the small one.')
_HOT = flags.DEFINE_float('hot', 0.01, 'The part of the rows that stay on the device.')
_FEATURES = flags.DEFINE_integer('features', 26, 'Features; the first reads the large table.')
_DIM = flags.DEFINE_integer('dim', 16, 'Embedding dimension.')
_DISTINCT = flags.DEFINE_integer('distinct', 2048, 'Distinct ids of the large table in a batch.')
_ROUNDS = flags.DEFINE_integer('rounds', 9, 'Turns of each model.')
_STEPS = flags.DEFINE_integer('steps', 10, 'Steps in a turn.')
_BATCH = 4096
_NAMES = [f'f{i:02}' for i in range(99)]


class Trained:
  """A model of one table and its state."""

  def __init__(self, rows: int, on_host: bool):
    names = _NAMES[: _FEATURES.value]
    shape = schema.Schema('bench', tuple(schema.Feature(name) for name in names))
    split = compress.hot_cold(max(1, int(_HOT.value * rows)), compress.identity())
    rules = [(names[0], split), ('.*', compress.identity())]
    sizes = dict.fromkeys(names, _SMALL.value) | {names[0]: rows}
    net = models.NETS['dcn'](hidden=(128, 64), cross_layers=3)
    self.model = predict.build(shape, sizes, rules, net, _DIM.value)
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

  def power_law(rows, count):
    return np.minimum((rows + 1.0) ** rng.random(count) - 1, rows - 1).astype(np.int32)

  def batch():
    drawn = np.empty(0, np.int32)
    while len(drawn) < _DISTINCT.value:
      drawn = np.unique(np.append(drawn, power_law(rows, 4 * _DISTINCT.value)))
    ids = np.resize(rng.permutation(drawn)[: _DISTINCT.value], _BATCH)
    found = {name: power_law(_SMALL.value, _BATCH) for name in _NAMES[: _FEATURES.value]}
    labels = rng.integers(0, 2, _BATCH).astype(np.float32)
    return found | {_NAMES[0]: rng.permutation(ids), 'label': labels}

  return [batch() for _ in range(count)]


def timed(models: list[Trained], batches_of: list[Any]) -> list[list[float]]:
  """Milliseconds per step of every turn, of each model."""
  for model, columns in zip(models, batches_of, strict=True):
    model.run(columns[:2])  # Compiles, and touches the memory.
  turns: list[list[float]] = [[] for _ in models]
  for _ in range(_ROUNDS.value):
    for found, model, columns in zip(turns, models, batches_of, strict=True):
      started = time.perf_counter()
      model.run(columns)
      found.append(1e3 * (time.perf_counter() - started) / len(columns))
  return turns


def digest(trained: Trained) -> str:
  """Of every number of the losses, the tables and their optimizer's state, block by block."""
  found = hashlib.sha256(np.asarray(trained.losses).tobytes())
  for x in jax.tree.leaves((trained.state.tables, trained.state.slots)):
    for start in range(0, len(x), 1 << 20):
      found.update(np.ascontiguousarray(x[start : start + (1 << 20)]))
  return found.hexdigest()


def measure(on_host: bool, of_small, of_large) -> dict[str, Any]:
  """The large table beside the small one, which is on the device."""
  small, large = Trained(_SMALL.value, False), Trained(_ROWS.value, on_host)
  of_small, of_large = timed([small, large], [of_small, of_large])
  where = f'{1 - _HOT.value:.0%} of them on the host' if on_host else 'device'
  return {
    'model': f'{_ROWS.value:,} rows, {where}',
    'bytes': sum(x.nbytes for x in jax.tree.leaves((large.state.tables, large.state.slots))),
    'ms': statistics.median(of_large),
    'small_ms': statistics.median(of_small),
    'ratio': statistics.median(x / y for x, y in zip(of_large, of_small, strict=True)),
    'turns_ms': of_large,
    'small_turns_ms': of_small,
    'steps': len(large.losses),
    'digest': digest(large),
  }


def main() -> None:
  of_small, of_large = columns_of(_SMALL.value, _STEPS.value), columns_of(_ROWS.value, _STEPS.value)
  lines = []
  for on_host in (False, True):
    lines.append(measure(on_host, of_small, of_large))
    gc.collect()  # The next one needs the room.
  cells = [
    [
      x['model'], report.size(x['bytes']), f'{x["ms"]:.2f}', f'{x["small_ms"]:.2f}',
      f'{x["ratio"]:.2f}',
    ]
    for x in lines
  ]  # fmt: skip
  header = ('table', 'all, with optimizer', 'ms/step', f'ms with {_SMALL.value:,} rows', 'ratio')
  table, where = report.table(header, cells), common.environment()
  equal = lines[0]['digest'] == lines[1]['digest']
  caption = (
    f'DCN of {_FEATURES.value} features × {_DIM.value}, one of which has the table named here, '
    f'batch {_BATCH}, {_DISTINCT.value} distinct ids of it a batch; medians of {_ROUNDS.value} '
    f'interleaved turns of {_STEPS.value} steps, ratios turn by turn. After '
    f'{lines[0]["steps"]} steps, losses, tables and optimizer state of host and device '
    f'{"have the same bits" if equal else "DIFFER"}. {where["device"]}, {where["cpu_cores"]} '
    f'cores, load average {where["load_average"]}, jax {where["jax"]}, {where["date"]}. '
    f'`{common.command("bench.huge_table")}`'
  )
  print(f'{table}\n\n{caption}')
  command = common.command('bench.huge_table')
  found = {'command': command, 'lines': lines, 'equal': equal, 'environment': where}
  common.save_bench('huge_table', found | {'table': table, 'caption': caption})


if __name__ == '__main__':
  common.run(main)
