"""Stages with fewer features than the one before: tables and net are the part that is left."""

import dataclasses

import jax
import numpy as np
import pytest

from ctr_jax import compress, predict
from ctr_jax.data import synthetic
from ctr_jax.tables import leaf, stack
from ctr_jax.train import loop
from experiments import trials

SOURCE = synthetic.Synthetic(synthetic.small())
FULL = trials.Trial(
  'full', net='dcn', net_options={'hidden': (8,), 'cross_layers': 2}, dim=4,
  schedule=loop.Schedule(epochs=1, batch_size=256),
)  # fmt: skip
GONE, LEFT = ('price', 'noise'), ('user', 'item', 'category', 'hour', 'tags')
FEWER = (('noise|price', compress.drop()), ('.*', compress.identity()))
REDUCED = dataclasses.replace(FULL, name='reduced', rules=FEWER, after=FULL, start=trials.part)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp('trials')


@pytest.fixture(scope='module')
def full(workdir):
  return trials.train(FULL, SOURCE, workdir, 0)[1]


def with_biases(outcome):
  """One epoch leaves biases of a cross network small; these are not."""
  rng = np.random.default_rng(0)
  cross = outcome.net['params']['cross']
  biases = {k: x + rng.normal(0, 0.3, x.shape).astype('f') for k, x in cross.items() if 'bias' in k}
  params = outcome.net['params'] | {'cross': cross | biases}
  return outcome._replace(net={**outcome.net, 'params': params})


def logits_of(outcome, gone=()):
  """Of the test split, the vectors of the features `gone` zero."""
  model = outcome.model
  batch = SOURCE.read('test', model.columns, 0, SOURCE.num_samples('test'))
  index, values = predict.inputs(model, batch)
  arrays = stack.pack(model.layout, leaf.flatten(outcome.stored))
  vectors = predict.vectors(model, predict.gather_all(model, arrays, index), values, train=False)
  keep = np.array([name not in gone for name in model.columns], np.float32)
  return model.net.apply(outcome.net, vectors * keep[None, :, None], train=False)


@pytest.mark.parametrize('link', [compress.identity(), compress.cast('float32')])
def test_a_stage_with_fewer_features_starts_from_the_logits_of_the_rest(full, link):
  before = with_biases(full)
  rules = (FEWER[0], ('.*', link))
  model = dataclasses.replace(REDUCED, rules=rules).model(SOURCE)
  start = trials.part(before, model, rules)
  assert start.model.columns == LEFT
  wanted = logits_of(before, GONE)
  np.testing.assert_allclose(logits_of(start), wanted, rtol=1e-6, atol=1e-6)
  assert not np.allclose(logits_of(before), wanted, atol=1e-3)


def test_tables_are_taken_as_they_are_and_those_of_the_others_are_gone(full):
  start = trials.part(full, REDUCED.model(SOURCE), FEWER)
  assert start.stored.keys() == full.stored.keys()
  for table, stored in start.stored.items():
    assert stored == {} if table in GONE else stored is full.stored[table]
  with pytest.raises(ValueError, match="'price' has no vectors: the rules of this model drop it"):
    start.vectors('price')
  # A stage after it drops the same ones: nothing is there to read, and nothing is made.
  again = trials.carried(start, REDUCED.model(SOURCE), FEWER)
  jax.tree.map(np.testing.assert_array_equal, again.stored, start.stored)


def test_it_trains_on_from_there(full, workdir):
  _, outcome, how = trials.train(REDUCED, SOURCE, workdir, 0)
  assert outcome.model.columns == LEFT
  assert how.best > 0.55  # Of validation's AUC; chance is 0.5.
  start = trials.part(full, outcome.model, FEWER)
  assert not np.array_equal(outcome.stored['user'], start.stored['user'])


def test_other_features_are_refused_unless_the_part_is_taken(full, workdir):
  stage = dataclasses.replace(REDUCED, name='refused', start=trials.carried)
  words = r'\(gone: noise, price\).*`start=trials.part` takes the part of it'
  with pytest.raises(ValueError, match=words):
    trials.train(stage, SOURCE, workdir, 0)
  fewer = trials.part(full, REDUCED.model(SOURCE), FEWER)
  with pytest.raises(ValueError, match=r'\(new: noise, price\)'):
    trials.carried(fewer, FULL.model(SOURCE), FULL.rules)
  with pytest.raises(ValueError, match="DCN was trained without 'price', 'noise'"):
    trials.part(fewer, FULL.model(SOURCE), FULL.rules)


def test_a_checkpoint_of_the_full_model_is_refused(full, workdir):
  del full
  reduced = dataclasses.replace(REDUCED, name='full', after=None)
  with pytest.raises(ValueError, match='was made with another chain'):
    trials.train(reduced, SOURCE, workdir, 0)
