"""Logistic regression: a table's rows are the weights themselves."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctr_jax.models import labels


class LR(nn.Module):
  """logit = bias + Σ_fields w."""

  def width(self, dim: int) -> int:
    del dim
    return 1

  def labels(self, fields: Sequence[str], width: int) -> dict[str, labels.Axes]:
    return {}

  @nn.compact
  def __call__(self, vectors: jax.Array, *, train: bool) -> jax.Array:
    del train
    return jnp.sum(vectors[..., 0], axis=1) + self.param('bias', nn.initializers.zeros, (1,))
