"""Deep & Cross Network (Wang et al. 2017): a cross network with weight vectors beside an MLP."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from ctr_jax.models import layers


class Cross(nn.Module):
  """x_{l+1} = x_0 · (w_l · x_l) + b_l + x_l."""

  depth: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x0 = x
    for i in range(self.depth):
      kernel = self.param(f'kernel_{i}', layers.xavier_normal, (x.shape[1], 1))
      bias = self.param(f'bias_{i}', nn.initializers.zeros, (x.shape[1],))
      x = x0 * (x @ kernel) + bias[None] + x
    return x


class DCN(nn.Module):
  """logit = w · [Cross(x), MLP(x)] + bias with x = [v_1 ... v_F]."""

  hidden: Sequence[int] = (400, 400, 400)
  dropout: float = 0.2
  batch_norm: bool = True
  cross_layers: int = 3
  interaction: nn.Module | None = None

  def width(self, dim: int) -> int:
    return dim

  @nn.compact
  def __call__(self, vectors: jax.Array, *, train: bool) -> jax.Array:
    x = layers.flatten(vectors)
    cross = Cross(self.cross_layers, name='cross')(x)
    mlp = layers.MLP(self.hidden, self.dropout, self.batch_norm, name='mlp')
    deep = mlp(layers.joined(x, self.interaction, vectors), train=train)
    return layers.Output(name='output')(cross, deep)
