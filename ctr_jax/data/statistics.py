"""How often each row is read: what a budget is spent by, and what collisions are weighed with."""

from __future__ import annotations

import numpy as np

from ctr_jax.data.columns import Source

_CHUNK = 1 << 16


def counts(source: Source, split: str = 'train') -> dict[str, np.ndarray]:
  """Table → reads of each of its rows in a split, int64 [rows].

  Every value of a multi-valued feature is a read, and features that share a table add up. A numeric
  feature reads row 1 of its table, or row 0 where it is missing.
  """
  found = {table: np.zeros(rows, np.int64) for table, rows in source.rows.items()}
  features = source.schema.features
  names = [feature.name for feature in features]
  total = source.num_samples(split)
  for start in range(0, total, _CHUNK):
    columns = source.read(split, names, start, min(start + _CHUNK, total))
    for feature in features:
      column = columns[feature.name]
      ids = (
        (~np.isnan(column)).astype(np.int32) if feature.kind == 'numeric' else column[column >= 0]
      )
      reads = found[feature.table]
      reads += np.bincount(ids, minlength=reads.size)
  return found
