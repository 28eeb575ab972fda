"""Factorization machine (Rendle 2010)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctr_jax.models import labels


def pairs(vectors: jax.Array) -> jax.Array:
  """Σ_{i<j} ⟨v_i, v_j⟩ = (|Σ v|² - Σ |v|²) / 2, for each row of [batch, fields, dim]."""
  total = jnp.sum(vectors, axis=1)
  return 0.5 * (jnp.sum(jnp.square(total), axis=-1) - jnp.sum(jnp.square(vectors), axis=(1, 2)))


class FM(nn.Module):
  """logit = bias + Σ_fields w + Σ_{i<j} ⟨v_i, v_j⟩. A row of a table is [w, v...]."""

  def width(self, dim: int) -> int:
    return dim + 1

  def labels(self, fields: Sequence[str], width: int) -> dict[str, labels.Axes]:
    return {}

  @nn.compact
  def __call__(self, vectors: jax.Array, *, train: bool) -> jax.Array:
    del train
    linear = jnp.sum(vectors[..., 0], axis=1)
    bias = self.param('bias', nn.initializers.zeros, (1,))
    return linear + pairs(vectors[..., 1:]) + bias
