"""Whether two models differ: over seeds (paired t), and over test samples (DeLong).

The two tests ask different things, and a difference is worth its name where both say so:

- `paired_t` asks whether other seeds would show it. With three to five seeds it is the test that
  can: a permutation of signs has no p below 2^(1−n) (0.25 with three), and drawing seeds again
  (bootstrap) gives intervals that are too narrow. It leans on differences being near normal.
- `delong` asks whether other test samples would show it, of the models as they were trained. Seeds
  are averaged, so that it does not take seeds for samples.

Neither is corrected for the number of rows in a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


def paired_t(first: Sequence[float], second: Sequence[float]) -> float | None:
  """Two-sided p of mean(first − second) = 0, pairs being the same seed.

  Args:
    first: a metric of one model, by seed.
    second: of the other, by the same seeds.

  Returns:
    t = mean · √n / s of the differences, by Student's distribution with n − 1 degrees of freedom.
    None where that says nothing: fewer than two pairs, or no two differences that differ.

  Raises:
    ValueError: they are not equally long.
  """
  if len(first) != len(second):
    raise ValueError(f'Pairs need two equally long lists, got {len(first)} and {len(second)}.')
  differences = np.subtract(first, second, dtype=np.float64)
  if len(differences) < 2:
    return None
  spread = differences.std(ddof=1)
  if spread <= 1e-12 * max(1.0, float(np.abs(differences).max())):
    return None
  t = differences.mean() * math.sqrt(len(differences)) / spread
  return float(2 * stats.t.sf(abs(t), len(differences) - 1))


class Delong(NamedTuple):
  """Of two models on the same samples.

  Attributes:
    difference: AUC of the first − AUC of the second, the mean over seeds.
    error: its standard error over samples.
    p: two-sided, by the normal distribution; where the error is 0, 1 if the two rank alike, else 0.
  """

  difference: float
  error: float
  p: float


def delong(labels, first, second) -> Delong:
  """Whether AUCs on the same samples differ (DeLong, DeLong and Clarke-Pearson, Biometrics 1988).

  An AUC is a mean over positives of the share of negatives that each beats, and as well a mean over
  negatives of the share of positives that each is beaten by. The variance of these shares gives
  that of the AUC; of the differences of two models' shares, that of the difference. Shares come
  from ranks, so it is one sort for each model.

  Args:
    labels: 0 or 1, [n].
    first: scores of one model, [n] or [seeds, n]; shares are averaged over seeds.
    second: of the other, likewise; it may have another number of seeds.

  Raises:
    ValueError: fewer than two samples of a class, or scores that are not one per sample.
  """
  positive = np.asarray(labels) == 1
  if min(positive.sum(), (~positive).sum()) < 2:
    raise ValueError('DeLong needs two samples of each class: of fewer there is no variance.')
  high, low = (
    x - y for x, y in zip(_shares(positive, first), _shares(positive, second), strict=True)
  )
  error = math.sqrt(high.var(ddof=1) / len(high) + low.var(ddof=1) / len(low))
  difference = float(high.mean())
  if error > 0:
    p = float(2 * stats.norm.sf(abs(difference) / error))
  else:  # Every sample says the same: that they rank alike, or that they do not.
    p = float(difference == 0)
  return Delong(difference, error, p)


def _shares(positive, scores):
  """(share of negatives below each positive, share of positives above each negative), ties half."""
  scores = np.atleast_2d(np.asarray(scores, np.float64))
  if scores.shape[1:] != positive.shape:
    raise ValueError(f'{positive.size} labels need scores [seeds, n], got {scores.shape}.')
  found = []
  for one in scores:
    high, low = one[positive], one[~positive]
    whole = stats.rankdata(one)
    of_high = (whole[positive] - stats.rankdata(high)) / len(low)
    of_low = 1 - (whole[~positive] - stats.rankdata(low)) / len(high)
    found.append((of_high, of_low))
  return [np.mean(x, axis=0) for x in zip(*found, strict=True)]
