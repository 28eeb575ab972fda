r"""Every way to store fewer rows, at 2, 10, 100 and 1000 times fewer bytes.

  python -m experiments.hash_family --data=frappe_x1
  python -m experiments.hash_family --data=frappe_x1 --only=multi_hash --seeds=5 --save_result

The large tables (1000 rows and more) are stored by each technique in as many bytes as full tables
divided by 2, 10, 100 and 1000 allow; the others stay. Beside AUC and log loss stand collisions: the
share of ids (and of reads) whose whole address is also another id's, measured, and predicted for
ways that are random hashes. Measured results are in experiments/RESULTS.md.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from absl import flags

from ctr_jax import compress
from ctr_jax.compress import codec as codec_lib
from ctr_jax.data import statistics
from ctr_jax.tables import leaf
from experiments import common, report, sweeps, trials

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(sweeps)
flags.set_default(sweeps.RATIOS, ['2', '10', '100', '1000'])


# Epochs before the ids of a CCE table are clustered by what they have learned.
_WARM_EPOCHS = 2


def families(rows: int, cols: int, values: int) -> dict[str, compress.Technique]:
  """Every row technique for a table of rows × cols that can get to about `values` numbers."""
  buckets = max(1, values // cols)
  own = max(1, buckets // 2)
  tail = compress.hash_trick(max(1, buckets - own))
  found = {
    'hash_trick': compress.hash_trick(buckets),
    'multi_hash': compress.multi_hash(max(1, buckets // 2), 2),
    'multi_hash_3': compress.multi_hash(max(1, buckets // 3), 3),
    'multi_hash_weights': compress.multi_hash(max(1, buckets // 2), 2, 'weights'),
    'hash_embedding': compress.hash_embedding(
      max(1, buckets // 2), 2, max(1, min(rows, values // 4))
    ),
    'quotient_remainder': compress.quotient_remainder(_divisor(rows, buckets)),
    'binary_code': _binary_code(rows, buckets, 'succession'),
    'binary_code_skip': _binary_code(rows, buckets, 'skip'),
    'double_hash': compress.double_hash_by_frequency(own, max(1, own // 2)),
    'hot_cold': compress.hot_cold(own, tail),
    'robe': compress.robe(max(cols, values)),
    'tensor_train': _tensor_train(rows, cols, values),
  }
  if values > 2 * rows:  # A scalar per id has to fit.
    found['memcom'] = compress.memcom(max(1, (values - 2 * rows) // cols))
  spare = values - rows // 2  # Two codes of a byte per id; the rest for centroids.
  if spare >= 2 * cols:
    found['product_quantize'] = compress.product_quantize(min(256, rows, spare // cols), 2)
  if spare >= 4 * cols:
    found['cce'] = compress.cce(min(256, spare // (2 * cols)), 2)
  # Pairs of tables, blocks of bits and cores have a least size: no row where that is too large.
  return {name: made for name, made in found.items() if _bytes(made, rows, cols) <= 8 * values}


def _bytes(technique: compress.Technique, rows: int, cols: int) -> int:
  return leaf.nbytes(technique(leaf.Leaf((rows, cols))).plan)


def _divisor(rows: int, buckets: int) -> int:
  """m with m + ⌈rows/m⌉ nearest to `buckets`; of the two there are, the smaller."""
  options = range(1, max(2, int(rows**0.5) + 1))
  return min(options, key=lambda m: abs(m + -(-rows // m) - buckets))


def _binary_code(rows: int, buckets: int, strategy: str) -> compress.Technique:
  """Blocks of as many bits as give about `buckets` rows."""
  table = leaf.Leaf((rows, 64))

  def distance(made):
    return abs(sum(x.rows for x in made(table).plan.values()) - buckets)

  lengths = range(1, max(2, (rows - 1).bit_length() + 1))
  options = [compress.binary_code(block, strategy=strategy) for block in lengths]
  return min(options, key=distance)


def _tensor_train(rows: int, cols: int, values: int) -> compress.Technique:
  def stored(rank):
    return _bytes(compress.tensor_train(rank), rows, cols) / 4

  ranks = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
  return compress.tensor_train(min(ranks, key=lambda rank: abs(stored(rank) - values)))


def collisions(technique: compress.Technique, rows: int, counts: np.ndarray):
  """(share of ids, share of reads) whose address in all leaves is also another id's."""
  codec = technique(leaf.Leaf((rows, 16)))
  ids = np.arange(rows, dtype=np.int32)
  # Leaves read whole and MLP inputs tell nothing of who shares what.
  index = [x for x in leaf.flatten(codec.address(ids)).values() if x is not codec_lib.WHOLE]
  key = np.stack([x.reshape(rows, -1)[:, j] for x in index for j in range(x[0].size)], axis=1)
  _, group, size = np.unique(key, axis=0, return_inverse=True, return_counts=True)
  shared = size[group.reshape(-1)] > 1
  return float(shared.mean()), float(counts[shared].sum() / max(1, counts.sum()))


