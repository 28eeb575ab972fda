"""Rankings are kept, models of fewer features read fewer columns, and the experiment, shrunk."""

import dataclasses
import json
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import pytest
from absl import flags
from absl.testing import flagsaver

from ctr_jax import compress
from ctr_jax.data import schema, synthetic
from ctr_jax.train import loop
from experiments import feature_selection, optimizers, selection, trials

PROJECT = pathlib.Path(__file__).parent.parent.parent
if not flags.FLAGS.is_parsed():
  flags.FLAGS(['test'])

FULL = trials.Trial(
  'full', net='dnn', net_options={'hidden': (8,)}, dim=4, init=0.05,
  optimizer=optimizers.Optimizer(rows_learning_rate=0.05, l2=1e-3),
  schedule=loop.Schedule(epochs=1, batch_size=500),
)  # fmt: skip


class Watched(synthetic.Synthetic):
  """Remembers which columns of train were read."""

  def __init__(self, spec):
    super().__init__(spec)
    self.seen = set()

  def read(self, split, names, start, stop):
    if split == 'train':
      self.seen |= set(names)
    return super().read(split, names, start, stop)


@pytest.fixture(scope='module')
def setting(tmp_path_factory):
  # One folder for all tests, so that what one has trained the next one finds.
  return selection.Setting(FULL, Watched(synthetic.small()), tmp_path_factory.mktemp('selection'))


@pytest.mark.long
def test_a_ranking_is_made_once(setting, monkeypatch):
  with flagsaver.flagsaver(gate_steps=4, gate_batch=500):
    first = selection.ranked('droprank', setting, 0)
    assert set(first.importance) == set(setting.source.schema.names)
    never = selection.METHODS['droprank']._replace(rank=None)
    monkeypatch.setitem(selection.METHODS, 'droprank', never)
    assert selection.ranked('droprank', setting, 0) == first
    with flagsaver.flagsaver(price=0.5), pytest.raises(TypeError):
      selection.ranked('droprank', setting, 0)  # Another price is another ranking.


def test_costs_are_of_the_full_model_that_they_were_measured_on(setting, monkeypatch):
  first = setting.costs()
  other = dataclasses.replace(setting, full=dataclasses.replace(FULL, dim=5))
  beside = other.costs()
  monkeypatch.setattr(selection.costs_lib, 'measure', None)
  assert (
    setting.costs() == first
  )  # Times are not measured alike twice, and prices are made of them.
  assert other.costs() == beside
  with pytest.raises(TypeError):
    dataclasses.replace(setting, full=dataclasses.replace(FULL, dim=8)).costs()


def test_fscd_prices_every_table_by_what_it_costs(setting):
  rules = dict(selection.fscd(setting, 0.01).rules)
  prices = {t: chain.arguments['links'][0].arguments['price'] for t, chain in rules.items()}
  assert prices['noise'] > prices['hour']  # 1,001 rows against 25.
  assert sum(prices.values()) / len(prices) == pytest.approx(0.01)


def test_gates_stand_before_what_stores_the_tables(setting):
  hashed = dataclasses.replace(FULL, rules=(('.*', compress.multi_hash(8)),))
  trial = selection.droprank(hashed, setting.source, 1e-3)
  plan = trial.model(setting.source).codec.plan
  assert set(plan['user']) == {'table', 'gate'}
  assert plan['user']['table']['way_0'].rows == 8


def test_gates_are_learned_alone_and_on_held_out_samples(setting):
  with flagsaver.flagsaver(gate_steps=4, gate_batch=500):
    trial = selection.droprank(FULL, setting.source, selection.WEIGHT.value)
    assert trial.split == 'valid'
    full, _, _ = setting.trained(0)
    _, gated, _ = trials.train(trial, setting.source, setting.folder, 0)
  for name in ('user', 'item'):
    stored = gated.stored[name]['table'] * 0.9  # `encode` divided by what gates begin with.
    assert abs(stored - full.stored[name]).max() < 1e-6
    assert abs(gated.stored[name]['gate'] - 2.1972).max() > 1e-3


def test_a_model_of_fewer_features_reads_only_their_columns(setting):
  trial = selection.keeping(setting, ['user', 'price'])
  setting.source.seen.clear()
  (row,) = trials.run(trial, setting.source, setting.folder, [0])
  assert setting.source.seen == {'user', 'price', 'label'}
  assert row['bytes'] == 4 * 4 * (301 + 2)
  assert feature_selection.sample_bytes(setting.source, ['user', 'price']) == 8


