"""How much each feature matters to gradient-boosted trees, without any model of ours.

LightGBM (Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", 2017) is
optional: `pip install lightgbm`.
"""

import contextlib
from collections.abc import Sequence

import numpy as np

from ctr_jax.data import batches, columns

_FOLDS = 5
# Reads at the mean rate that every value is given beside its own.
_SMOOTHING = 10


def gain(
  source: columns.Source,
  split: str = 'train',
  features: Sequence[str] | None = None,
  samples: int = 200_000,
  seed: int = 0,
  rounds: int = 100,
  **settings,
) -> dict[str, float]:
  """Fall of the training loss at the splits on each feature, in LightGBM's unit.

  A feature is given to the trees as one or two columns, whose gains are added:

    id, bucket, hash   its row number, which is a frequency rank (but of a hash, where it means
                       nothing), and its lift
    ids                the mean lift of a sample's values, and how many they are
    numeric            the number, NaN where it is missing

  A lift is the click rate of a value's reads in the other folds, smoothed, less the click rate of
  all of the feature's reads there (Micci-Barreca, 2001): a sample's own fold never tells.

  Args:
    source: the data.
    split: of the source.
    features: names, in the order of the result; all of the source's if not given.
    samples: drawn at random, without replacement; a short split gives fewer.
    seed: of samples, folds and trees.
    rounds: trees.
    **settings: LightGBM's parameters, such as `num_leaves` or `num_threads`.
  """
  try:
    import lightgbm
  except ImportError as e:
    raise ValueError('The gain of trees needs LightGBM: `pip install lightgbm`.') from e
  names = source.schema.names if features is None else tuple(features)
  label, given = _columns(source, split, names, samples, seed)
  if len(np.unique(label)) < 2:
    raise ValueError(f'Trees need both classes; all {len(label)} labels are {label[0]:.0f}.')
  settings = {
    'objective': 'binary',
    'verbosity': -1,
    'seed': seed,
    'deterministic': True,
    'force_col_wise': True,  # With it, deterministic holds whatever the number of threads.
  } | settings
  data = lightgbm.Dataset(np.stack([x for xs in given for x in xs], axis=1), label)
  gains = lightgbm.train(settings, data, rounds).feature_importance('gain')
  ends = np.cumsum([len(xs) for xs in given])[:-1]
  return {n: float(x.sum()) for n, x in zip(names, np.split(gains, ends), strict=True)}


def _columns(source, split, names, samples, seed):
  """Labels [n], and for each feature the columns [n] that the trees see of it."""
  samples = min(samples, source.num_samples(split))
  if not names or samples < 1:
    raise ValueError(f'Trees need a feature and a sample, got {len(names)} and {samples}.')
  reader = batches.Batches(source, split, (*names, 'label'), samples, seed=seed)
  with contextlib.closing(reader.epoch(0)) as epoch:
    batch = next(epoch)
  label = batch['label'].astype(np.int64)
  # Batches are shuffled, so any cut is a random one.
  fold = np.arange(samples) % _FOLDS
  kinds = {feature.name: feature.kind for feature in source.schema.features}
  return label, [_of(kinds[name], batch[name], label, fold) for name in names]


def _of(kind, column, label, fold):
  if kind == 'numeric':
    return [column]
  if kind == 'ids':
    present = column >= 0
    sample, _ = np.nonzero(present)
    lifts = lift(column[present], label[sample], fold[sample])
    count = present.sum(axis=1)
    return [np.bincount(sample, lifts, len(column)) / np.maximum(count, 1), count]
  return [column, lift(column, label, fold)]


def lift(ids: np.ndarray, label: np.ndarray, fold: np.ndarray) -> np.ndarray:
  """Each read's rate of clicks in the other folds, smoothed, less the rate of all their reads.

  With n reads of a value and c clicks of them, N reads of all values and C clicks, all in the other
  folds: (c − n C/N) / (n + smoothing). It is exactly 0 for what is unseen, and where there is one
  value only: the label of a read does not shine through the rate of the other folds.

  Args:
    ids: int [reads].
    label: int [reads], 0 or 1.
    fold: int [reads], 0 to 4.

  Returns:
    float64 [reads].
  """
  _, value = np.unique(ids, return_inverse=True)

  def outside(group, weight):
    """Sum of the weights of a read's group in the other folds, [reads]; whole numbers, exact."""
    cells = (int(group.max(initial=0)) + 1) * _FOLDS
    inside = np.bincount(group * _FOLDS + fold, weight, cells).reshape(-1, _FOLDS)
    return (inside.sum(axis=1, keepdims=True) - inside)[group, fold]

  read, everything = np.ones(len(ids)), np.zeros(len(ids), np.int64)
  n, c = outside(value, read), outside(value, label)
  all_n, all_c = outside(everything, read), outside(everything, label)
  return (c * all_n - n * all_c) / np.maximum(all_n, 1) / (n + _SMOOTHING)
