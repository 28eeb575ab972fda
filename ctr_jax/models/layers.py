"""What the nets are made of: linear layers and the MLP (Linear -> BatchNorm -> ReLU -> dropout)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from ctr_jax.models import dropout, fused

# torch's BatchNorm1d: running ← (1 - momentum) · running + momentum · batch.
EPSILON = 1e-5
MOMENTUM = 0.1

# Not nn.initializers.glorot_normal, which draws from a truncated normal.
xavier_normal = nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal')


def flatten(vectors: jax.Array) -> jax.Array:
  """[batch, fields, width] -> [batch, fields · width]."""
  return vectors.reshape(vectors.shape[0], -1)


def joined(x: jax.Array, interaction: nn.Module | None, vectors: jax.Array) -> jax.Array:
  """What an MLP reads: `x`, and beside it what an interaction makes of the vectors.

  Args:
    x: [batch, inputs].
    interaction: a module, vectors -> [batch, columns]; None for none.
    vectors: [batch, fields, dim].
  """
  return x if interaction is None else jnp.concatenate([x, interaction(vectors)], axis=1)


class Linear(nn.Module):
  """x · kernel + bias, Xavier normal and zeros."""

  units: int
  use_bias: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param('kernel', xavier_normal, (x.shape[-1], self.units))
    if not self.use_bias:
      return x @ kernel
    return x @ kernel + self.param('bias', nn.initializers.zeros, (self.units,))[None]


class Output(nn.Module):
  """One logit for each row, from one or more parts as if they were concatenated.

  A product for each part and a sum: the concatenation, as large as the parts, is never made.
  """

  @nn.compact
  def __call__(self, *parts: jax.Array) -> jax.Array:
    widths = [x.shape[-1] for x in parts]
    kernel = self.param('kernel', xavier_normal, (sum(widths), 1))
    logit = self.param('bias', nn.initializers.zeros, (1,))
    start = 0
    for x, width in zip(parts, widths, strict=True):
      logit = logit + (x @ kernel[start : start + width])[:, 0]
      start += width
    return logit


class HiddenLayer(nn.Module):
  """Linear -> BatchNorm -> ReLU -> dropout, with torch's BatchNorm1d semantics.

  Batches are normalised by their biased variance; the running variance averages unbiased ones. In
  training the bias is left out of the product: the normalisation takes it away again, so its
  gradient is exactly zero, and only the running mean is to know of it.
  """

  units: int
  rate: float
  batch_norm: bool

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    kernel = self.param('kernel', xavier_normal, (x.shape[-1], self.units))
    bias = self.param('bias', nn.initializers.zeros, (self.units,))
    x = x @ kernel
    seed = jnp.uint32(0)
    if train and self.rate > 0.0:
      seed = dropout.seed_from(self.make_rng('dropout'))
    if self.batch_norm:
      return self._normalised(x, bias, seed, train)
    x = jnp.maximum(x + bias[None], 0.0)
    return dropout.dropout(x, seed, self.rate) if train else x

  def _normalised(self, x, bias, seed, train):
    scale = self.param('scale', nn.initializers.ones, (self.units,))
    offset = self.param('offset', nn.initializers.zeros, (self.units,))
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, (self.units,))
    running_variance = self.variable('batch_stats', 'variance', jnp.ones, (self.units,))
    if not train:
      gain = scale * jax.lax.rsqrt(running_variance.value + EPSILON)
      shift = offset + (bias - running_mean.value) * gain
      return jnp.maximum(x * gain[None] + shift[None], 0.0)
    y, mean, variance = fused.norm_relu_drop(x, scale, offset, seed, self.rate, EPSILON)
    if not self.is_initializing():
      n = x.shape[0]
      mean, variance = jax.lax.stop_gradient((mean + bias, variance * (n / max(n - 1, 1))))
      running_mean.value += MOMENTUM * (mean - running_mean.value)
      running_variance.value += MOMENTUM * (variance - running_variance.value)
    return y


class MLP(nn.Module):
  """Hidden layers, without an output layer."""

  hidden: Sequence[int]
  rate: float
  batch_norm: bool = True

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    for i, units in enumerate(self.hidden):
      x = HiddenLayer(units, self.rate, self.batch_norm, name=f'layer_{i}')(x, train=train)
    return x
