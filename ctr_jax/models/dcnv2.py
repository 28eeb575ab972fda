"""DCN V2 (Wang et al. 2021): a cross network with full matrices beside an MLP."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from ctr_jax.models import labels, layers


class CrossV2(nn.Module):
  """x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l."""

  depth: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x0 = x
    for i in range(self.depth):
      x = x0 * layers.Linear(x.shape[1], name=f'layer_{i}')(x) + x
    return x


class DCNv2(nn.Module):
  """logit = w · [CrossV2(x), MLP(x)] + bias with x = [v_1 ... v_F] (the paper's parallel form)."""

  hidden: Sequence[int] = (400, 400, 400)
  dropout: float = 0.4
  batch_norm: bool = True
  cross_layers: int = 4
  interaction: nn.Module | None = None

  weighs_all = True

  def width(self, dim: int) -> int:
    return dim

  def labels(self, fields: Sequence[str], width: int) -> dict[str, labels.Axes]:
    """Where x_0 is zero every x_l is: it is enough to leave rows and columns out."""
    own, deep = labels.mlp(self.hidden, labels.joined(self.interaction, fields, width))
    x = labels.columns(fields, width)
    for i in range(self.cross_layers):
      own |= {f'cross/layer_{i}/kernel': (x, x), f'cross/layer_{i}/bias': (x,)}
    return own | {'output/kernel': (labels.within('cross', x) + deep, None)}

  @nn.compact
  def __call__(self, vectors: jax.Array, *, train: bool) -> jax.Array:
    x = layers.flatten(vectors)
    cross = CrossV2(self.cross_layers, name='cross')(x)
    mlp = layers.MLP(self.hidden, self.dropout, self.batch_norm, name='mlp')
    deep = mlp(layers.joined(x, self.interaction, vectors), train=train)
    return layers.Output(name='output')(cross, deep)
