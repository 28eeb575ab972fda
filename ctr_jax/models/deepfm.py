"""DeepFM (Guo et al. 2017): an MLP and a factorization machine over the same vectors."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctr_jax.models import fm, labels, layers


class DeepFM(nn.Module):
  """logit = w · MLP([v_1 ... v_F]) + bias + Σ_fields w + Σ_{i<j} ⟨v_i, v_j⟩. A row is [w, v...]."""

  hidden: Sequence[int] = (400, 400, 400)
  dropout: float = 0.2
  batch_norm: bool = True
  interaction: nn.Module | None = None

  def width(self, dim: int) -> int:
    return dim + 1

  def labels(self, fields: Sequence[str], width: int) -> dict[str, labels.Axes]:
    return labels.deep(self.hidden, labels.joined(self.interaction, fields, width - 1))

  @nn.compact
  def __call__(self, vectors: jax.Array, *, train: bool) -> jax.Array:
    linear, vectors = jnp.sum(vectors[..., 0], axis=1), vectors[..., 1:]
    mlp = layers.MLP(self.hidden, self.dropout, self.batch_norm, name='mlp')
    x = layers.joined(layers.flatten(vectors), self.interaction, vectors)
    deep = layers.Output(name='output')(mlp(x, train=train))
    return deep + linear + fm.pairs(vectors)
