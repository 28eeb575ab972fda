"""Seconds of scoring are of the whole work, and what scores are grouped by."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from ctr_jax import predict
from ctr_jax.data import synthetic
from ctr_jax.evaluate import evaluate, metrics


def test_all_batches_are_prepared_within_the_clock():
  source = synthetic.Synthetic(synthetic.small())

  def prepare(columns):
    time.sleep(0.05)
    return columns

  scorer = predict.Scorer(prepare, lambda arrays, net, columns: columns['hour'] * 1.0)
  model = SimpleNamespace(columns=('hour',))
  found = evaluate.scores(model, scorer, {}, None, source, 'test', batch_size=500)
  assert found.seconds > 0.1  # Of two batches.
  np.testing.assert_array_equal(found.logits, source.read('test', ['hour'], 0, 1000)['hour'])


def test_groups_of_a_numeric_feature_are_its_values():
  nan, groups = np.nan, np.int32([7, 0, 0, 2])
  assert evaluate._numbered(groups) is groups
  found = evaluate._numbered(np.float32([0.0, nan, -1.5, 0.0, nan, -1.5]))
  np.testing.assert_array_equal(found, [2, 0, 1, 2, 0, 1])
  assert found.dtype == np.int32
  summary = metrics.summary([1, 1, 0, 0, 0, 1], [1.0, 0.0, 0.5, 0.5, 9.0, 0.0], found)
  assert (summary['gauc'], summary['gauc_share']) == (0.5, pytest.approx(4 / 6))