def predicted(rows: int, buckets: int, ways: int) -> float:
  """Chance that an id of `rows` meets another in all of `ways` independent hashes."""
  return -np.expm1(-(rows - 1) / float(buckets) ** ways)


def _predict(name: str, technique: compress.Technique, rows: int) -> float | None:
  arguments = technique.arguments
  if name.startswith(('hash_trick', 'multi_hash')):
    return float(predicted(rows, arguments['buckets'], arguments.get('ways', 1)))
  if name in ('quotient_remainder', 'binary_code', 'binary_code_skip', 'memcom'):
    return 0.0  # Unique by construction.
  return None


def reclustered(before, model, rules):
  """Goes on from `before` with the ids of every CCE table clustered anew (the paper's stage)."""
  stored = dict(before.stored)
  for table, rows in model.rows.items():
    technique = compress.match(table, rules)
    if technique.name == 'cce':
      codec = technique(leaf.Leaf((rows, model.width)))
      stored[table] = compress.recluster(codec, stored[table])
  return trials.Outcome(model, rules, stored, before.net)


def sweep(add, source) -> None:
  """Full tables, then every family at every ratio."""
  counts = statistics.counts(source)
  tables = sweeps.large(source)
  trial = add('full', '')
  width = trial.model(source).width
  for ratio in map(float, sweeps.RATIOS.value):
    sized = {t: families(n := source.rows[t], width, int(n * width / ratio)) for t in tables}
    names = set.intersection(*(set(made) for made in sized.values()))
    for name in [n for n in sized[tables[0]] if n in names]:
      chosen = {t: sized[t][name] for t in tables}
      rules = sweeps.on(tables, chosen.__getitem__)
      largest = max(tables, key=source.rows.get)
      seen = _seen(chosen[largest], source.rows[largest], counts[largest])
      add(
        name,
        f'{ratio:g}×',
        rules=rules,
        # Codes are frozen: drawn at random they would stay so. They are learned from full tables.
        after=trial if name == 'product_quantize' else None,
        facts={
          'ratio': ratio,
          'technique': str(chosen[largest]),
          'ids_colliding': seen[0],
          'reads_colliding': seen[1],
          'predicted': _predict(name, chosen[largest], source.rows[largest]),
        },
      )
      if name == 'cce':
        short = dataclasses.replace(trial.schedule, epochs=_WARM_EPOCHS)
        warm = f'cce_warm_{ratio:g}×'
        warm = dataclasses.replace(trial, name=warm, rules=rules, schedule=short)
        facts = {'ratio': ratio, 'technique': str(chosen[largest])}
        again = {'rules': rules, 'after': warm, 'start': reclustered, 'facts': facts}
        add('cce, clustered again', f'{ratio:g}×', **again)


def _seen(technique, rows, counts):
  # Robe and tensor trains share parts of vectors, not vectors: collisions say nothing of them.
  if technique.name in ('robe', 'tensor_train', 'deep_hash', 'product_quantize', 'cce'):
    return None, None
  return collisions(technique, rows, counts)


def render(found) -> str:
  """One line per technique and ratio: AUC, log loss, bytes, collisions."""
  full = report.full_row(found)

  def percent(x):
    return '–' if x is None else f'{100 * x:.2f}%'

  rows = [
    (
      row['group'],
      f'{row["ratio"]:g}×' if 'ratio' in row else '1×',
      report.size(row['bytes']),
      report.smaller(full, row),
      report.spread(row['test']['auc']),
      report.spread(row['test']['log_loss']),
      percent(row.get('ids_colliding')),
      percent(row.get('predicted')),
      percent(row.get('reads_colliding')),
      len(row['seeds']),
    )
    for row in found['rows']
  ]
  header = (
    'technique', 'asked', 'tables', 'smaller', 'test AUC', 'log loss', 'ids colliding',
    'predicted', 'reads colliding', 'seeds',
  )  # fmt: skip
  return report.table(header, rows)


if __name__ == '__main__':
  common.run(lambda: sweeps.run('hash_family', sweep, render))
