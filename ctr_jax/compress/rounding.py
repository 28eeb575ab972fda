"""Stochastic rounding: the value above or below at random, so that the mean is the value.

An update much smaller than the distance between two stored values is lost when it is rounded to the
nearest; rounded at random it is kept on average (Gupta et al., "Deep Learning with Limited
Numerical Precision", ICML 2015).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ctr_jax.compress import hashing


def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Numbers in [0, 1), float32: a hash of (key, position).

  As good as this needs, and a tenth of what threefry's bits cost on the CPU.
  """
  seed = jax.random.bits(key, dtype=jnp.uint32)
  bits = hashing.mix(jnp.arange(math.prod(shape), dtype=jnp.uint32), seed)
  return ((bits >> jnp.uint32(8)).astype(jnp.float32) * jnp.float32(2**-24)).reshape(shape)


def to_integer(x: jax.Array, key: jax.Array | None) -> jax.Array:
  """Whole numbers, as floats: at random about x with a key, the nearest without."""
  if key is None:
    return jnp.round(x)
  return jnp.floor(x + uniform(key, x.shape))


def to_type(x: jax.Array, dtype, key: jax.Array | None) -> jax.Array:
  """x float32 in a shorter floating-point type: at random with a key, the nearest without."""
  near = x.astype(dtype)
  if key is None:
    return near
  error = x - near.astype(jnp.float32)
  toward = jnp.where(error > 0, jnp.inf, -jnp.inf).astype(dtype)
  other = jnp.nextafter(near, toward)
  gap = other.astype(jnp.float32) - near.astype(jnp.float32)
  chance = jnp.where(error == 0, 0, error / jnp.where(gap == 0, 1, gap))
  # Beyond the largest value there is no neighbour to choose.
  return jnp.where((uniform(key, x.shape) < chance) & jnp.isfinite(other), other, near)
