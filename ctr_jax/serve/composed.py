"""Vectors that are put together from parts that ids share, without jax; see `codec`."""

from __future__ import annotations

import itertools
import math

import numpy as np

from ctr_jax.serve import hashing
from ctr_jax.serve.codec import WHOLE, Codec, Leaf
from ctr_jax.tables import bit_blocks, factors


def _hash_embedding(leaf, buckets, ways, weight_rows, seed):
  rows_, cols = leaf.shape
  weights = rows_ if weight_rows is None else min(weight_rows, rows_)
  plan = {
    'pool': leaf._replace(shape=(buckets, cols)),
    'weight': Leaf((weights, ways), 'float32', ('row', 'way')),
  }

  def address(ids):
    own = ids if weights == rows_ else hashing.bucket(ids, seed + ways, weights)
    return {'pool': hashing.family(ids, seed, ways, buckets), 'weight': own}

  def decode(xp, rows):
    return xp.sum(rows['pool'] * xp.expand_dims(rows['weight'], -1), axis=-2)

  return Codec(plan, address, decode)


def _robe(leaf, size, block, seed):
  cols = leaf.shape[1]
  width = min(block or cols, cols)
  offset = np.arange(cols, dtype=np.int32) % width

  def address(ids):
    start = hashing.family(ids, seed, math.ceil(cols / width), size)
    return {'array': (np.repeat(start, width, axis=-1)[..., :cols] + offset) % np.int32(size)}

  plan = {'array': leaf._replace(shape=(size, 1))}
  return Codec(plan, address, lambda xp, rows: xp.take(rows['array'], 0, axis=-1))


def _tensor_train(leaf, rank, cores):
  rows_, cols = leaf.shape
  heights, widths, ranks = factors.shapes(rows_, cols, rank, cores)
  names = [f'core_{k}' for k in range(cores)]
  plan = {
    name: leaf._replace(shape=(heights[k], ranks[k] * widths[k] * ranks[k + 1]))
    for k, name in enumerate(names)
  }

  def address(ids):
    return dict(zip(names, factors.digits(ids, heights), strict=True))

  def decode(xp, rows):
    inner = rows['core_0'].shape[1:-1]
    vectors, made = xp.reshape(rows['core_0'], (-1, *inner, widths[0], ranks[1])), widths[0]
    for k in range(1, cores):
      shape = (-1, *inner, ranks[k], widths[k] * ranks[k + 1])
      vectors, made = vectors @ xp.reshape(rows[names[k]], shape), made * widths[k]
      vectors = xp.reshape(vectors, (-1, *inner, made, ranks[k + 1]))
    return xp.take(vectors, 0, axis=-1)

  return Codec(plan, address, decode)


def _binary_code(leaf, block, bits, strategy, combine, seed):
  rows_, cols = leaf.shape
  blocks = bit_blocks.blocks(rows_, block, bits, strategy, hashed=seed is not None)
  widths = [cols] * len(blocks)
  if combine == 'concat':
    widths = [cols // len(blocks) + (b < cols % len(blocks)) for b in range(len(blocks))]
  names = [f'block_{b}' for b in range(len(blocks))]
  plan = {
    name: leaf._replace(shape=(own.rows, width))
    for name, own, width in zip(names, blocks, widths, strict=True)
  }

  def address(ids):
    code = ids.astype(np.uint32) if seed is None else hashing.mix(ids, seed)
    return {name: bit_blocks.read(code, own.bits) for name, own in zip(names, blocks, strict=True)}

  def decode(xp, rows):
    parts = [rows[name] for name in names]
    return xp.concatenate(parts, axis=-1) if combine == 'concat' else sum(parts[1:], parts[0])

  return Codec(plan, address, decode)


def _deep_hash(leaf, hashes, hidden, levels, seed):
  plan = {'levels': Leaf((levels,), 'float32', ('row',))}
  for i, (n, m) in enumerate(itertools.pairwise((hashes, *hidden, leaf.shape[1]))):
    plan[f'weight_{i}'] = Leaf((n, m), 'float32', ('in', 'out'))
    plan[f'bias_{i}'] = Leaf((m,), 'float32', ('out',))

  def address(ids):
    return dict.fromkeys(plan, WHOLE) | {'levels': hashing.family(ids, seed, hashes, levels)}

  def decode(xp, rows):
    x = rows['levels']
    for i in range(len(hidden) + 1):
      x = x @ rows[f'weight_{i}'] + rows[f'bias_{i}']
      x = _mish(xp, x) if i < len(hidden) else x
    return x

  return Codec(plan, address, decode)


def _mish(xp, x):
  """x · tanh(log(1 + eˣ)). tanh(log y) = (y² - 1) / (y² + 1), written so that nothing overflows."""
  one, two = np.float32(1), np.float32(2)
  u = xp.exp(-xp.maximum(x, -x))
  above = (one + two * u) / (one + two * u + two * u * u)  # u = e⁻ˣ.
  below = u * (u + two) / (u * (u + two) + two)  # u = eˣ.
  return x * xp.where(xp.maximum(x, np.float32(0)) != 0, above, below)


TECHNIQUES = {
  'hash_embedding': _hash_embedding,
  'robe': _robe,
  'tensor_train': _tensor_train,
  'binary_code': _binary_code,
  'deep_hash': _deep_hash,
}
"""Name → (table, **arguments of the technique) → codec."""
