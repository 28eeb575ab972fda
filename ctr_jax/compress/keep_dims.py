"""The first columns of a table, and no others."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from ctr_jax.compress.codec import Codec, technique


@technique
def keep_dims(dims: int):
  """The first `dims` columns; the others read as zero.

  decode ∘ encode = table · diag(1^dims, 0^(cols − dims)): the squared error is what the dropped
  columns held. A net of any width keeps its shape, and a linear weight, being column 0, is kept.
  For columns that are not ordered by importance `low_rank` loses less.

  Args:
    dims: columns stored. Lossless when all are.
  """
  if dims < 1:
    raise ValueError(f'keep_dims needs dims ≥ 1, got {dims}; for no table at all use drop().')

  def build(leaf):
    rows, cols = leaf.shape
    if dims > cols:
      raise ValueError(f'keep_dims: {dims} columns cannot be kept of a table of {cols}.')
    plan = dataclasses.replace(leaf, shape=(rows, dims))

    def decode(kept, **context):
      return jnp.pad(kept, [(0, 0)] * (kept.ndim - 1) + [(0, cols - dims)])

    return Codec(plan, lambda table: plan.stored(table[:, :dims]), lambda ids: ids, decode)

  return build
