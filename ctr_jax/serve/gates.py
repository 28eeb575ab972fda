"""Gates, masks and what a mask has left, as they are evaluated, without jax; see `codec`."""

from __future__ import annotations

import math

import numpy as np

from ctr_jax.serve.codec import WHOLE, Codec, Leaf, unpacked


def _gated(leaf, factor, width=1):
  """vector = row · factor(xp, gate), one gate for the table or `width` for its columns."""
  gate = Leaf((width,), 'float32', ('gate',))
  return Codec(
    {'table': leaf, 'gate': gate},
    lambda ids: {'table': ids, 'gate': WHOLE},
    lambda xp, rows: rows['table'] * factor(xp, rows['gate']),
  )


def _sigmoid(xp, x):
  """It does not overflow, which 1 / (1 + exp(-x)) does."""
  half = np.float32(0.5)
  return half + half * xp.tanh(half * x)


def _droprank(leaf, weight, per, temperature, start, anneal):
  del weight, temperature, start, anneal  # Of training.
  return _gated(leaf, _sigmoid, 1 if per == 'field' else leaf.shape[1])


def _autofield(leaf, temperature, least, cooling, every):
  del temperature, least, cooling, every
  return _gated(leaf, _sigmoid)


def _lpfs(leaf, epsilon, decay, every, slope, tau):
  del decay, every
  pull = np.float32(slope * epsilon ** (1 / tau))

  def factor(xp, x):
    square = x * x
    return xp.sign(x) * square / (square + np.float32(epsilon)) + pull * xp.arctan(x)

  return _gated(leaf, factor)


def _fscd(leaf, price, temperature, start, anneal):
  del price, temperature, start, anneal
  return Codec(
    {'table': leaf, 'gate': Leaf((1,), 'float32', ('gate',))},
    lambda ids: {'table': ids, 'gate': WHOLE},
    lambda xp, rows: rows['table'],
  )


def _optfs(leaf, weight, sharpness, steps):
  del weight, sharpness, steps
  first = np.float32(1 + math.exp(-0.5))  # 1 / σ of what a gate starts from.

  def decode(xp, rows):
    return rows['table'] * xp.expand_dims(_sigmoid(xp, rows['gate']) * first, -1)

  gate = Leaf((leaf.shape[0],), 'float32', ('row',))
  return Codec({'table': leaf, 'gate': gate}, lambda ids: {'table': ids, 'gate': ids}, decode)


def _prune(leaf, threshold, start, decay):
  """sign(v) · ReLU(|v| − σ(s)), as what is above the threshold less what is below its negative."""
  del start, decay
  rows_, cols = leaf.shape
  shape, axes = {
    'table': ((1,), ('threshold',)),
    'column': ((cols,), ('col',)),
    'row': ((rows_,), ('row',)),
  }[threshold]
  by_row = threshold == 'row'

  def decode(xp, rows):
    values, cut = rows['table'], _sigmoid(xp, rows['threshold'])
    cut = xp.expand_dims(cut, -1) if by_row else cut
    zero = np.float32(0)
    return xp.maximum(values - cut, zero) - xp.maximum(-values - cut, zero)

  plan = {'table': leaf, 'threshold': Leaf(shape, 'float32', axes)}
  return Codec(plan, lambda ids: {'table': ids, 'threshold': ids if by_row else WHOLE}, decode)


def _masked(leaf):
  rows_, cols = leaf.shape
  bits = Leaf((rows_, math.ceil(cols / 8)), 'uint8', ('row', 'mask'))

  def decode(xp, rows):
    return rows['table'] * unpacked(xp, rows['mask'], 1, cols).astype(np.float32)

  return Codec({'table': leaf, 'mask': bits}, lambda ids: {'table': ids, 'mask': ids}, decode)


_BLOCK = 16  # Of `compress.sparse_rows`: ids that share one count of the values before them.


def _sparse_rows(leaf, kept, dtype):
  rows_, cols = leaf.shape
  width, blocks = math.ceil(cols / 8), math.ceil(rows_ / _BLOCK)
  plan = {
    'base': Leaf((blocks,), 'int32', ('row',)),
    'lane': Leaf((_BLOCK,), 'uint8', ('row',)),
    'mask': Leaf((blocks, _BLOCK * width), 'uint8', ('row', 'byte')),
    'value': Leaf((kept,), dtype, ('value',)),
  }
  lanes, zero = np.arange(_BLOCK, dtype=np.float32), np.float32(0)
  before = np.triu(np.ones((cols, cols), np.float32), 1)

  def address(ids):
    block, lane = ids // np.int32(_BLOCK), ids % np.int32(_BLOCK)
    return {'base': block, 'lane': lane, 'mask': block, 'value': WHOLE}

  def decode(xp, rows):
    packed = xp.reshape(rows['mask'], (-1, *rows['mask'].shape[1:-1], _BLOCK, width))
    bits = unpacked(xp, packed, 1, cols).astype(np.float32)  # [..., lanes, cols]
    ahead = xp.expand_dims(rows['lane'].astype(np.float32), -1) - lanes
    earlier = xp.maximum(xp.sign(ahead), zero)  # One where a lane is before the id's own.
    here = xp.maximum(np.float32(1) - xp.maximum(ahead, -ahead), zero)  # One in its own.
    own = xp.sum(xp.expand_dims(here, -1) * bits, axis=-2)
    skipped = xp.sum(earlier * xp.sum(bits, axis=-1), axis=-1).astype(np.int32)
    # All counts are of one block, so that float32 holds them.
    at = xp.expand_dims(rows['base'] + skipped, -1) + (own @ before).astype(np.int32)
    at = xp.minimum(xp.maximum(at, np.int32(0)), np.int32(kept - 1))  # As jax clips.
    values = xp.take(rows['value'], at, axis=0)
    return xp.where(own != 0, values, zero)

  return Codec(plan, address, decode)


TECHNIQUES = {
  'droprank': _droprank,
  'autofield': _autofield,
  'lpfs': _lpfs,
  'fscd': _fscd,
  'optfs': _optfs,
  'prune': _prune,
  'masked': _masked,
  'sparse_rows': _sparse_rows,
}
"""Name → (table, **arguments of the technique) → codec."""
