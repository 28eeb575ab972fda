"""Trees rank features by their planted effects; what they are given against loops over samples."""

import sys

import numpy as np
import pytest

from ctr_jax.data import schema as schema_lib
from ctr_jax.data import synthetic
from ctr_jax.evaluate import importance, importance_trees

SOURCE = synthetic.Synthetic(synthetic.small())
ONE = {'num_threads': 1}


class Few:
  """Three features of a few samples: one constant, one multi-valued, one a number."""

  extras = ()
  rows = {'same': 5, 'tags': 4, 'price': 2}
  schema = schema_lib.Schema(
    'few',
    (
      schema_lib.Feature('same'),
      schema_lib.Feature('tags', kind='ids', width=2),
      schema_lib.Feature('price', kind='numeric'),
    ),
  )

  def __init__(self, label):
    self._label = np.float32(label)

  def num_samples(self, split):
    return len(self._label)

  def read(self, split, names, start, stop):
    n = len(self._label)
    columns = {
      'label': self._label,
      'same': np.full(n, 3, np.int32),
      'tags': np.stack([np.arange(n) % 4, np.arange(n) % 2 - 1], axis=1).astype(np.int32),
      'price': np.where(np.arange(n) % 3, np.arange(n), np.nan).astype(np.float32),
    }
    return {name: columns[name][start:stop] for name in names}


def trees():
  return pytest.importorskip('lightgbm', reason='an optional package: pip install lightgbm')


def test_lift_is_the_other_folds_smoothed_rate_above_theirs():
  draw = np.random.default_rng(0)
  ids, label, fold = draw.integers(0, 9, 60), draw.integers(0, 2, 60), draw.integers(0, 5, 60)
  ids[0] = 99  # Seen once: nothing is known of it.
  want = []
  for i in range(60):
    other = fold != fold[i]
    mine = label[other & (ids == ids[i])]
    prior = label[other].mean()
    want.append((mine.sum() + 10 * prior) / (len(mine) + 10) - prior)
  found = importance_trees.lift(ids, label, fold)
  np.testing.assert_allclose(found, want, rtol=1e-9, atol=1e-12)
  assert found[0] == 0


def test_a_constant_tells_nothing_of_its_fold():
  draw = np.random.default_rng(0)
  label, fold = draw.integers(0, 2, 1_000), np.arange(1_000) % 5
  assert not importance_trees.lift(np.full(1_000, 7), label, fold).any()


def test_columns_by_kind():
  source = Few(np.arange(200) >= 150)
  names = source.schema.names
  label, (same, tags, price) = importance_trees._columns(source, 'train', names, 10_000, seed=0)
  assert (same[0] == 3).all() and not same[1].any()
  (number,), (mean, count) = price, tags
  known = ~np.isnan(number)
  assert label.sum() == 50 and known.sum() == 133
  # Samples are shuffled, and still hang together.
  assert (np.diff(number[known]) < 0).any()
  np.testing.assert_array_equal(label[known], number[known] >= 150)
  np.testing.assert_array_equal(count[known], 1 + number[known] % 2)
  assert np.isfinite(mean).all()


def test_the_mean_lift_of_a_samples_values():
  column = np.int32([[1, 2], [2, -1], [1, 1], [0, -1], [2, 1]] * 8)
  label, fold = np.arange(40) % 3 // 2, np.arange(40) % 5
  mean, count = importance_trees._of('ids', column, label, fold)
  sample, _ = np.nonzero(column >= 0)
  lifts = importance_trees.lift(column[column >= 0], label[sample], fold[sample])
  np.testing.assert_allclose(mean, [lifts[sample == i].mean() for i in range(40)], rtol=1e-12)
  np.testing.assert_array_equal(count, [2, 1, 2, 1, 2] * 8)


def test_planted_effects_come_before_noise():
  trees()
  found = importance_trees.gain(SOURCE, num_leaves=7, rounds=30, **ONE)
  assert tuple(found) == SOURCE.schema.names
  assert all(type(x) is float for x in found.values())
  order = importance.rank(found)
  assert set(order[:3]) <= {'user', 'item', 'tags', 'price'}
  assert min(order.index(n) for n in ('noise', 'category')) >= 3


def test_gains_follow_from_the_seed_alone():
  trees()
  names = ('price', 'noise', 'tags')
  found = importance_trees.gain(SOURCE, features=names, samples=1_000, rounds=5, seed=1, **ONE)
  assert tuple(found) == names
  args = {'features': names, 'samples': 1_000, 'rounds': 5}
  assert importance_trees.gain(SOURCE, **args, seed=1, num_threads=2) == found
  assert importance_trees.gain(SOURCE, **args, seed=2, **ONE) != found


def test_a_constant_gains_nothing():
  trees()
  label = np.random.default_rng(0).integers(0, 2, 1_000)
  found = importance_trees.gain(Few(label), rounds=5, **ONE)
  assert found['same'] == 0 and found['price'] > 0


def test_errors_say_what_is_wrong(monkeypatch):
  trees()
  with pytest.raises(ValueError, match='both classes; all 50 labels are 1'):
    importance_trees.gain(Few(np.ones(50)))
  with pytest.raises(ValueError, match='need a feature and a sample, got 0 and 9'):
    importance_trees.gain(SOURCE, features=(), samples=9)
  with pytest.raises(ValueError, match=r"has no .*'absent'"):
    importance_trees.gain(SOURCE, features=('absent',))
  monkeypatch.setitem(sys.modules, 'lightgbm', None)
  with pytest.raises(ValueError, match='pip install lightgbm'):
    importance_trees.gain(SOURCE)
