"""Metrics against scikit-learn and against their definitions, with many ties."""

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import sklearn.metrics

from ctr_jax.evaluate import metrics

# Few distinct scores, so that most pairs tie.
samples = st.lists(
  st.tuples(st.integers(0, 1), st.sampled_from([-2.5, -1.0, 0.0, 0.1, 3.0]), st.integers(-2, 3)),
  min_size=2,
  max_size=60,
)


def columns(rows):
  labels, scores, groups = (np.asarray(c) for c in zip(*rows, strict=True))
  return labels, scores, groups


def brute_auc(labels, scores):
  pairs = [
    (p > n) + 0.5 * (p == n)
    for p, y in zip(scores, labels, strict=True)
    if y
    for n, z in zip(scores, labels, strict=True)
    if not z
  ]
  return sum(pairs) / len(pairs)


@hypothesis.given(rows=samples)
def test_auc_is_its_definition(rows):
  labels, scores, _ = columns(rows)
  hypothesis.assume(0 < labels.sum() < len(labels))
  want = brute_auc(labels, scores)
  assert metrics.auc(labels, scores) == pytest.approx(want, abs=1e-12)
  # Only the order counts, and turning it round complements it.
  assert metrics.auc(labels, np.exp(scores)) == metrics.auc(labels, scores)
  assert metrics.auc(labels, -scores) == pytest.approx(1 - want, abs=1e-12)


@pytest.mark.parametrize('decimals', [1, 3, 12])
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_auc_is_scikit_learns(decimals, dtype):
  rng = np.random.default_rng(decimals)
  scores = np.round(rng.normal(size=50_000), decimals).astype(dtype)
  labels = (rng.random(50_000) < 1 / (1 + np.exp(2 - scores))).astype(np.float32)
  want = sklearn.metrics.roc_auc_score(labels, scores.astype(np.float64))
  assert metrics.auc(labels, scores) == pytest.approx(want, abs=1e-12)


def test_auc_of_corner_cases():
  assert metrics.auc([0, 1], [1.0, 2.0]) == 1.0
  assert metrics.auc([0, 1], [2.0, 1.0]) == 0.0
  assert metrics.auc([0, 1, 1, 0], [3.0, 3.0, 3.0, 3.0]) == 0.5
  assert metrics.auc([0, 1], [-np.inf, np.inf]) == 1.0
  assert metrics.auc([0, 1], [-0.0, 0.0]) == 0.5


def brute_gauc(labels, scores, groups):
  total = used = count = 0
  for group in set(groups.tolist()):
    mine = groups == group
    if 0 < labels[mine].sum() < mine.sum():
      total += mine.sum() * brute_auc(labels[mine], scores[mine])
      used += int(mine.sum())
      count += 1
  return total / used if used else None, count, used


@hypothesis.given(rows=samples)
def test_gauc_is_its_definition(rows):
  labels, scores, groups = columns(rows)
  want, count, used = brute_gauc(labels, scores, groups)
  hypothesis.assume(used)
  found = metrics.gauc(labels, scores, groups)
  assert found.value == pytest.approx(want, abs=1e-12)
  assert (found.groups, found.rows, found.share) == (count, used, used / len(labels))


def test_gauc_of_one_group_is_auc():
  rng = np.random.default_rng(0)
  labels, scores = rng.integers(0, 2, 5000), np.round(rng.normal(size=5000), 1)
  found = metrics.gauc(labels, scores, np.full(5000, 7))
  assert found == (pytest.approx(metrics.auc(labels, scores), abs=1e-14), 1, 5000, 1.0)


def test_gauc_ignores_what_separates_groups():
  # Scores that only know the group: a high AUC, and no better than chance within any group.
  rng = np.random.default_rng(1)
  groups = rng.integers(0, 50, 20_000)
  labels = (rng.random(20_000) < groups / 50).astype(int)
  assert metrics.auc(labels, groups) > 0.8
  assert metrics.gauc(labels, groups, groups).value == 0.5


def test_gauc_of_many_small_groups_is_scikit_learns():
  rng = np.random.default_rng(2)
  groups = rng.zipf(1.5, 20_000) % 1000
  labels, scores = rng.integers(0, 2, 20_000), np.round(rng.normal(size=20_000), 1)
  aucs, sizes = [], []
  for group in np.unique(groups):
    mine = groups == group
    if 0 < labels[mine].sum() < mine.sum():
      aucs.append(sklearn.metrics.roc_auc_score(labels[mine], scores[mine]))
      sizes.append(mine.sum())
  want = np.average(aucs, weights=sizes)
  assert metrics.gauc(labels, scores, groups).value == pytest.approx(want, abs=1e-12)


