"""One hash: the hashing trick."""

from __future__ import annotations

from ctr_jax.compress import multi_hash as multi_hash_lib
from ctr_jax.compress.codec import technique


@technique
def hash_trick(buckets: int, seed: int = 0):
  """Row h(id) mod buckets (Weinberger et al., "Feature hashing", 2009).

  Two ids that collide share everything; an id of n meets another with probability
  1 − (1 − 1/m)^(n−1) ≈ 1 − e^(−n/m). ≡ multi_hash(buckets, ways=1).

  Args:
    buckets: m, the rows stored. Lossless when m ≥ the table's rows.
    seed: of the hash.
  """
  return multi_hash_lib.multi_hash(buckets, ways=1, seed=seed).build