def test_closed_gates_are_dropped_and_shared_tables_stay():
  source = synthetic.Synthetic(synthetic.small())
  model = FULL.model(source)
  gate = {name: {'table': 0, 'gate': [1.0]} for name in source.rows}
  gate['noise'] = gate['price'] = {'table': 0, 'gate': [-0.5]}
  rules = (('.*', compress.droprank()),)
  outcome = trials.Outcome(model, rules, gate, None)
  found = selection.kept(source, (('.*', compress.identity()),))(outcome)
  assert {n for n in source.rows if compress.match(n, found).name == 'drop'} == {'noise', 'price'}


def test_other_rules_behind_a_selection_are_another_trial():
  source = synthetic.Synthetic(synthetic.small())
  names = {selection.kept(source, (('.*', compress.multi_hash(n)),)).__name__ for n in (8, 16)}
  assert len(names) == 2


def run(folder, *arguments):
  command = [sys.executable, '-m', 'experiments.feature_selection', f'--workdir={folder}']
  small = ('--data=synthetic_small', '--epochs=1', '--batch_size=512', '--net=fm')
  return subprocess.run(
    [*command, *small, *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
  )


@pytest.mark.long
def test_the_experiment_makes_a_table_a_curve_and_a_picture(tmp_path):
  done = run(tmp_path, '--counts=2', '--only=^(random|shark)$', '--seeds=2', '--cost_parts=0.5')
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'result.json').read_text())
  shark, random = found['rows']
  assert (shark['name'], random['name']) == ('shark', 'random')
  for row in found['rows']:
    few, all_ = row['curve']
    assert (few['k'], all_['k']) == (2, 7)
    assert few['bytes'][0] < all_['bytes'][0]
    assert few['sample_bytes'][0] < all_['sample_bytes'][0]
    assert few['net_parameters'][0] <= all_['net_parameters'][0]
    assert len(row['aukc']) == 2
    within = {x['cost']: x for x in row['within']}
    assert max(within['bytes']['bytes']) <= all_['bytes'][0] / 2
    assert max(within['time']['microseconds']) <= all_['microseconds'][0] / 2
  assert shark['curve'][1]['auc'] == random['curve'][1]['auc']  # All features: one training.
  assert (tmp_path / 'report.md').read_text() in done.stdout
  assert (tmp_path / 'report.png').stat().st_size > 5000
  wrong = run(tmp_path, '--counts=9', '--only=random')
  assert wrong.returncode == 1
  assert 'there are 7 features' in wrong.stderr


def test_a_limit_leaves_features_of_shared_tables_out_by_name(setting, monkeypatch):
  shared = {'user': 'user', 'item': 'item', 'previous': 'item'}
  features = tuple(schema.Feature(name, table=table) for name, table in shared.items())
  source = SimpleNamespace(schema=schema.Schema('shared', features))
  costs = {name: selection.costs_lib.Cost(1.0, 10.0, 1) for name in shared}
  monkeypatch.setattr(selection.Setting, 'costs', lambda self: costs)
  setting = dataclasses.replace(setting, source=source)
  choose = {cost: feature_selection._within(setting, cost, 0.7) for cost in feature_selection.COSTS}
  assert choose['time']({'user': 1.0, 'item': 3.0, 'previous': 2.0}) == ['item', 'previous']
  assert choose['time']({'user': 3.0, 'item': 1.0, 'previous': 2.0}) == ['user', 'previous']
  # A table that one feature reads is stored whole, and the next one has it for nothing.
  assert choose['bytes']({'user': 1.0, 'item': 3.0, 'previous': 2.0}) == ['item', 'previous']
  assert choose['bytes']({'user': 3.0, 'item': 1.0, 'previous': 2.0}) == ['user']
  with flagsaver.flagsaver(cost_parts=['0.7']):
    assert feature_selection.limits(setting) == [('bytes', 0.7), ('time', 0.7)]
  too_little = pytest.raises(ValueError, match=r'no feature fits into 0\.3 of all bytes')
  with flagsaver.flagsaver(cost_parts=['0.7', '0.3']), too_little:
    feature_selection.limits(setting)
