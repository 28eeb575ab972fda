"""Fields are dropped at random by learned probabilities, and each has the price that it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax.compress import gate
from ctr_jax.compress.codec import technique

# 1 / keep scales what is kept. Below this probability it no longer grows: a draw in a hundred would
# otherwise be multiplied by a hundred.
_LEAST = 0.1


@technique
def fscd(price: float, temperature: float = 0.1, start: float = 0.5, anneal: int = 0):
  """vector = z / keep · row, z ~ Concrete(keep), and keeping costs `price` ("Towards a Better
  Tradeoff between Effectiveness and Efficiency in Pre-Ranking: A Learnable Feature Selection based
  Approach" (FSCD), Ma et al., SIGIR 2021).

  The paper's prior keeps field j with probability θ_j = 1 − σ(c_j), c_j its complexity, and the
  loss gets α_j z_j with α_j = log(1 − θ_j) − log θ_j. By algebra α_j ≡ c_j (`alpha` of `prior`):
  the prior is a linear price per field, no more and no less. Here it is in nats per sample, of the
  expected z, so it means the same for every batch size.

  Training is of all at once; then the best fields are kept, trained on from these weights without
  gates. Evaluated, vector = row: what is kept is scaled so that its mean is the row's (down to a
  keep of 0.1, below which the scale stays).

  Args:
    price: c_j, in nats per sample; see `prices`.
    temperature: of the relaxed draw.
    start: probability of keeping, at first.
    anneal: steps over which the price rises from 0.
  """
  if not 0 < start < 1 or temperature <= 0 or price < 0:
    raise ValueError(
      'fscd needs 0 < start < 1, temperature > 0 and price ≥ 0, got '
      f'{start}, {temperature} and {price}.'
    )

  def factor(logit, rows, *, train, rng, step, sample):
    del step
    if not train or rng is None:
      return jnp.ones_like(logit)
    keep = jax.nn.sigmoid(logit)
    return gate.concrete(logit, rows, rng, sample, temperature) / jnp.maximum(keep, _LEAST)

  def penalty(logit, *, step=None):
    return gate.price(price, logit, step, anneal)

  return lambda leaf: gate.gated(leaf, (1,), gate.logit(start), factor, penalty)


def prior(complexity: float) -> float:
  """θ = 1 − σ(c), the paper's prior probability of keeping a field of complexity c."""
  return 1 / (1 + np.exp(complexity))


def alpha(theta: float) -> float:
  """log(1 − θ) − log θ, the weight of z in the paper's loss. alpha(prior(c)) = c."""
  return np.log1p(-theta) - np.log(theta)


def prices(
  costs: Mapping[str, Sequence[float]],
  weight: float,
  shares: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> dict[str, float]:
  """c_j = weight · (γ₁ seconds + γ₂ bytes + γ₃ keys), each cost as a multiple of its mean.

  The paper gives γ₃ alone (1e-7, of raw keys); costs as multiples of their mean over the fields
  have no units, so that γ₁, γ₂, γ₃ say how much each counts: they are scaled to sum to one, and
  the mean price of a field is `weight`. A cost that no field has does not count.

  Args:
    costs: field → (seconds online, bytes, keys); `evaluate.costs` measures them.
    weight: the mean price of a field, in nats per sample.
    shares: γ₁, γ₂, γ₃.
  """
  if min(shares) < 0 or not sum(shares):
    raise ValueError(f'prices: shares are not negative and not all zero, got {shares}.')
  if len(shares) != 3:
    raise ValueError(f'prices: shares are of time, bytes and keys, got {shares}.')
  table = np.asarray([tuple(cost) for cost in costs.values()], np.float64)
  mean = table.mean(axis=0)
  counted = np.where(mean > 0, shares, 0.0)
  if not counted.any():
    raise ValueError(f'prices: by the shares {shares} no field costs anything; count other costs.')
  relative = table / np.where(mean > 0, mean, 1)
  found = weight * relative @ (counted / counted.sum())
  return {name: float(c) for name, c in zip(costs, found, strict=True)}
