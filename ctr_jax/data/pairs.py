"""Clicks of pairs of values, and what a model is told of them."""

from collections.abc import Sequence
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


def counted(first: str, second: str, u: np.ndarray, v: np.ndarray, labels: np.ndarray) -> Pairs:
  """The pairs of some samples, in order of (u, v); those with a row 0 are none.

  Without an engine: for a day's samples, which fit the memory (`crosses.known` asks all of train).

  Args:
    first: feature.
    second: feature.
    u: int32 [samples], rows of `first`.
    v: int32 [samples], of `second`.
    labels: [samples], 0 or 1.
  """
  there = (u > 0) & (v > 0)
  keys = u[there].astype(np.int64) << 32 | v[there]
  distinct, inverse, count = np.unique(keys, return_inverse=True, return_counts=True)
  clicks = np.bincount(inverse, labels[there], len(distinct)).astype(np.int64)
  rows = (distinct >> 32).astype(np.int32), (distinct & 0xFFFFFFFF).astype(np.int32)
  return Pairs(first, second, *rows, clicks, count.astype(np.int64))


def merged(parts: Sequence[Pairs]) -> Pairs:
  """The pairs of all samples of some days, of which each was counted once: a window that slides.

  Raises:
    ValueError: no days, or pairs of other features.
  """
  if len({(x.first, x.second) for x in parts}) != 1:
    raise ValueError('Statistics are merged of at least one part, all of the same two features.')
  u, v, clicks, count = (np.concatenate(x) for x in list(zip(*parts, strict=True))[2:])
  keys = u.astype(np.int64) << 32 | v
  distinct, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
  sums = [np.zeros(len(distinct), np.int64) for _ in range(2)]
  for total, part in zip(sums, (clicks, count), strict=True):
    np.add.at(total, inverse, part)
  return Pairs(parts[0].first, parts[0].second, u[first], v[first], *sums)


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
