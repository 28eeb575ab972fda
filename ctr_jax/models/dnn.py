"""The plain deep net: an MLP over the concatenated vectors."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from ctr_jax.models import layers


class DNN(nn.Module):
  """logit = w · MLP([v_1 ... v_F]) + bias."""

  hidden: Sequence[int] = (400, 400, 400)
  dropout: float = 0.2
  batch_norm: bool = True

  def width(self, dim: int) -> int:
    return dim

  @nn.compact
  def __call__(self, vectors: jax.Array, *, train: bool) -> jax.Array:
    mlp = layers.MLP(self.hidden, self.dropout, self.batch_norm, name='mlp')
    return layers.Output(name='output')(mlp(layers.flatten(vectors), train=train))
