r"""Every technique's training step at 1e4, 1e5 and 1e7 ids, and its reads beside the full table's.

  python -m experiments.bench.techniques
  python -m experiments.bench.techniques --rows=1e4,1e5 --rounds=3       # a quick look

One table is read by 4 features of a batch of 4096, dim 16, one small hidden layer. Each batch reads
the same number of distinct ids at every size, so that what is compared is the size of the table and
nothing else. Row techniques get half of the full table's bytes, the tensor train the same rank at
every size. At 1e4 ids there is still less to do: a stored table of 5,000 or 2,500 rows has fewer
rows than a batch has reads (16,384), so fewer are padded to, fewer are distinct, and all stay in
the processor's cache. From 1e5 on the work is equal; each ratio is the largest size over a smaller
one. A step is the host's part (addresses, distinct rows) and the device's. `read` is gather and
decode of a batch under jit, its addresses ready made. The sizes of a technique take turns; medians
are over the turns.
"""

from __future__ import annotations

import gc
import statistics
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from ctr_jax import compress, predict
from ctr_jax.tables import rowwise, stack
from experiments import common, hash_family, report
from experiments.bench import train_step_models as bench

flags.adopt_module_key_flags(common)  # So that --help shows them.
_ROWS = flags.DEFINE_list('rows', ['1e4', '1e5', '1e7'], 'Ids of the table.')
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Turns of each size.')
_STEPS = flags.DEFINE_integer('steps', 10, 'Steps in a turn.')
_ONLY = flags.DEFINE_list('techniques', [], 'Only these; all if empty.')

_DIM, _FEATURES, _DISTINCT = 16, 4, 2048


def techniques(rows: int) -> dict[str, compress.Technique]:
  """Name → technique for a table of `rows` ids; row techniques at half of its bytes."""
  starts = (0, rows // 100, rows // 10)
  return {
    'identity': compress.identity(),
    **hash_family.families(rows, _DIM, rows * _DIM // 2),
    'tensor_train': compress.tensor_train(8),
    'product_quantize': compress.product_quantize(256, 2),
    'cce': compress.cce(256, 2),
    'memcom': compress.memcom(rows // 2),
    'deep_hash': compress.deep_hash(64),
    'keep_dims': compress.keep_dims(4),
    'low_rank': compress.low_rank(4),
    'mixed_dims': compress.mixed_dims(starts, (_DIM, 8, 2)),
    'adaptive_dims': compress.adaptive_dims(budget=0.01),
    'prune': compress.prune(),
    'masked': compress.masked(),
    'cast float16': compress.cast('float16'),
    'cast float16, stochastic': compress.cast('float16', 'stochastic'),
    'fake_quantize 8': compress.fake_quantize(8),
    'alpt 8': compress.alpt(8),
    'alpt 4': compress.alpt(4),
  }


def batches(rows: int, batch: int) -> list[dict[str, np.ndarray]]:
  """Batches of columns that all read `_DISTINCT` distinct ids, whatever the table's size."""
  rng = np.random.default_rng(0)

  def columns():
    own = rng.choice(rows, min(rows, _DISTINCT), replace=False).astype(np.int32)
    reads = np.resize(own, batch * _FEATURES)
    rng.shuffle(reads)
    made = {f'f{i:02}': x for i, x in enumerate(np.split(reads, _FEATURES))}
    return made | {'label': rng.integers(0, 2, batch).astype(np.float32)}

  return [columns() for _ in range(_STEPS.value)]


class Case:
  """One technique at one size: its training steps and its reads."""

  def __init__(self, name: str, rows: int, batch: int):
    shape = bench.Shape((rows,), _FEATURES, _DIM, 32, batch)
    technique = techniques(rows)[name]
    self.ours = bench.Ours(shape, stack.apart, rowwise.adagrad(0.05), technique=technique)
    self.columns = batches(rows, batch)
    model = self.ours.model
    self._inputs = [predict.inputs(model, x) for x in self.columns]

    def read(tables, inputs):
      rows = predict.gather_all(model, tables, inputs.index)
      return predict.vectors(model, rows, inputs.values, train=False)

    self._read = jax.jit(read)

  def step(self) -> None:
    self.ours.train(map(self.ours.prepare, self.columns))

  def read(self) -> None:
    tables, found = self.ours.state.tables, None
    for inputs in self._inputs:
      found = self._read(tables, inputs)
    jax.block_until_ready(found)


def measure(name: str, sizes: list[int], batch: int) -> dict[str, Any]:
  """Milliseconds per step and per read at every size."""
  cases = {rows: Case(name, rows, batch) for rows in sizes}
  turns: dict[str, dict[int, list[float]]] = {
    kind: {rows: [] for rows in sizes} for kind in ('step', 'read')
  }
  for turn in range(_ROUNDS.value + 1):  # The first one compiles.
    for kind, times in turns.items():
      for rows, case in cases.items():
        started = time.perf_counter()
        getattr(case, kind)()
        if turn:
          times[rows].append(1e3 * (time.perf_counter() - started) / _STEPS.value)
  medians = {k: [statistics.median(x[rows]) for rows in sizes] for k, x in turns.items()}
  nbytes = [case.ours.nbytes for case in cases.values()]
  return {'technique': name, 'rows': sizes, 'bytes_training': nbytes, **medians}


def render(found: list[dict[str, Any]]) -> str:
  """Techniques down; step and read at each size, their ratio, and reads beside the full table's."""
  full = found[0]['read']
  rows = [
    (
      x['technique'],
      *(f'{ms:.2f} ms' for ms in x['step']),
      *(f'{x["step"][-1] / ms:.2f}' for ms in x['step'][:-1]),
      *(f'{ms:.2f} ms' for ms in x['read']),
      f'{x["read"][-1] / full[-1]:.2f}',
      report.size(x['bytes_training'][-1]),
    )
    for x in found
  ]
  sizes = [f'{n:.0e}'.replace('e+0', 'e') for n in found[0]['rows']]
  header = (
    'technique', *(f'step, {n} ids' for n in sizes), *(f'over {n}' for n in sizes[:-1]),
    *(f'read, {n} ids' for n in sizes), 'read, of full', 'trained bytes',
  )  # fmt: skip
  return report.table(header, rows)


def main() -> None:
  sizes = [int(float(x)) for x in _ROWS.value]
  batch = common.BATCH_SIZE.value or 4096
  names = _ONLY.value or list(techniques(sizes[0]))
  found = []
  for name in names:
    found.append(measure(name, sizes, batch))
    print(render([found[0], found[-1]]).splitlines()[-1], flush=True)
    gc.collect()  # The next technique needs the room.
  where = common.environment()
  caption = (
    f'Batch {batch}, {_FEATURES} features of one table, dim {_DIM}, {_DISTINCT} distinct ids '
    f'a batch; medians of {_ROUNDS.value} turns of {_STEPS.value} steps; {where["device"]}, '
    f'{where["cpu_cores"]} cores, load average {where["load_average"]:.1f}, jax {where["jax"]}, '
    f'{where["date"]}. `{common.command("bench.techniques")}`'
  )
  table = render(found)
  print(f'\n{table}\n\n{caption}')
  common.save_bench(
    'techniques',
    {
      'command': common.command('bench.techniques'),
      'environment': where,
      'lines': found,
      'table': table,
      'caption': caption,
    },
  )


if __name__ == '__main__':
  common.run(main)
