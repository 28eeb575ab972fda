"""Where pairs have no effect, statistics of pairs help nobody; if they did, they would leak."""

import dataclasses
import statistics

import numpy as np
import pytest

from ctr_jax.data import additions, beside, crosses, history, synthetic
from ctr_jax.train import loop
from experiments import optimizers, trials

SEEDS = range(5)
SPEC = synthetic.Spec(
  'main_effects_only',
  samples=(20_000, 4_000, 20_000),
  fields=(
    synthetic.Field('a', values=200, exponent=0.8, main=0.6),
    synthetic.Field('b', values=30, exponent=0.4, main=0.6),
    synthetic.Field('c', values=10, exponent=0.2, main=0.4),
  ),
  pairs=(),
  crosses=(),
  group='',
)
TRIAL = trials.Trial(
  'without', net='dnn', net_options={'hidden': (16,), 'dropout': 0.0}, dim=4, init=0.05,
  optimizer=optimizers.Optimizer(rows_learning_rate=0.05, l2=1e-3),
  schedule=loop.Schedule(epochs=6, batch_size=500),
)  # fmt: skip


def source(seed):
  return synthetic.Synthetic(dataclasses.replace(SPEC, seed=seed))


def leaky(data, out):
  """What no statistic may be: each sample's own label, under noise."""

  def of(split, start, stop):
    label = data.read(split, ('label',), start, stop)['label']
    return {'leak': label + np.random.default_rng(start).normal(0, 2, stop - start).astype('f4')}

  return additions.numbers(data, out, ['leak'], {}, of)


@pytest.mark.long
def test_statistics_without_a_pair_effect_are_worth_nothing(tmp_path):
  """Five seeds of data and of training; the sign of the differences is left to chance."""
  gains = {'day': [], 'fold': [], 'leak': []}
  for seed in SEEDS:
    data, folder = source(seed), tmp_path / str(seed)
    pairs = [crosses.Statistic('a', 'b'), crosses.Statistic('b', 'c')]
    columns = {
      'day': crosses.add(data, folder / 'x', (), pairs, history.History(clock='day')),
      'fold': crosses.add(data, folder / 'y', (), pairs, history.History()),
    }
    if seed == SEEDS[0]:
      columns['leak'] = leaky(data, folder / 'z')
    (without,) = trials.run(TRIAL, data, folder, [seed])
    for name, added in columns.items():
      trial = dataclasses.replace(TRIAL, name=name)
      (row,) = trials.run(trial, beside.join(data, added), folder, [seed])
      gains[name].append(row['test']['auc'][0] - without['test']['auc'][0])
  for name in ('day', 'fold'):
    mean, spread = statistics.fmean(gains[name]), statistics.stdev(gains[name])
    assert mean < spread, gains
  # A leak would be seen.
  assert gains['leak'][0] > 0.01 + 5 * statistics.stdev(gains['day']), gains
