"""Tests of significance, held to SciPy's and to AUC itself, and to how often they cry wolf."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax.evaluate import metrics
from experiments import significance


@given(st.integers(2, 6), st.integers(0, 1000))
def test_paired_t_is_that_of_scipy(seeds, draw):
  x, y = np.random.default_rng(draw).normal(size=(2, seeds))
  assert significance.paired_t(x, y) == pytest.approx(scipy.stats.ttest_rel(x, y).pvalue, rel=1e-9)


def test_paired_t_says_nothing_where_nothing_can_be_said():
  assert significance.paired_t([0.7], [0.6]) is None
  assert significance.paired_t([0.7, 0.8, 0.9], [0.6, 0.7, 0.8]) is None  # The same difference.
  with pytest.raises(ValueError, match='equally long'):
    significance.paired_t([0.7, 0.8], [0.7])


@given(st.integers(0, 1000), st.integers(2, 9))
def test_the_difference_is_that_of_the_aucs_ties_included(draw, values):
  random = np.random.default_rng(draw)
  labels = np.r_[0, 0, 1, 1, random.integers(0, 2, 40)]
  first = random.integers(0, values, (3, len(labels)))
  second = random.integers(0, values, (2, len(labels)))
  found = significance.delong(labels, first, second)
  aucs = [np.mean([metrics.auc(labels, x) for x in scores]) for scores in (first, second)]
  assert found.difference == pytest.approx(aucs[0] - aucs[1], abs=1e-12)
  assert significance.delong(labels, second, first).p == pytest.approx(found.p)


def _scores(random, labels, noise):
  shared = labels + random.normal(size=labels.shape)
  return shared + noise * random.normal(size=labels.shape)


def test_the_error_is_how_much_the_difference_varies_and_equals_are_told_apart_by_chance():
  random = np.random.default_rng(0)
  found = []
  for _ in range(400):
    labels = (random.random(300) < 0.3).astype(int)
    found.append(
      significance.delong(labels, _scores(random, labels, 0.7), _scores(random, labels, 0.7))
    )
  spread = np.std([x.difference for x in found])
  assert np.mean([x.error for x in found]) == pytest.approx(spread, rel=0.12)
  assert 0.025 < np.mean([x.p < 0.05 for x in found]) < 0.085


def test_a_model_is_no_other_than_itself_and_a_worse_one_is():
  random = np.random.default_rng(1)
  labels = (random.random(2000) < 0.3).astype(int)
  good, bad = _scores(random, labels, 0.1), _scores(random, labels, 3.0)
  assert significance.delong(labels, good, good).p == 1
  found = significance.delong(labels, good, bad)
  assert found.p < 1e-6 and found.difference > 0
  assert significance.delong([0, 0, 1, 1], [0, 0, 1, 1], [0.5] * 4) == (0.5, 0.0, 0.0)
  with pytest.raises(ValueError, match='two samples of each class'):
    significance.delong([0, 0, 1], [1, 2, 3], [1, 2, 3])
  with pytest.raises(ValueError, match='got'):
    significance.delong(labels, good[:-1], bad)
