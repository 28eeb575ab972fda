"""The plain deep net: an MLP over the concatenated vectors."""

from collections.abc import Sequence

import flax.linen as nn
import jax

from ctr_jax.models import labels, layers


class DNN(nn.Module):
  """logit = w · MLP([v_1 ... v_F]) + bias.

  Attributes:
    hidden: units of the MLP.
    dropout: of the MLP.
    batch_norm: in the MLP.
    interaction: vectors -> [batch, columns], more columns for the MLP (see `relation`, and
      `inner_product`); None for none. The other deep nets take one too.
  """

  hidden: Sequence[int] = (400, 400, 400)
  dropout: float = 0.2
  batch_norm: bool = True
  interaction: nn.Module | None = None

  weighs_all = True

  def width(self, dim: int) -> int:
    return dim

  def labels(self, fields: Sequence[str], width: int) -> dict[str, labels.Axes]:
    return labels.deep(self.hidden, labels.joined(self.interaction, fields, width))

  @nn.compact
  def __call__(self, vectors: jax.Array, *, train: bool) -> jax.Array:
    mlp = layers.MLP(self.hidden, self.dropout, self.batch_norm, name='mlp')
    x = layers.joined(layers.flatten(vectors), self.interaction, vectors)
    return layers.Output(name='output')(mlp(x, train=train))
