"""Columns that two runs need are made by one of them."""

from concurrent import futures

import numpy as np
from absl import flags
from absl.testing import flagsaver

from ctr_jax.data import synthetic
from experiments import common, crossed

if not flags.FLAGS.is_parsed():
  flags.FLAGS(['test'])
SOURCE = synthetic.Synthetic(synthetic.small())


def test_runs_that_make_the_same_columns_at_once(tmp_path, monkeypatch):
  monkeypatch.setattr(common, 'PROJECT', tmp_path)
  monkeypatch.setattr(crossed, 'clocked', lambda source: source)
  with flagsaver.flagsaver(data='synthetic_small'), futures.ThreadPoolExecutor(3) as runs:
    asked = [runs.submit(crossed.with_crosses, SOURCE, [('user', 'item')]) for _ in range(3)]
    found = [one.result() for one in asked]
  columns = [one.read('train', ('user-item',), 0, 100)['user-item'] for one in found]
  for column in columns:
    np.testing.assert_array_equal(column, columns[0])
  assert columns[0].any()
