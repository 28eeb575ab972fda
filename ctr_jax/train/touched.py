"""The rows that training has moved: marked by each step's distinct rows, on the host.

A step writes the rows that its batch names (`step.Batch.unique`) and no others of the arrays that
are trained by rows, so that what it moves is known before it runs and at no cost to the device:
training has the same bits with marks and without. A mark is a byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ctr_jax import predict
from ctr_jax.train import hosted


class Touched:
  """Marks for the rows of some arrays."""

  def __init__(self, model: predict.Model, names: Iterable[str]):
    # One more than there are rows: what reads nothing, and padding, are told by that number.
    self._marks = {n: np.zeros(model.layout.arrays[n].rows + 1, bool) for n in names}

  def add(self, batch: Any) -> None:
    """Marks the rows that a step on `batch` moves."""
    for name, rows in distinct(batch).items():
      if name in self._marks:
        self._marks[name][np.asarray(rows).reshape(-1)] = True

  def rows(self, name: str) -> np.ndarray:
    """The marked rows of an array, int32, ascending."""
    return np.flatnonzero(self._marks[name][:-1]).astype(np.int32)

  def clear(self) -> None:
    for marks in self._marks.values():
      marks[:] = False


def distinct(batch: Any) -> Mapping[str, Any]:
  """Array → the rows of it that a batch reads, as its program has them."""
  if not isinstance(batch, hosted.Prepared):
    return batch.unique
  # The device's rows stand for those of the host, which `rows` has.
  return dict(batch.inner.unique) | batch.rows
