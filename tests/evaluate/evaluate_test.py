"""Seconds of scoring are of the whole work: every batch is prepared within the clock."""

import time
from types import SimpleNamespace

import numpy as np

from ctr_jax import predict
from ctr_jax.data import synthetic
from ctr_jax.evaluate import evaluate


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
