"""Multi-valued features without the padding between their values.

A list is stored as wide as the longest. Where most have few values, most reads would be of padding:
hashed, gathered, decoded and multiplied by zero. `Flat` leaves it out on the host, and `pool` takes
the means by segments. CPUs sum segments as fast as rows; accelerators scatter them, in an order of
their own, and read padding cheaply.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np


class Lists(NamedTuple):
  """Where the values of a batch's lists belong.

  Attributes:
    sample: int32 [reads], the sample that each read is of, ascending; `batch` where it is of none.
    count: float32 [batch], values of each sample, at least 1.
  """

  sample: np.ndarray
  count: np.ndarray


class Flat:
  """Lists of batch after batch, in arrays whose sizes settle.

  A program is made for each size: so sizes go in steps, leave some room, and never shrink. A column
  whose first batch is more than half full keeps its padding.
  """

  def __init__(self):
    self._sizes: dict[tuple[str, tuple[int, ...]], int] = {}  # 0 where padding stays.

  def __call__(self, name: str, column: np.ndarray) -> tuple[np.ndarray, Lists] | None:
    """A column → (int32 [reads], row numbers; where they belong), or None where padding stays.

    Args:
      name: of the feature.
      column: int32 [batch, width], -1 after a list's last value; an empty list reads row 0.
    """
    batch, width = column.shape
    present = column != -1
    present[:, :1] = True
    at = np.flatnonzero(present)
    key = name, column.shape
    if key not in self._sizes:
      self._sizes[key] = 0 if 2 * len(at) > column.size else 1
    size = self._sizes[key]
    if size == 0:
      return None
    if len(at) > size:
      step = max(batch // 4, 1)
      size = min(-(-(len(at) + step // 4) // step) * step, column.size)
      self._sizes[key] = size
    ids, sample = np.zeros(size, np.int32), np.full(size, batch, np.int32)
    found = column.reshape(-1)[at]
    ids[: len(at)] = np.where(found == -1, 0, found)
    sample[: len(at)] = at // width
    return ids, Lists(sample, present.sum(axis=1, dtype=np.float32))


def pool(vectors: jax.Array, lists: Lists) -> jax.Array:
  """Vectors of reads [reads, cols] → the mean of each sample's, [batch, cols]."""
  total = jax.ops.segment_sum(
    vectors, lists.sample, num_segments=len(lists.count), indices_are_sorted=True
  )
  return total / lists.count[:, None]
