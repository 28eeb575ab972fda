"""Frequent ids in rows of their own, the others by two hashes."""

from __future__ import annotations

from ctr_jax.compress.codec import technique
from ctr_jax.compress.multi_hash import multi_hash
from ctr_jax.compress.partition import hot_cold


@technique
def double_hash_by_frequency(hot: int, buckets: int, combine: str = 'sum', seed: int = 0):
  """A row for each of the `hot` most frequent ids; two hashes for the rest (Zhang et al., "Model
  Size Reduction Using Frequency Based Double Hashing for Recommender Systems", RecSys 2020).

  ≡ hot_cold(hot, multi_hash(buckets, 2, combine)).

  Args:
    hot: K, ids with a row of their own.
    buckets: rows of each of the two hashed tables.
    combine: 'sum' or 'concat' of the two.
    seed: of the hashes.
  """
  return hot_cold(hot, multi_hash(buckets, 2, combine, seed=seed)).build
