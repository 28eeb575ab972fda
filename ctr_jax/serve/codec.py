"""What scoring needs of a technique, without jax: the counterpart of `compress.codec`.

  plan     tree of `Leaf`, what is stored, by the names that the files have
  address  ids, int32 of any shape → an index for each leaf; WHOLE for one that is read in full
  decode   (xp, gathered leaves) → vectors, ids.shape + (cols,)

Addresses are integers and always NumPy's. `xp` is NumPy, or what writes the same operations into an
ONNX graph (`onnx_graph`): decodes use its functions and operators, and the first axis of what they
get, the batch, is of unknown size. What a decode gets is loaded: float16 and bfloat16 are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

WHOLE = ...


class Leaf(NamedTuple):
  """One stored array: its shape, dtype and a name for each axis."""

  shape: tuple[int, ...]
  dtype: str = 'float32'
  axes: tuple[str, ...] = ('row', 'col')

  @property
  def is_table(self) -> bool:
    return self.axes == ('row', 'col')

  @property
  def by_row(self) -> bool:
    return self.axes[:1] == ('row',)


class Codec(NamedTuple):
  """How one table is read; see the module."""

  plan: Any
  address: Callable[[np.ndarray], Any]
  decode: Callable[[Any, Any], Any]

  @property
  def is_plain(self) -> bool:
    """Whether the table is stored as its vectors."""
    return self.decode is as_stored and self.plan.dtype == 'float32'


def as_stored(xp, rows):
  """The decode of a table that is stored as its vectors."""
  del xp
  return rows


def unpacked(xp, packed, bits: int, n: int):
  """uint8 [..., bytes] → uint8 [..., n], low bits first."""
  if bits == 8:
    return packed
  mask = np.uint8(2**bits - 1)
  lanes = [(packed >> np.uint8(lane * bits)) & mask for lane in range(8 // bits)]
  inner = packed.shape[1:-1]  # The first axis is of unknown size.
  codes = xp.reshape(xp.stack(lanes, axis=-1), (-1, *inner, packed.shape[-1] * len(lanes)))
  return xp.take(codes, np.arange(n), axis=-1)
