"""Leaf: one stored array, described once; init, bytes, sharding and restore are derived from it.

A plan is a tree of leaves: nested dicts with a `Leaf` at every tip. Arrays laid out as a plan have
the same structure. `flatten` names every tip by its path (`item_id/way_0/code`), and flat dicts of
that form are what training and checkpoints hold.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ctr_jax.tables import trees

Init = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]

flatten, unflatten = trees.flatten, trees.unflatten

# Rows drawn at a time.
_BLOCK = 1 << 14

TABLE = ('row', 'col')
"""The named axes of a plain embedding table: what a technique accepts."""


def normal(stddev: float) -> Init:
  """An initializer: independent draws from N(0, stddev²)."""

  def draw(key, shape, dtype):
    return (stddev * jax.random.normal(key, shape, jnp.float32)).astype(dtype)

  return in_blocks(draw)


@dataclasses.dataclass(frozen=True)
class InBlocks:
  """An initializer that draws blocks of rows: all at once need several more tables to be made.

  What a row starts from depends on the key and the table's shape, so that a device that holds some
  of the rows finds them by drawing the blocks one after another (`here`).

  Attributes:
    draw: an initializer of one block.
  """

  draw: Init

  def __call__(self, key, shape, dtype):
    if not shape or shape[0] <= _BLOCK:
      return self.draw(key, shape, dtype)

    def block(i, table):
      start, rows = self._block(i, key, shape, dtype)
      return jax.lax.dynamic_update_slice_in_dim(table, rows, start, 0)

    return jax.lax.fori_loop(0, -(-shape[0] // _BLOCK), block, jnp.zeros(shape, dtype))

  def here(self, key, shape, dtype, size: int, place: Callable[[jax.Array], jax.Array]):
    """The rows of the table that are kept here, `size` of them; the others are drawn and let go.

    Args:
      key, shape, dtype: as for the whole table.
      size: rows that are kept.
      place: int32 row numbers → where they are kept; out of range for those that are not.
    """
    blocks = max(1, -(-shape[0] // _BLOCK))

    def block(i, kept):
      start, rows = self._block(i, key, shape, dtype)
      at = place(start + jnp.arange(len(rows), dtype=jnp.int32))
      return kept.at[at].set(rows, mode='drop')

    return jax.lax.fori_loop(0, blocks, block, jnp.zeros((size, *shape[1:]), dtype))

  def blocks(self, key, shape, dtype):
    """Yields (first row, rows), a block of the table at a time, overlapping at the end."""
    block = jax.jit(lambda i, key: self._block(i, key, shape, dtype))
    for i in range(max(1, -(-shape[0] // _BLOCK))):
      start, rows = block(i, key)
      yield int(start), rows

  def _block(self, i, key, shape, dtype):
    if shape[0] <= _BLOCK:
      return jnp.int32(0), self.draw(key, shape, dtype)
    start = jnp.minimum(i * _BLOCK, shape[0] - _BLOCK)
    return start, self.draw(jax.random.fold_in(key, i), (_BLOCK, *shape[1:]), dtype)


def in_blocks(draw: Init) -> Init:
  """`draw`, a block of rows at a time."""
  return InBlocks(draw)


def constant(value: float) -> Init:
  """An initializer: `value` everywhere."""

  def init(key, shape, dtype):
    del key
    return jnp.full(shape, value, dtype)

  return init


def _load(rows):
  """Stored to float: what training differentiates with respect to."""
  return rows.astype(jnp.float32) if jnp.issubdtype(rows.dtype, jnp.floating) else rows


_NORMAL = normal(1e-4)


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One stored array.

  Attributes:
    shape: its shape; the first axis is the one that addresses index when `axes[0]` is 'row'.
    dtype: of storage, so that `nbytes` is exact. Codes below eight bits are packed into uint8.
    axes: a name for each axis. Only ('row', 'col') is a table that another technique may take.
    init: `init(key, shape, dtype)`, the array that training starts from.
    frozen: no gradient and no optimizer state; still counted, sharded and saved.
    load: stored rows to float rows, after the gather.
    decay: whether L2 pulls it to zero: not where zero is no neutral value, as for a factor that
      starts at one, a threshold, or the logarithm of a step.
    fixed: trailing loaded columns that no optimizer moves: what `store` itself looks after.
    store: `store(float_rows, key, gradients)` to stored rows, before the scatter; the key is for
      stochastic rounding, the gradients (of the loaded rows) for learned steps, and both are None
      outside training. `load` and `store` together make low-precision training a property of
      storage.
  """

  shape: tuple[int, ...]
  dtype: Any = jnp.float32
  axes: tuple[str, ...] = TABLE
  init: Init = _NORMAL
  frozen: bool = False
  load: Callable[[jax.Array], jax.Array] = _load
  store: Callable[..., jax.Array] | None = None
  decay: bool = True
  fixed: int = 0

  def __post_init__(self):
    if len(self.shape) != len(self.axes):
      raise ValueError(f'A leaf of shape {self.shape} needs as many axis names, got {self.axes}.')
    if min(self.shape, default=1) < 1:
      raise ValueError(f'A leaf needs at least one element on every axis, got {self.shape}.')

  @property
  def is_table(self) -> bool:
    """Whether a technique may take this leaf."""
    return self.axes == TABLE

  @property
  def by_row(self) -> bool:
    """Whether rows of it are gathered; a leaf without rows is read whole."""
    return self.axes[:1] == ('row',)

  @property
  def rows(self) -> int:
    return self.shape[0]

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    return self.size * jnp.dtype(self.dtype).itemsize

  @property
  def struct(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(self.shape, self.dtype)

  @property
  def loaded(self) -> jax.ShapeDtypeStruct:
    """What `load` makes of it, without its fixed columns: what optimizer state is shaped by."""
    found = jax.eval_shape(self.load, self.struct)
    if not self.fixed:
      return found
    return jax.ShapeDtypeStruct((*found.shape[:-1], found.shape[-1] - self.fixed), found.dtype)

  def stored(
    self, rows: jax.Array, key: jax.Array | None = None, gradients: jax.Array | None = None
  ) -> jax.Array:
    """Float rows in their stored type."""
    return rows.astype(self.dtype) if self.store is None else self.store(rows, key, gradients)


def path_key(key: jax.Array, path: str) -> jax.Array:
  """A key of its own for every path, whatever other paths there are."""
  return jax.random.fold_in(key, zlib.crc32(path.encode()))


def init(plan: Any, key: jax.Array) -> Any:
  """The arrays that training starts from. A table's draw depends on its path alone."""
  flat = {p: x.init(path_key(key, p), x.shape, x.dtype) for p, x in flatten(plan).items()}
  return unflatten(plan, flat)


def nbytes(plan: Any) -> int:
  """Exact bytes of the arrays that `plan` describes."""
  return sum(leaf.nbytes for leaf in flatten(plan).values())
