"""The values of a table that are not zero, and where they stand."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ctr_jax.compress.codec import WHOLE, Codec, technique
from ctr_jax.compress.int_quantize import pack, unpack
from ctr_jax.tables import leaf as leaf_lib

# Ids that share one count of the values before them: four bytes for each block.
_BLOCK = 16

_ZEROS = leaf_lib.constant(0)
_TYPES = ('float32', 'float16', 'bfloat16')


def nonzeros(table: jax.Array) -> int:
  """Values of `table` that are not zero: the `kept` with which `sparse_rows` loses nothing."""
  return int(jnp.count_nonzero(table))


@technique
def sparse_rows(kept: int, dtype: str = 'float32'):
  """A pruned table in rows · (⌈cols/8⌉ + 1/4) bytes of places and `kept` values (+ 16 bytes).

  value k of a row is at: values before its block + bits set in the block before it + bits set in
  the row before k. An id gathers the bits of its whole block, so that a read touches 16·⌈cols/8⌉
  bytes in one place, and then its values, wherever the row begins.

  Frozen, for serving: the last link of a chain, applied to a trained table by `encode`. With more
  than `kept` values that are not zero, all values are NaN, which `compress.encode` refuses.

  Args:
    kept: values stored, of each table that the chain leaves: `nonzeros(table)` lose nothing.
    dtype: of the values.
  """
  if dtype not in _TYPES:
    raise ValueError(f'sparse_rows stores {", ".join(_TYPES)}, got {dtype!r}.')
  if not 1 <= kept < 2**31:
    raise ValueError(f'sparse_rows needs 1 ≤ kept < 2^31, got {kept}.')

  def build(leaf):
    rows, cols = leaf.shape
    width, blocks = -(-cols // 8), -(-rows // _BLOCK)
    plan = {
      'base': _frozen((blocks,), jnp.int32, ('row',)),
      # A decode sees no ids: which of its block an id is, is gathered too.
      'lane': _frozen((_BLOCK,), jnp.uint8, ('row',), init=_lanes),
      'mask': _frozen((blocks, _BLOCK * width), jnp.uint8, ('row', 'byte')),
      # Not made float as a whole at each read: what is taken of it is.
      'value': _frozen((kept,), jnp.dtype(dtype), ('value',), load=_as_stored),
    }

    def address(ids):
      return {'base': ids // _BLOCK, 'lane': ids % _BLOCK, 'mask': ids // _BLOCK, 'value': WHOLE}

    def encode(table):
      return _store(table, kept, dtype)

    def decode(gathered, **context):
      masks = gathered['mask'].reshape(*gathered['mask'].shape[:-1], _BLOCK, width)
      lane = gathered['lane'].astype(jnp.int32)[..., None]
      bits_of_lane = jnp.sum(jax.lax.population_count(masks), axis=-1, dtype=jnp.int32)
      before = jnp.arange(_BLOCK).reshape((1,) * (lane.ndim - 1) + (-1,)) < lane
      first = gathered['base'] + jnp.sum(jnp.where(before, bits_of_lane, 0), axis=-1)
      own = jnp.take_along_axis(masks, lane[..., None], axis=-2)[..., 0, :]
      bits = unpack(own, 1, cols).astype(jnp.int32)
      at = first[..., None] + jnp.cumsum(bits, axis=-1) - bits
      return jnp.where(bits > 0, gathered['value'].at[at].get(mode='clip').astype(jnp.float32), 0)

    return Codec(plan, encode, address, decode)

  return build


def _as_stored(rows):
  return rows


def _lanes(key, shape, dtype):
  del key
  return jnp.arange(shape[0]).astype(dtype)


def _frozen(shape, dtype, axes, init=_ZEROS, **more):
  return leaf_lib.Leaf(shape, dtype, axes, init, frozen=True, **more)


def _store(table, kept, dtype):
  """The arrays of `sparse_rows`, values in the order of rows."""
  table = jnp.pad(table, [(0, -table.shape[0] % _BLOCK), (0, 0)])
  mask = table != 0
  through = jnp.cumsum(mask.reshape(-1), dtype=jnp.int32)  # Values up to here, this one included.
  at = jnp.where(mask.reshape(-1), through - 1, kept)  # Zeros go nowhere.
  value = jnp.zeros(kept, dtype).at[at].set(table.reshape(-1).astype(dtype), mode='drop')
  of_block = jnp.sum(mask.reshape(-1, _BLOCK * table.shape[1]), axis=1, dtype=jnp.int32)
  # Past 2^31 values the count wraps: too many in any case.
  lost = (through[-1] > kept) | (through.min() < 0)
  packed = pack(mask.astype(jnp.uint8), 1)
  return {
    'base': jnp.cumsum(of_block) - of_block,
    'lane': _lanes(None, (_BLOCK,), jnp.uint8),
    'mask': packed.reshape(-1, _BLOCK * packed.shape[1]),
    'value': jnp.where(lost, jnp.array(jnp.nan, dtype), value),
  }
