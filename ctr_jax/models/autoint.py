"""AutoInt (Song et al. 2019): fields attend to each other; AutoInt+ has an MLP beside it."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctr_jax.models import dropout, layers


class LayerNorm(nn.Module):
  """(x - mean) / √(variance + eps) · scale + offset along the last axis."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],))
    offset = self.param('offset', nn.initializers.zeros, (x.shape[-1],))
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(variance + layers.EPSILON)
    return normal * scale[None, None] + offset[None, None]


class Attention(nn.Module):
  """relu(norm([Σ_j a_ijh V_h e_j over heads h] + R e_i)) with a_ijh = softmax_j(Q_h e_i · K_h e_j).

  R is the identity where the width stays and a matrix where it changes. No product has a bias. The
  dropout is on the weights a.

  Attributes:
    units: of all heads together.
    heads: that share them.
    rate: of the dropout.
    scaled: divide the products by √(units / heads), as later papers do.
    layer_norm: normalise before the ReLU.
  """

  units: int
  heads: int
  rate: float = 0.0
  scaled: bool = False
  layer_norm: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    batch, fields, width = x.shape
    if self.units % self.heads:
      raise ValueError(
        f'{self.heads} heads cannot share {self.units} units of attention: take a multiple of the '
        'heads.'
      )
    names = ['query', 'key', 'value'] + ['residual'] * (width != self.units)
    kernels = [self.param(n, layers.xavier_normal, (width, self.units)) for n in names]
    # One large product for all of them.
    projected = x.reshape(-1, width) @ jnp.concatenate(kernels, axis=1)
    parts = jnp.split(projected.reshape(batch, fields, -1), len(kernels), axis=-1)
    query, key, value = (p.reshape(batch, fields, self.heads, -1) for p in parts[:3])
    if self.scaled:
      query = query / (self.units // self.heads) ** 0.5
    weights_BxHxFxF = jax.nn.softmax(jnp.einsum('bihu,bjhu->bhij', query, key), axis=-1)
    if train and self.rate > 0.0:
      seed = dropout.seed_from(self.make_rng('dropout'))
      flat = dropout.dropout(weights_BxHxFxF.reshape(-1, fields), seed, self.rate)
      weights_BxHxFxF = flat.reshape(weights_BxHxFxF.shape)
    mixed = jnp.einsum('bhij,bjhu->bihu', weights_BxHxFxF, value).reshape(batch, fields, -1)
    y = mixed + (parts[3] if len(parts) == 4 else x)
    if self.layer_norm:
      y = LayerNorm(name='norm')(y)
    return jnp.maximum(y, 0.0)


class AutoInt(nn.Module):
  """logit = w · [layers of attention over v_1 ... v_F] + bias, plus, if `hidden`, an MLP's logit.

  Attributes:
    hidden: of the MLP over the concatenated vectors; () for none.
    dropout: of attention weights and MLP.
    batch_norm: in the MLP.
    attention_layers: one after the other.
    heads: of each.
    attention_units: of each, all heads together.
    scaled: see `Attention`.
    layer_norm: see `Attention`.
  """

  hidden: Sequence[int] = ()
  dropout: float = 0.0
  batch_norm: bool = True
  attention_layers: int = 6
  heads: int = 4
  attention_units: int = 128
  scaled: bool = False
  layer_norm: bool = False

  def width(self, dim: int) -> int:
    return dim

  def labels(self, fields: Sequence[str], width: int):
    raise ValueError(
      f'No part can be taken of {type(self).__name__}: its softmax over fields gives weight to '
      'vectors of zeros too. Train a net anew, or use one without attention.'
    )

  @nn.compact
  def __call__(self, vectors: jax.Array, *, train: bool) -> jax.Array:
    x, options = vectors, (self.heads, self.dropout, self.scaled, self.layer_norm)
    for i in range(self.attention_layers):
      x = Attention(self.attention_units, *options, name=f'attention_{i}')(x, train=train)
    logit = layers.Output(name='output')(layers.flatten(x))
    if not self.hidden:
      return logit
    mlp = layers.MLP(self.hidden, self.dropout, self.batch_norm, name='mlp')
    return logit + layers.Output(name='deep')(mlp(layers.flatten(vectors), train=train))


class AutoIntPlus(AutoInt):
  """AutoInt with an MLP beside it, scaled products and layer norms."""

  hidden: Sequence[int] = (400, 400, 400)
  dropout: float = 0.1
  attention_layers: int = 5
  scaled: bool = True
  layer_norm: bool = True
