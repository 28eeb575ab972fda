"""Fields (or columns) are dropped at random while training, with probabilities that are learned."""

from __future__ import annotations

import jax

from ctr_jax.compress import gate
from ctr_jax.compress.codec import technique


@technique
def droprank(
  weight: float = 1e-3,
  per: str = 'field',
  temperature: float = 0.1,
  start: float = 0.9,
  anneal: int = 0,
):
  """vector = z · row, z ~ Concrete(keep), and a price for keeping ("Dropout Feature Ranking for
  Deep Learning Models", Chang et al., 2017; Droprank in "From Massive to Compact").

  The loss gets weight · keep for each field, in nats per sample: a field is kept if the model
  loses more than that without it, whatever the batch size. (Published code divides by the batch,
  so that its weight has to be chosen again with it.) Fields are
  then ranked by the gate, the logit of keep (of columns by its mean).

  In two stages: train, then learn the gates alone, the net and the tables at rest. In one: all at
  once. Evaluated, vector = keep · row, the draw's mean; `encode` divides by it.

  Args:
    weight: λ, the price of a field, in nats per sample.
    per: a gate for the whole 'field', or one for each 'column' (a column then costs λ / columns).
    temperature: of the relaxed draw.
    start: probability of keeping, at first.
    anneal: steps over which λ rises from 0.
  """
  if per not in ('field', 'column'):
    raise ValueError(f"droprank has a gate per 'field' or per 'column', got {per!r}.")
  if not 0 < start < 1 or temperature <= 0 or weight < 0:
    raise ValueError(
      'droprank needs 0 < start < 1, temperature > 0 and weight ≥ 0, got '
      f'{start}, {temperature} and {weight}.'
    )

  def factor(logit, rows, *, train, rng, step, sample):
    del step
    if not train or rng is None:
      return jax.nn.sigmoid(logit)
    return gate.concrete(logit, rows, rng, sample, temperature)

  def penalty(logit, *, step=None):
    return gate.price(weight, logit, step, anneal)

  def build(leaf):
    shape = (1,) if per == 'field' else (leaf.shape[1],)
    return gate.gated(leaf, shape, gate.logit(start), factor, penalty)

  return build
