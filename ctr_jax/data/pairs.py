"""Clicks of pairs of values, and what a model is told of them."""

from typing import NamedTuple

import numpy as np


class Pairs(NamedTuple):
  """Statistics of one pair of features: the distinct pairs of values that a history holds.

  Attributes:
    first: feature.
    second: feature.
    u: int32 [pairs], row numbers (1 and more) in the table of `first`.
    v: int32 [pairs], in that of `second`.
    clicks: int64 [pairs].
    count: int64 [pairs], at least 1.
  """

  first: str
  second: str
  u: np.ndarray
  v: np.ndarray
  clicks: np.ndarray
  count: np.ndarray


def lift(clicks, count, prior, strength: float) -> np.ndarray:
  """Log-odds of the smoothed click rate (clicks + s·prior) / (count + s), less those of the prior.

  So it is in the units of a logit, and 0 for what was never seen.

  Args:
    clicks: [n].
    count: [n].
    prior: the click rate that is expected without any: a number or [n], in (0, 1).
    strength: s > 0, how many samples the prior counts for.

  Returns:
    float32 [n].
  """
  clicks, count = np.asarray(clicks, np.float64), np.asarray(count, np.float64)
  prior = np.asarray(prior, np.float64)
  if strength <= 0 or not ((prior > 0) & (prior < 1)).all():
    raise ValueError('Click rates are smoothed by a strength above 0 to a prior between 0 and 1.')
  rate = (clicks + strength * prior) / (count + strength)
  found = np.log(rate / (1 - rate)) - np.log(prior / (1 - prior))
  return np.where(count > 0, found, 0.0).astype(np.float32)
