"""An encoded data set on disk (being written): the Source protocol."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ctr_jax.data import schema as schema_lib


class Source(Protocol):
  """What everything downstream reads: encoded samples, by split and row range.

  Attributes:
    schema: the description of a sample.
    rows: table -> number of rows. Row 0 is missing-or-unseen, then values by frequency.
    checksum: identifies schema and content.
    extras: names that `read` knows beside the features and 'label'.
  """

  schema: schema_lib.Schema
  rows: Mapping[str, int]
  checksum: str
  extras: tuple[str, ...]

  def num_samples(self, split: str) -> int:
    """Samples of 'train', 'valid' or 'test'."""

  def read(self, split: str, names: Sequence[str], start: int, stop: int) -> dict[str, np.ndarray]:
    """Samples start..stop of a split: for each name an array with that many rows.

    id, bucket and hash: int32 [n]; ids: int32 [n, width], padded with -1; numeric: float32 [n],
    NaN = missing; 'label': float32 [n] of 0 and 1; extras as the source says.
    """
