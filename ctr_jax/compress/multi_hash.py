"""Several hashes of each id, combined.

`encode` of a trained table is the least-squares answer of one way after another: each way takes the
mean, per bucket, of what the ways before it have left over.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax.compress import hashing
from ctr_jax.compress.codec import WHOLE, Codec, technique
from ctr_jax.tables import leaf as leaf_lib


def bucket_mean(table: jax.Array, index: jax.Array, buckets: int) -> jax.Array:
  """Mean of the rows of `table` [rows, cols] in each bucket; empty buckets are zero."""
  total = jnp.zeros((buckets, table.shape[1]), table.dtype).at[index].add(table)
  # Whole numbers: float32 stops counting at 2^24.
  count = jnp.zeros((buckets, 1), jnp.int32).at[index].add(1)
  return total / jnp.maximum(count, 1).astype(table.dtype)


def _address(ids, way: int, rows: int, buckets: int, seed: int):
  # With as many buckets as rows the first way needs no hash: every id has a bucket to itself, so
  # the technique is lossless from there on.
  if way == 0 and buckets >= rows:
    return ids
  return hashing.bucket(ids, seed + way, buckets)


def widths_of(cols: int, ways: int, combine: str) -> list[int]:
  """Columns of each way: all of them, or with 'concat' a share."""
  if combine != 'concat':
    return [cols] * ways
  return [cols // ways + (way < cols % ways) for way in range(ways)]


def _started(init, ways: int, combine: str):
  """The init of a way that keeps the variance of what is decoded."""
  if ways == 1 or combine == 'concat':
    return init
  return scaled(init, math.sqrt(ways) if combine == 'mean' else 1 / math.sqrt(ways))


@technique
def multi_hash(
  buckets: int, ways: int = 2, combine: str = 'sum', shared: bool = False, seed: int = 0
):
  """`ways` independent hashes of each id, combined (multi-hash, "From Massive to Compact").

  Two ids are one only where all ways agree: about n/m^k colliding ids per id, against 1 − e^(−n/m)
  for one hash of m buckets.

  Args:
    buckets: m, rows of each way (of the one table, if shared).
    ways: k.
    combine: 'sum', 'mean', 'concat' (cols/k columns each) or 'weights' (a sum with k learned
      weights, which start at one).
    shared: all ways read one table. Not with 'concat'. A plain sum over a shared table cannot tell
      (a, b) from (b, a); 'weights' can.
    seed: of the first hash; way j uses seed + j.
  """
  if combine not in ('sum', 'mean', 'concat', 'weights'):
    raise ValueError(f'multi_hash combines by sum, mean, concat or weights, got {combine!r}.')
  if buckets < 1 or ways < 1:
    raise ValueError(f'multi_hash needs buckets ≥ 1 and ways ≥ 1, got {buckets} and {ways}.')
  if shared and combine == 'concat':
    raise ValueError(
      'multi_hash: ways that are concatenated differ in width, so none can be shared.'
    )

  def build(leaf):
    rows, cols = leaf.shape
    if combine == 'concat' and ways > cols:
      raise ValueError(f'multi_hash: {ways} ways cannot share out {cols} columns.')
    stored = min(buckets, rows) if ways == 1 else buckets
    widths = widths_of(cols, ways, combine)
    init = _started(leaf.init, ways, combine)
    table = [
      dataclasses.replace(leaf, shape=(stored, width), init=init)
      for width in (widths[:1] if shared else widths)
    ]
    names = ['ways'] if shared else [f'way_{j}' for j in range(ways)]
    plan = dict(zip(names, table, strict=True))
    if combine == 'weights':
      plan['weights'] = leaf_lib.Leaf(
        (ways,), jnp.float32, ('way',), leaf_lib.constant(1.0), decay=False
      )

    def index(ids):
      return [_address(ids, way, rows, stored, seed) for way in range(ways)]

    def address(ids):
      if shared:
        xp = jnp if isinstance(ids, jax.Array) else np
        found = {'ways': xp.stack(index(ids), axis=-1)}
      else:
        found = dict(zip(names, index(ids), strict=True))
      return found | ({'weights': WHOLE} if combine == 'weights' else {})

    def decode(gathered, **context):
      if shared:
        parts = [gathered['ways'][..., way, :] for way in range(ways)]
      else:
        parts = [gathered[name] for name in names]
      if combine == 'concat':
        return jnp.concatenate(parts, axis=-1)
      if combine == 'weights':
        parts = [part * gathered['weights'][way] for way, part in enumerate(parts)]
      total = sum(parts[1:], parts[0])
      return total / ways if combine == 'mean' else total

    def encode(table):
      at = index(jnp.arange(rows))
      fitted = fit_shared(table, at, stored) if shared else fit(table, at, [stored] * ways, widths)
      if combine == 'mean':
        fitted = [way * ways for way in fitted]
      arrays = dict(zip(names, fitted, strict=True))
      arrays = {name: plan[name].stored(x) for name, x in arrays.items()}
      return arrays | ({'weights': jnp.ones((ways,))} if combine == 'weights' else {})

    return Codec(plan, encode, address, decode)

  return build


def scaled(init: leaf_lib.Init, factor: float) -> leaf_lib.Init:
  """`init` with its draws multiplied by `factor`."""

  def init_scaled(key, shape, dtype):
    return (factor * init(key, shape, jnp.float32)).astype(dtype)

  return init_scaled


def fit(table: jax.Array, index, buckets, widths) -> list[jax.Array]:
  """The arrays of several ways, whose rows are added (or concatenated) to give an id's vector.

  Args:
    table: [rows, cols].
    index: for each way the row that each id reads, [rows].
    buckets: rows of each way.
    widths: columns of each way: cols for a sum, shares of them for a concatenation.
  """
  table = table.astype(jnp.float32)
  if sum(widths) == table.shape[1]:  # A concatenation, or a single way.
    starts = [sum(widths[:j]) for j in range(len(widths))]
    return [
      bucket_mean(table[:, start : start + width], where, n)
      for start, width, where, n in zip(starts, widths, index, buckets, strict=True)
    ]
  left, ways = table, []
  for where, n in zip(index, buckets, strict=True):
    ways.append(bucket_mean(left, where, n))
    left = left - ways[-1][where]
  return ways


def fit_shared(table: jax.Array, index, buckets: int) -> list[jax.Array]:
  """One table that every way reads and whose rows are added: each reader's share, averaged."""
  one = sum(bucket_mean(table.astype(jnp.float32), where, buckets) for where in index)
  return [one / len(index) ** 2]
