"""FiBiNET (Huang et al. 2019): weighted fields (SENet) and bilinear products of pairs."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax.models import labels, layers


class Squeeze(nn.Module):
  """v_i · a_i with a = relu(relu(z W_1) W_2) and z_i the mean of v_i: which fields matter, here.

  Attributes:
    reduction: how many times fewer units than fields are between W_1 and W_2.
  """

  reduction: int = 3

  @nn.compact
  def __call__(self, vectors: jax.Array) -> jax.Array:
    fields = vectors.shape[1]
    squeezed = layers.Linear(max(1, fields // self.reduction), use_bias=False, name='reduce')(
      jnp.mean(vectors, axis=-1)
    )
    expand = layers.Linear(fields, use_bias=False, name='expand')
    return vectors * jnp.maximum(expand(jnp.maximum(squeezed, 0.0)), 0.0)[..., None]


def _pairs_or_refuse(fields):
  if fields < 2:
    raise ValueError('Bilinear products are of pairs: FiBiNET needs two fields or more.')


class Bilinear(nn.Module):
  """(v_i W) ⊙ v_j for i < j: [batch, pairs, dim].

  Attributes:
    kind: 'all', one W; 'each', W_i for each field i that stands on the left; 'interaction', W_ij.
  """

  kind: str = 'interaction'

  @nn.compact
  def __call__(self, vectors: jax.Array) -> jax.Array:
    fields, dim = vectors.shape[1:]
    _pairs_or_refuse(fields)
    i, j = np.triu_indices(fields, 1)
    numbers = {'all': 1, 'each': fields - 1, 'interaction': len(i)}
    if self.kind not in numbers:
      raise ValueError(f'A bilinear kind is one of {", ".join(numbers)}, got {self.kind!r}.')
    init = nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal', batch_axis=0)
    kernel_NxDxD = self.param('kernel', init, (numbers[self.kind], dim, dim))
    if self.kind == 'interaction':
      return jnp.einsum('bpd,pde->bpe', vectors[:, i], kernel_NxDxD) * vectors[:, j]
    if self.kind == 'each':
      left = jnp.einsum('bid,ide->bie', vectors[:, :-1], kernel_NxDxD)
    else:
      left = vectors @ kernel_NxDxD[0]
    return left[:, i] * vectors[:, j]


class FiBiNET(nn.Module):
  """logit = Σ_fields w + w · MLP([p, q]) + bias. A row of a table is [w, v...].

  p are the bilinear products of the vectors and q those of the vectors that SENet weighted, by the
  same matrices.

  Attributes:
    hidden: of the MLP.
    dropout: of the MLP.
    batch_norm: in the MLP.
    bilinear: kind of `Bilinear`.
    reduction: of `Squeeze`.
  """

  hidden: Sequence[int] = (400, 400, 400)
  dropout: float = 0.3
  batch_norm: bool = True
  bilinear: str = 'interaction'
  reduction: int = 3

  def width(self, dim: int) -> int:
    return dim + 1

  def labels(self, fields: Sequence[str], width: int) -> dict[str, labels.Axes]:
    """A product keeps the order of its pair. `part` refuses where the bottleneck gets smaller."""
    pairs, each = list(combinations(fields, 2)), labels.columns(fields, 1)
    _pairs_or_refuse(len(fields))
    matrices = {'interaction': [labels.Label(p, 0) for p in pairs], 'each': each[:-1], 'all': None}
    products = [labels.Label(pair, i) for pair in pairs for i in range(width - 1)]
    squeezed = labels.units(max(1, len(fields) // self.reduction))
    inputs = labels.within('plain', products) + labels.within('weighted', products)
    return labels.deep(self.hidden, inputs) | {
      'bilinear/kernel': (matrices[self.bilinear], None, None),
      'squeeze/reduce/kernel': (each, squeezed),
      'squeeze/expand/kernel': (squeezed, each),
    }

  def widened(
    self, fresh: Mapping[str, Any], fields: Sequence[str], more: Sequence[str]
  ) -> dict[str, Any]:
    """New weights by which fields that have been there see nothing of what is new.

    Units that the bottleneck gets with more fields give the old ones no weight at first. The field
    that was last gets a matrix ('each'), for its pairs with new ones alone.

    Args:
      fresh: path → weights of the net over `more`, before training.
      fields: of the net that grows.
      more: all of them and new ones.
    """
    expand = np.array(fresh['squeeze/expand/kernel'])
    new_units = np.arange(len(expand)) >= max(1, len(fields) // self.reduction)
    expand[np.ix_(new_units, [field in fields for field in more])] = 0
    return {**fresh, 'squeeze/expand/kernel': expand}

  @nn.compact
  def __call__(self, vectors: jax.Array, *, train: bool) -> jax.Array:
    linear, vectors = jnp.sum(vectors[..., 0], axis=1), vectors[..., 1:]
    bilinear = Bilinear(self.bilinear, name='bilinear')
    weighted = Squeeze(self.reduction, name='squeeze')(vectors)
    x = jnp.concatenate([layers.flatten(bilinear(v)) for v in (vectors, weighted)], axis=1)
    mlp = layers.MLP(self.hidden, self.dropout, self.batch_norm, name='mlp')
    return linear + layers.Output(name='output')(mlp(x, train=train))
