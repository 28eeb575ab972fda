"""AUC, GAUC, log loss and calibration: exact, in NumPy and float64.

Labels are 0 or 1, scores any numbers that order the samples, logits log-odds; all 1-D, one per
sample.
"""

from typing import Any, NamedTuple

import numpy as np


def _checked(labels, scores, what: str, finite: bool) -> tuple[np.ndarray, np.ndarray]:
  """Labels as booleans and scores as an array, or a sentence on what is wrong with them."""
  labels, scores = np.asarray(labels), np.asarray(scores)
  if labels.ndim != 1 or labels.shape != scores.shape:
    raise ValueError(
      f'Labels and {what} must be 1-D and equally long, got shapes {labels.shape} and '
      f'{scores.shape}.'
    )
  if not labels.size:
    raise ValueError('There are no samples to measure.')
  positive = labels == 1
  if not np.all(positive | (labels == 0)):
    row = int(np.argmin(positive | (labels == 0)))
    raise ValueError(f'Labels must be 0 or 1; sample {row} has {labels[row]}.')
  good = np.isfinite(scores) if finite else ~np.isnan(scores)
  if not good.all():
    row = int(np.argmin(good))
    raise ValueError(
      f'{int((~good).sum())} of {len(scores)} {what} are not numbers that can be measured, the '
      f'first {scores[row]} at sample {row}: the model has diverged, or read a value that it '
      'should not.'
    )
  return positive, scores


def auc(labels, scores) -> float:
  """Probability that a positive scores above a negative, ties counting one half.

  With n₊ positives and n₋ negatives: Σ over positives of (negatives below + negatives at most) /
  (2 n₊ n₋). The sum is one of integers, so it is exact.
  """
  positive, scores = _checked(labels, scores, 'scores', finite=False)
  high, low = np.sort(scores[positive]), np.sort(scores[~positive])
  if not high.size or not low.size:
    raise ValueError(f'AUC needs both classes; all {len(scores)} labels are {int(positive[0])}.')
  below = np.searchsorted(low, high, 'left').sum(dtype=np.int64)
  at_most = np.searchsorted(low, high, 'right').sum(dtype=np.int64)
  return int(below + at_most) / (2 * high.size * low.size)


class Gauc(NamedTuple):
  """AUC within groups.

  Attributes:
    value: mean of the groups' AUCs, weighted by their rows.
    groups: groups with both classes, the only ones that have an AUC.
    rows: in these groups.
    share: of all rows.
  """

  value: float
  groups: int
  rows: int
  share: float


def _starts(*keys: np.ndarray) -> np.ndarray:
  """Where runs of equal keys begin."""
  change = np.zeros(len(keys[0]), bool)
  change[0] = True
  for key in keys:
    change[1:] |= key[1:] != key[:-1]
  return np.flatnonzero(change)


def gauc(labels, scores, groups, missing: int | None = None) -> Gauc:
  """AUC of each group's rows, averaged over groups with both classes, weighted by rows.

  GAUC = Σ_g n_g AUC_g / Σ_g n_g (Zhu et al., "Optimized Cost per Click in Taobao", 2017). One sort
  and three segment sums; no loop over groups.

  Args:
    labels: 0 or 1.
    scores: numbers that order the samples.
    groups: integers, one per sample.
    missing: the number of those whose group is not known: they are no group, and have no AUC.

  Raises:
    ValueError: no group has both classes, or what is given does not fit.
  """
  found = _gauc(labels, scores, groups, missing)
  if found is None:
    number = len(np.unique(groups))
    raise ValueError(f'GAUC needs a group with both classes; none of {number} groups has.')
  return found


def _gauc(labels, scores, groups, missing):
  """`gauc`, or None where no group has both classes."""
  positive, scores = _checked(labels, scores, 'scores', finite=False)
  groups = np.asarray(groups)
  if groups.shape != scores.shape:
    raise ValueError(
      f'Groups must be one per sample: {groups.shape} groups, {scores.shape} scores.'
    )
  order = np.lexsort((scores, groups))
  positive, scores, groups = positive[order].astype(np.int64), scores[order], groups[order]

  # Runs of equal scores within a group are ties; groups are runs of ties.
  ties, of_group = _starts(groups, scores), _starts(groups)
  first_tie = np.searchsorted(ties, of_group)
  high = np.add.reduceat(positive, ties)
  low = np.diff(ties, append=len(scores)) - high
  below = np.cumsum(low) - low
  below -= np.repeat(below[first_tie], np.diff(first_tie, append=len(ties)))

  twice_wins = np.add.reduceat(high * (2 * below + low), first_tie)
  n_high, n_low = np.add.reduceat(high, first_tie), np.add.reduceat(low, first_tie)
  both = (n_high > 0) & (n_low > 0)
  if missing is not None:
    both &= groups[of_group] != missing
  if not both.any():
    return None
  rows = (n_high + n_low)[both]
  aucs = twice_wins[both] / (2.0 * n_high[both] * n_low[both])
  used = int(rows.sum())
  return Gauc(float(rows @ aucs) / used, int(both.sum()), used, used / len(scores))


def log_loss(labels, logits) -> float:
  """Mean of log(1 + exp(z)) - y z, the negative log-likelihood; no probability is ever rounded."""
  positive, logits = _checked(labels, logits, 'logits', finite=True)
  logits = logits.astype(np.float64)
  return float(np.mean(np.logaddexp(0, np.where(positive, -logits, logits))))


def calibration(labels, logits) -> float:
  """Sum of predicted probabilities / sum of labels; above 1 it foresees too many clicks."""
  positive, logits = _checked(labels, logits, 'logits', finite=True)
  if not positive.any():
    raise ValueError(f'Calibration needs a positive label; all {len(logits)} are 0.')
  # sigmoid(z) = exp(-log(1 + exp(-z))), which overflows nowhere.
  predicted = np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
  return float(predicted.sum() / positive.sum())


def summary(labels, logits, groups: Any = None) -> dict[str, float]:
  """All of them by name: auc, log_loss, calibration; with groups also gauc and gauc_share.

  Args:
    labels: 0 or 1.
    logits: log-odds.
    groups: row numbers of a feature, of which 0 (missing or unseen) is no group. Where no group has
      both classes, there is no gauc.
  """
  found = {
    'auc': auc(labels, logits),
    'log_loss': log_loss(labels, logits),
    'calibration': calibration(labels, logits),
  }
  grouped = None if groups is None else _gauc(labels, logits, groups, missing=0)
  if grouped is not None:
    found |= {'gauc': grouped.value, 'gauc_share': grouped.share}
  return found
