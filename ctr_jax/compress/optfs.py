"""A gate for each value of a field, which a falling temperature closes or opens."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ctr_jax.compress import gate
from ctr_jax.compress.codec import technique

_START = 0.5


@technique
def optfs(weight: float = 1e-3, sharpness: float = 2000.0, steps: int = 1000):
  """vector = σ(β · g) / σ(g₀) · row with a gate g for each id ("Optimizing Feature Set for
  Click-Through Rate Prediction" (OptFS), Lyu et al., WWW 2023).

  β rises from 1 to `sharpness` geometrically, so that every gate ends at 0 or open; `weight` times
  the mean of the open gates that a batch reads is the price (L1 in the paper). It selects values,
  not fields; a field's strength is the mean of its gates by reads.

  Args:
    weight: the price of a field whose gates are all open, in nats per sample.
    sharpness: β at last.
    steps: over which it rises.
  """
  if weight < 0 or sharpness < 1 or steps < 1:
    raise ValueError(
      f'optfs needs weight ≥ 0, sharpness ≥ 1 and steps ≥ 1, got {weight}, {sharpness} and {steps}.'
    )

  def beta(step):
    return jnp.float32(sharpness) ** gate.ramp(step, steps) if step is not None else 1.0

  def factor(value, rows, *, train, rng, step, sample):
    del rows, train, rng, sample
    return jax.nn.sigmoid(beta(step) * value) / jax.nn.sigmoid(_START)

  def penalty(value, *, step=None):
    return weight * jnp.mean(jax.nn.sigmoid(beta(step) * value))

  return lambda leaf: gate.gated(leaf, (leaf.rows,), _START, factor, penalty, by_row=True)
