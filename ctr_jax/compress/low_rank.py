"""A narrow table and one matrix that widens its rows."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from ctr_jax.compress.codec import WHOLE, Codec, technique
from ctr_jax.tables import leaf as leaf_lib


@technique
def low_rank(rank: int):
  """Rows of `rank` columns times one matrix [rank, cols] (as each block of mixed dimensions, MDE).

  `encode` is the best matrix of that rank (Eckart–Young): with E = U S Vᵀ it stores E·V_r and V_rᵀ,
  and the squared error is the sum of the discarded s². V comes from the Gram matrix EᵀE, cols×cols
  whatever the rows, so that singular values below 3e-4 of the largest drown in float32's rounding:
  their directions are arbitrary, and so is the error that they could cause.

  The matrix is shared by all ids, read whole, and trained by the net's optimizer.

  Args:
    rank: columns stored. Lossless when rank = cols.
  """
  if rank < 1:
    raise ValueError(f'low_rank needs rank ≥ 1, got {rank}; for no table at all use drop().')

  def build(leaf):
    rows, cols = leaf.shape
    if rank > cols:
      raise ValueError(f'low_rank: rank {rank} is more than the {cols} columns of the table.')
    # A sum of `rank` products of variance var/rank: decoded vectors keep the table's variance.
    spread = leaf_lib.normal(1 / math.sqrt(rank))
    plan = {
      'projection': leaf_lib.Leaf((rank, cols), jnp.float32, ('rank', 'col'), spread, decay=False),
      'table': dataclasses.replace(leaf, shape=(rows, rank)),
    }

    def decode(gathered, **context):
      return gathered['table'] @ gathered['projection']

    def encode(table):
      table = table.astype(jnp.float32)
      precise = jax.lax.Precision.HIGHEST  # Accelerators would round factors to 10 bits or fewer.
      _, vectors = jnp.linalg.eigh(jnp.matmul(table.T, table, precision=precise))
      basis = vectors[:, ::-1][:, :rank]  # Ascending eigenvalues: the last are the largest.
      narrow = jnp.matmul(table, basis, precision=precise)
      return {'projection': basis.T, 'table': plan['table'].stored(narrow)}

    def address(ids):
      return {'projection': WHOLE, 'table': ids}

    return Codec(plan, encode, address, decode)

  return build