@hypothesis.given(
  rows=st.lists(st.tuples(st.integers(0, 1), st.floats(-15, 15)), min_size=1, max_size=50)
)
def test_log_loss_is_scikit_learns(rows):
  labels, logits = (np.asarray(c) for c in zip(*rows, strict=True))
  probability = 1 / (1 + np.exp(-logits))
  want = sklearn.metrics.log_loss(labels, probability, labels=[0, 1])
  assert metrics.log_loss(labels, logits) == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_log_loss_is_stable_far_out():
  assert metrics.log_loss([0, 1], np.float32([800.0, -800.0])) == 800.0
  assert metrics.log_loss([1], [40.0]) == pytest.approx(math.exp(-40), rel=1e-12)
  assert metrics.log_loss([0], [-700.0]) == pytest.approx(math.exp(-700), rel=1e-12)


def test_log_loss_is_summed_in_float64():
  logits = np.full(1_000_000, 0.1, np.float32)
  want = math.log1p(math.exp(float(np.float32(0.1))))
  assert metrics.log_loss(np.zeros(1_000_000, np.float32), logits) == pytest.approx(want, rel=1e-12)


def test_calibration():
  logits = np.log([0.2 / 0.8, 0.4 / 0.6, 0.9 / 0.1])
  assert metrics.calibration([0, 0, 1], logits) == pytest.approx(1.5, rel=1e-12)
  assert metrics.calibration([1, 1], [-1e4, 1e4]) == 0.5


def test_summary():
  labels, logits, groups = [0, 1, 1, 0], [-1.0, 2.0, 0.5, 0.0], [1, 1, 2, 3]
  assert metrics.summary(labels, logits, groups) == {
    'auc': 1.0,
    'log_loss': metrics.log_loss(labels, logits),
    'calibration': metrics.calibration(labels, logits),
    'gauc': 1.0,
    'gauc_share': 0.5,
  }
  assert metrics.summary(labels, logits).keys() == {'auc', 'log_loss', 'calibration'}


def test_users_who_are_not_known_are_no_group():
  # A score that only knows the user says nothing within one; row 0 is of many users.
  rng = np.random.default_rng(3)
  user, taste = rng.integers(1, 401, 4000), rng.normal(size=401)
  labels = (rng.random(4000) < 1 / (1 + np.exp(-2 * taste[user]))).astype(int)
  row = np.where(user > 200, 0, user)
  assert metrics.gauc(labels, taste[user], row).value > 0.6
  found = metrics.summary(labels, taste[user], row)
  assert found['gauc'] == 0.5
  own = metrics.gauc(labels[row > 0], taste[user][row > 0], row[row > 0])
  assert found['gauc_share'] == own.rows / 4000
  for nobody in (np.zeros(4000, np.int32), np.arange(4000)):  # Nor has one sample an AUC.
    assert metrics.summary(labels, taste[user], nobody).keys() == {'auc', 'log_loss', 'calibration'}


@pytest.mark.parametrize('measure', [metrics.auc, metrics.log_loss, metrics.calibration])
def test_errors_say_what_is_wrong(measure):
  with pytest.raises(ValueError, match=r'equally long, got shapes \(2,\) and \(3,\)'):
    measure([0, 1], [0.0, 1.0, 2.0])
  with pytest.raises(ValueError, match='must be 1-D'):
    measure([[0], [1]], [[0.0], [1.0]])
  with pytest.raises(ValueError, match='no samples'):
    measure([], [])
  with pytest.raises(ValueError, match='0 or 1; sample 2 has 2'):
    measure([0, 1, 2], [0.0, 1.0, 2.0])
  with pytest.raises(ValueError, match='0 or 1; sample 1 has nan'):
    measure([0, np.nan, 1], [0.0, 1.0, 2.0])
  with pytest.raises(ValueError, match=r'2 of 3 .* the first nan at sample 1: the model has div'):
    measure([0, 1, 1], [0.0, np.nan, np.nan])


def test_errors_of_single_measures():
  with pytest.raises(ValueError, match='both classes; all 3 labels are 1'):
    metrics.auc([1, 1, 1], [0.0, 1.0, 2.0])
  with pytest.raises(ValueError, match='both classes; none of 2 groups'):
    metrics.gauc([1, 1, 0], [0.0, 1.0, 2.0], [3, 3, 4])
  with pytest.raises(ValueError, match='one per sample'):
    metrics.gauc([1, 1, 0], [0.0, 1.0, 2.0], [3, 4])
  with pytest.raises(ValueError, match='first inf at sample 0'):
    metrics.log_loss([1, 0], [np.inf, 0.0])
  with pytest.raises(ValueError, match='needs a positive label; all 2'):
    metrics.calibration([0, 0], [1.0, 0.0])
