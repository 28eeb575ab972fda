"""A factor for each field that a steep function pulls to 0 or near 1."""

from __future__ import annotations

import jax.numpy as jnp

from ctr_jax.compress import gate
from ctr_jax.compress.codec import technique


@technique
def lpfs(
  epsilon: float = 0.1, decay: float = 0.9978, every: int = 100, slope: float = 10.0, tau: float = 2
):
  """vector = g(x) · row, g(x) = sign(x) · x²/(x² + ε) + slope · ε^(1/τ) · atan(x) ("LPFS: Learnable
  Polarizing Feature Selection for Click-Through Rate Prediction", Guo et al., 2022; the form LPFS++
  with the constants of the ERASE benchmark).

  As ε falls, g becomes a step at x = 0; the second term lets a field that has got to 0 come back.
  Fields are ranked by x. There is no price.

  Args:
    epsilon: ε at first.
    decay: ε is multiplied by it ...
    every: ... once in so many steps.
    slope: α of the paper.
    tau: τ.
  """
  if epsilon <= 0 or not 0 < decay <= 1 or every < 1 or tau <= 0:
    raise ValueError(
      'lpfs needs epsilon > 0, 0 < decay ≤ 1, every ≥ 1 and tau > 0, got '
      f'{epsilon}, {decay}, {every} and {tau}.'
    )

  def factor(x, rows, *, train, rng, step, sample):
    del rows, train, rng, sample
    now = epsilon if step is None else epsilon * decay ** (step // every).astype(jnp.float32)
    square = jnp.square(x)
    step_like = jnp.sign(x) * square / (square + now)
    return step_like + slope * now ** (1 / tau) * jnp.arctan(x)

  return lambda leaf: gate.gated(leaf, (1,), 1.0, factor)
