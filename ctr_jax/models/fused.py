"""BatchNorm -> ReLU -> dropout in one function with a hand-written backward.

Autodiff of the plain formula is right but wasteful on every backend: it stores the normalised
input, the mask of the ReLU and that of the dropout. All it needs is the input `x` and the output
`y`, and both are alive anyway (y is what the next product's weight gradient reads), because

  y > 0  ⟺  the unit was active and was kept,

so the gradient passes where y > 0 and neither mask is stored or hashed again.
"""

from functools import partial

import jax
import jax.numpy as jnp

from ctr_jax.models import dropout


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Mean and biased variance of each column, the variance around the mean (never E[x²] - mean²)."""
  mean = jnp.mean(x, axis=0)
  return mean, jnp.mean(jnp.square(x - mean[None]), axis=0)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def norm_relu_drop(
  x: jax.Array, scale: jax.Array, offset: jax.Array, seed: jax.Array, rate: float, eps: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """y = keep · relu(scale · (x - mean) / √(variance + eps) + offset) / (1 - rate).

  Args:
    x: [batch, units].
    scale: [units].
    offset: [units].
    seed: uint32 [], names the dropout mask.
    rate: of the dropout.
    eps: of the normalisation.

  Returns:
    y, and x's mean and biased variance over the batch. The latter are for running averages: no
    gradient flows through them.
  """
  mean, variance = moments(x)
  gain = scale * jax.lax.rsqrt(variance + eps)
  # The dropout's 1 / (1 - rate) is folded into the columns: relu(c·v) = c·relu(v) for c > 0.
  slope, shift = gain / (1.0 - rate), (offset - mean * gain) / (1.0 - rate)
  y = jnp.maximum(x * slope[None] + shift[None], 0.0)
  if rate > 0.0:
    y = jnp.where(dropout.keep(seed, x.shape, rate), y, 0.0)
  return y, mean, variance


def _forward(x, scale, offset, seed, rate, eps):
  y, mean, variance = norm_relu_drop(x, scale, offset, seed, rate, eps)
  return (y, mean, variance), (x, y, mean, variance, scale)


def _backward(rate, eps, residuals, gradients):
  """With v = (x - mean) / std and g the gradient where y > 0, over 1 - rate:

  d offset = Σ g,   d scale = Σ g·v,   dx = scale / std · (g - mean(g) - v · mean(g·v)).
  """
  x, y, mean, variance, scale = residuals
  inverse = jax.lax.rsqrt(variance + eps)
  passed = jnp.where(y > 0.0, gradients[0], 0.0) / (1.0 - rate)
  centred = x - mean[None]
  d_offset = jnp.sum(passed, axis=0)
  d_scale = jnp.sum(passed * centred, axis=0) * inverse
  drift = d_scale * inverse / x.shape[0]
  dx = passed - (d_offset / x.shape[0])[None] - centred * drift[None]
  return dx * (scale * inverse)[None], d_scale, d_offset, None


norm_relu_drop.defvjp(_forward, _backward)
