"""Shared rows, and a scalar per id that says how long its vector is."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from ctr_jax.compress.codec import Codec, technique
from ctr_jax.compress.multi_hash import bucket_mean
from ctr_jax.tables import leaf as leaf_lib

# Of a shared row's square: a variation below it is rounding, and no multiplier is fitted to it.
_TINY = 1e-6


@technique
def memcom(buckets: int, bias: bool = True):
  """Row id mod m, times a scalar of the id's own, plus another (MEmCom, Pansare et al., "Learning
  compressed embeddings for on-device inference", MLSys 2022).

  Ids that share a row still differ, by one or two values of storage each. With multipliers of one
  and biases of zero, which is how training starts, ≡ the row of id mod m. The scalars are stored in
  the table's own type: after cast('float16') they take two bytes.

  Args:
    buckets: m, the shared rows. Lossless when m ≥ the table's rows. Ids are row numbers by
      frequency, so the m most frequent ids never share a row among themselves.
    bias: whether a scalar per id is added to every column.
  """
  if buckets < 1:
    raise ValueError(f'memcom needs buckets ≥ 1, got {buckets}.')

  def build(leaf):
    rows, cols = leaf.shape
    stored = min(buckets, rows)

    def scalar(value):
      start = leaf_lib.constant(value)
      return dataclasses.replace(leaf, shape=(rows,), axes=('row',), init=start, decay=False)

    plan = {
      'shared': dataclasses.replace(leaf, shape=(stored, cols)),
      'multiplier': scalar(1.0),
    } | ({'bias': scalar(0.0)} if bias else {})

    def address(ids):
      return {'shared': ids % stored, 'multiplier': ids} | ({'bias': ids} if bias else {})

    def decode(gathered, **context):
      vectors = gathered['shared'] * gathered['multiplier'][..., None]
      return vectors + gathered['bias'][..., None] if bias else vectors

    def encode(table):
      table = table.astype(jnp.float32)
      at = jnp.arange(rows) % stored
      shared = bucket_mean(table, at, stored)
      arrays = {'shared': shared} | _scalars(table, shared[at], bias)
      return {name: plan[name].stored(x) for name, x in arrays.items()}

    return Codec(plan, encode, address, decode)

  return build


def _scalars(table, basis, bias):
  """Per row, the multiplier (and bias) of least squares; one where the basis says nothing."""
  middle, own = (
    x.mean(axis=1, keepdims=True) if bias else jnp.zeros((x.shape[0], 1)) for x in (basis, table)
  )
  product = jnp.sum((basis - middle) * (table - own), axis=1)
  square = jnp.sum(jnp.square(basis - middle), axis=1)
  fits = square > _TINY * jnp.sum(jnp.square(basis), axis=1)
  multiplier = jnp.where(fits, product / jnp.where(fits, square, 1), 1)
  if not bias:
    return {'multiplier': multiplier}
  return {'multiplier': multiplier, 'bias': own[:, 0] - multiplier * middle[:, 0]}
