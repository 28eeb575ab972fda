"""Inner products of all pairs of fields beside the vectors: IPNN (Qu et al. 2016).

DLRM (Naumov et al. 2019) joins the same products to an MLP.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctr_jax.models import dnn, labels, relation


class InnerProduct(nn.Module):
  """⟨v_i, v_j⟩ for i < j: a relation of one head that is the identity. Nothing to learn."""

  def columns(self, fields: Sequence[str], width: int) -> list[labels.Label]:
    del width
    return labels.pairs(fields)

  @nn.compact
  def __call__(self, vectors: jax.Array) -> jax.Array:
    return relation.pairs(vectors, jnp.eye(vectors.shape[-1], dtype=vectors.dtype)[None])


def ipnn(**options) -> dnn.DNN:
  """logit = w · MLP([v_1 ... v_F, ⟨v_1, v_2⟩ ...]) + bias."""
  return dnn.DNN(interaction=InnerProduct(), **options)
