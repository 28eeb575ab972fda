"""How often each row is read: what a budget is spent by, and what collisions are weighed with."""

from __future__ import annotations

import numpy as np

from ctr_jax.data.columns import Source

_CHUNK = 1 << 16


def counts(source: Source, split: str = 'train') -> dict[str, np.ndarray]:
  """Table → reads of each of its rows in a split, int64 [rows].

  Every value of a multi-valued feature is a read, an empty list one of row 0, and features that
  share a table add up. A numeric feature reads row 1 of its table, or row 0 where it is missing.
  """
  found = {table: np.zeros(rows, np.int64) for table, rows in source.rows.items()}
  features = source.schema.features
  names = [feature.name for feature in features]
  total = source.num_samples(split)
  for start in range(0, total, _CHUNK):
    columns = source.read(split, names, start, min(start + _CHUNK, total))
    for feature in features:
      ids = _read(feature.kind, columns[feature.name])
      reads = found[feature.table]
      reads += np.bincount(ids, minlength=reads.size)
  return found


def _read(kind, column):
  """The rows that a column reads, as `predict.inputs` has them but for padding."""
  if kind == 'numeric':
    return (~np.isnan(column)).astype(np.int32)
  if kind == 'ids':
    first = np.maximum(column[:, :1], 0)  # An empty list is padding from the first value on.
    column = np.concatenate([first, column[:, 1:]], axis=1)
  return column[column >= 0]
