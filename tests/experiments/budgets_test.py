"""--budget: what it accepts, and that an experiment under it stays within it."""

import json

import numpy as np
import pytest

from ctr_jax import compress
from ctr_jax.data import synthetic
from ctr_jax.train import loop
from experiments import budgets, trials


@pytest.mark.parametrize(
  'text, nbytes', [('2MB', 2_000_000), ('500kB', 500_000), ('1.5 GB', 1_500_000_000), ('10%', 700)]
)
def test_sizes(text, nbytes):
  assert budgets.parse(text, full=7000) == nbytes


@pytest.mark.parametrize('text', ['2', 'MB', '2mb', '-1MB', '10 %%'])
def test_bad_sizes(text):
  with pytest.raises(ValueError, match='give a number with B, kB, MB, GB, TB or %'):
    budgets.parse(text, 7000)


@pytest.mark.long
@pytest.mark.parametrize('of', ['serving', 'training'])
def test_a_trial_within_a_budget(of, tmp_path):
  source = synthetic.Synthetic(synthetic.small())
  trial = trials.Trial(
    'tiny', net='dnn', net_options={'hidden': (8,)}, dim=4,
    schedule=loop.Schedule(epochs=1, batch_size=256),
  )  # fmt: skip
  found = budgets.choose(trial, source, '20%', of)
  within, links = budgets.within(trial, source, found)
  rows = trials.run(within, source, tmp_path, [0], links)
  key = 'bytes' if of == 'serving' else 'bytes_training'
  assert rows[-1][key] == found.nbytes <= found.limit
  assert all(0 < x < 1 for row in rows for x in row['test']['auc'])
  text = budgets.explain(found)
  assert all(table in text for table in source.rows)
  assert f'{found.nbytes:,} of {found.limit:,} bytes used' in text
  # What is served is the trained model, up to the rounding of its values.
  np.testing.assert_allclose(rows[-1]['test']['auc'], rows[0]['test']['auc'], atol=0.05)
  assert json.dumps(compress.describe(found.served))
