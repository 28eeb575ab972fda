"""A pool of shared rows, and weights per id that say how much of each."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax.compress import hashing
from ctr_jax.compress.codec import Codec, technique
from ctr_jax.compress.multi_hash import bucket_mean, fit_shared
from ctr_jax.tables import leaf as leaf_lib

# Keeps the normal equations of an id solvable when its ways read the same row.
_RIDGE = 1e-6


@technique
def hash_embedding(buckets: int, ways: int = 2, weight_rows: int | None = None, seed: int = 0):
  """Σ_k p_k(id) · pool[h_k(id)] (Svenstrup et al., "Hash Embeddings", NeurIPS 2017).

  Ids that collide in every way still differ by their weights. With all weights equal to one ≡
  multi_hash(buckets, ways, shared=True); with one way besides, ≡ hash_trick(buckets).

  Args:
    buckets: rows of the shared pool.
    ways: k, rows of the pool that an id mixes.
    weight_rows: n', rows of the weights; every id has its own if not given, else they are hashed.
    seed: way j uses seed + j, the weights seed + ways.
  """
  if buckets < 1 or ways < 1 or (weight_rows is not None and weight_rows < 1):
    raise ValueError(
      'hash_embedding needs buckets, ways and weight_rows of at least one, got '
      f'{buckets}, {ways} and {weight_rows}.'
    )

  def build(leaf):
    rows, cols = leaf.shape
    weights = rows if weight_rows is None else min(weight_rows, rows)
    start = leaf_lib.constant(1 / math.sqrt(ways))  # Keeps the variance of what is decoded.
    plan = {
      'pool': dataclasses.replace(leaf, shape=(buckets, cols)),
      'weight': leaf_lib.Leaf((weights, ways), jnp.float32, ('row', 'way'), start, decay=False),
    }

    def address(ids):
      xp = jnp if isinstance(ids, jax.Array) else np
      pool = xp.stack([hashing.bucket(ids, seed + j, buckets) for j in range(ways)], axis=-1)
      own = ids if weights == rows else hashing.bucket(ids, seed + ways, weights)
      return {'pool': pool, 'weight': own}

    def decode(gathered, **context):
      return jnp.einsum('...kd,...k->...d', gathered['pool'], gathered['weight'])

    def encode(table):
      table = table.astype(jnp.float32)
      at = address(jnp.arange(rows))
      (pool,) = fit_shared(table, list(jnp.moveaxis(at['pool'], -1, 0)), buckets)
      read = pool[at['pool']]
      gram = jnp.einsum('nkd,njd->nkj', read, read)
      ridge = _RIDGE * (1 + jnp.trace(gram, axis1=1, axis2=2)[:, None, None]) * jnp.eye(ways)[None]
      wanted = jnp.einsum('nkd,nd->nk', read, table)
      weight = jnp.linalg.solve(gram + ridge, wanted[..., None])[..., 0]
      return {
        'pool': plan['pool'].stored(pool),
        'weight': weight if weights == rows else bucket_mean(weight, at['weight'], weights),
      }

    return Codec(plan, encode, address, decode)

  return build
