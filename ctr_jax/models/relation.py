"""The relational network: every pair of fields by a few shared symmetric matrices.

Named in Alibaba's "From Massive to Compact", which has no formula; this is what its words describe:
one interaction matrix that all pairs share, symmetric, inside the deep part. In place of a table of
crossed ids a pair costs one number for each head.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax.models import labels, layers

# Matrices of the heads are drawn one by one: without it their number would count as a fan.
_matrices = nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal', batch_axis=0)


def _near_identity(key, shape):
  """Inner products, which are known to help, and as much again that differs from head to head."""
  return jnp.eye(shape[-1])[None] + _matrices(key, shape)


def _through(vectors, matrices):
  """e_i S_h for all fields and heads: [batch, fields · heads, dim], by one product."""
  batch, fields, dim = vectors.shape
  wide_DxHD = matrices.transpose(1, 0, 2).reshape(dim, -1)
  return (vectors.reshape(-1, dim) @ wide_DxHD).reshape(batch, fields * len(matrices), dim)


def _products(vectors, matrices):
  """e_iᵀ S_h e_j for all i, h, j: [batch, fields · heads, fields]."""
  return jnp.einsum('bkd,bjd->bkj', _through(vectors, matrices), vectors)


@jax.custom_vjp
def pairs(vectors: jax.Array, matrices: jax.Array) -> jax.Array:
  """r_ijh = e_iᵀ S_h e_j for i < j.

  Autodiff would scatter into the square of all products and multiply twice more; since S is
  symmetric, one product does for both sides. With G_h the gradients as a symmetric matrix of
  fields, zero on the diagonal,

    M_h = G_h E,   dE = Σ_h M_h S_h,   dS_h = ½ Eᵀ M_h,

  of which the symmetric part counts. experiments/bench/relation_step.py has the times.

  Args:
    vectors: [batch, fields, dim].
    matrices: [heads, dim, dim], symmetric: the gradient is wrong for others.

  Returns:
    [batch, pairs · heads], pairs in the order (0, 1), (0, 2) ... (1, 2) ..., heads side by side.
  """
  batch, fields, _ = vectors.shape
  i, j = np.triu_indices(fields, 1)
  heads = np.arange(len(matrices))
  upper = ((i[:, None] * len(heads) + heads[None]) * fields + j[:, None]).reshape(-1)
  square = _products(vectors, matrices).reshape(batch, -1)
  return square.at[:, upper].get(mode='promise_in_bounds')


def _forward(vectors, matrices):
  return pairs(vectors, matrices), (vectors, matrices)


def _backward(residuals, gradient):
  vectors, matrices = residuals
  batch, fields, dim = vectors.shape
  heads = len(matrices)
  if fields == 1:
    return jnp.zeros_like(vectors), jnp.zeros_like(matrices)
  i, j = np.triu_indices(fields, 1)
  place = np.zeros((fields, fields), np.int64)
  place[i, j] = place[j, i] = np.arange(len(i))
  source = (place[:, None] * heads + np.arange(heads)[None, :, None]).reshape(-1)
  apart = np.repeat(~np.eye(fields, dtype=bool)[:, None], heads, axis=1).reshape(-1)
  g_BxFHF = jnp.where(apart[None], gradient.at[:, source].get(mode='promise_in_bounds'), 0.0)
  m_BxFHxD = jnp.einsum('bkj,bjd->bkd', g_BxFHF.reshape(batch, -1, fields), vectors)
  m_BFxHD = m_BxFHxD.reshape(-1, heads * dim)
  d_vectors = m_BFxHD @ matrices.transpose(0, 2, 1).reshape(-1, dim)
  d_DxHxD = 0.5 * (vectors.reshape(-1, dim).T @ m_BFxHD).reshape(dim, heads, dim)
  return d_vectors.reshape(vectors.shape), d_DxHxD.transpose(1, 0, 2)


pairs.defvjp(_forward, _backward)


def attend(vectors: jax.Array, matrices: jax.Array, values: jax.Array) -> jax.Array:
  """e_i + Σ_h Σ_j a_ijh e_j V_h with a_ijh = softmax_j(e_iᵀ S_h e_j / √dim).

  The softmax is divided after the mixing, its sums being one more column of that product: the
  squares of fields are the large arrays here, and both ways each is read once less.

  Args:
    vectors: [batch, fields, dim].
    matrices: S, [heads, dim, dim].
    values: V, [heads, dim, dim]; zeros leave the vectors as they are.

  Returns:
    [batch, fields, dim].
  """
  _, fields, dim = vectors.shape
  scores_BxFHxF = _products(vectors, matrices / dim**0.5)
  highest = jax.lax.stop_gradient(jnp.max(scores_BxFHxF, axis=-1, keepdims=True))
  counted_BxFxD1 = jnp.pad(vectors, ((0, 0), (0, 0), (0, 1)), constant_values=1.0)
  sums_BxFHxD1 = jnp.einsum('bkj,bjd->bkd', jnp.exp(scores_BxFHxF - highest), counted_BxFxD1)
  mixed_BxFHxD = sums_BxFHxD1[..., :dim] / sums_BxFHxD1[..., dim:]
  mixed_BxFxHD = mixed_BxFHxD.reshape(-1, fields, len(matrices) * dim)
  return vectors + mixed_BxFxHD @ values.reshape(-1, dim)


class Relation(nn.Module):
  """What pairs of fields say: more columns for an MLP, by S_h = (A_h + A_hᵀ) / 2.

  Attributes:
    heads: shared matrices.
    mode: 'pairwise', the products of `pairs`, fields · (fields - 1) / 2 · heads columns; or
      'attentive', the vectors of `attend`, fields · dim columns.
  """

  heads: int = 4
  mode: str = 'pairwise'

  def columns(self, fields: Sequence[str], width: int) -> list[labels.Label]:
    """Labels of the columns that it adds, see `labels`."""
    del width
    if self.mode != 'pairwise':
      raise ValueError(
        f'No part can be taken of a net with a relation in mode {self.mode!r}: its softmax gives '
        "weight to vectors of zeros too. Use the mode 'pairwise', or train a net anew."
      )
    return labels.pairs(fields, self.heads)

  @nn.compact
  def __call__(self, vectors: jax.Array) -> jax.Array:
    if self.mode not in ('pairwise', 'attentive'):
      raise ValueError(f"A relation's mode is 'pairwise' or 'attentive', got {self.mode!r}.")
    shape = (self.heads, vectors.shape[-1], vectors.shape[-1])
    halves = self.param('matrices', _near_identity, shape)
    matrices = 0.5 * (halves + halves.transpose(0, 2, 1))
    if self.mode == 'pairwise':
      return pairs(vectors, matrices)
    return layers.flatten(attend(vectors, matrices, self.param('values', _matrices, shape)))


def related(net, *, heads: int = 4, mode: str = 'pairwise', **options) -> nn.Module:
  """`net` with a relation among its MLP's inputs: related(DCN, heads=8, cross_layers=2)."""
  return net(interaction=Relation(heads, mode), **options)
