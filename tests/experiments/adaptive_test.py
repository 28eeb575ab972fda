"""Adaptive dimensions after other techniques: what a search keeps is stored, to the bit."""

import types

import numpy as np
import pytest

from ctr_jax import compress, predict
from ctr_jax.data import schema as schema_lib
from ctr_jax.models import dnn
from ctr_jax.tables import leaf
from experiments import adaptive, trials

ROWS = {'user': 90, 'hour': 20, 'noise': 5}
SOURCE = types.SimpleNamespace(rows=ROWS)
SCHEMA = schema_lib.Schema('clicks', tuple(schema_lib.Feature(name) for name in ROWS))
FIRST = (('user', compress.multi_hash(32, 2)), ('.*', compress.identity()))
GONE = ('noise', compress.drop())
DIM = 4


def built(rules):
  return predict.build(SCHEMA, ROWS, rules, dnn.DNN(hidden=(4,)), DIM)


def searched():
  """What a search might have left: each level of each table is cut somewhere."""
  rules = (GONE, *adaptive.searching(SOURCE, FIRST, 0.1))
  model, draw = built(rules), np.random.default_rng(0)

  def made(path, x):
    if path.endswith('level'):
      return np.arange(x.rows, dtype=np.int32)
    return draw.normal(size=x.shape).astype(np.float32)

  flat = {path: made(path, x) for path, x in leaf.flatten(model.codec.plan).items()}
  return trials.Outcome(model, rules, leaf.unflatten(model.codec.plan, flat), {'params': {}})


@pytest.fixture(scope='module')
def packed():
  before = searched()
  search = trials.Trial('search', before.rules, net='dnn', dim=DIM)
  trial = adaptive.packed('dims', search, FIRST, 0.1)
  rules = trial.rules(before)
  return before, trial.start(before, built(rules), rules)


def test_the_packed_model_has_the_vectors_of_the_search_and_fewer_bytes(packed):
  before, after = packed
  for table in ('user', 'hour'):
    np.testing.assert_array_equal(after.vectors(table), before.vectors(table))
  whole = built((GONE, *FIRST)).codec.plan
  assert leaf.nbytes(after.model.codec.plan) < leaf.nbytes(whole)
  assert after.net is before.net


def test_what_was_dropped_stays_so_and_what_was_hashed_too(packed):
  before, after = packed
  assert after.stored['noise'] == {}
  assert after.model.columns == before.model.columns
  assert set(after.model.codec.plan['user']) == {'way_0', 'way_1'}
  assert max(x.rows for x in leaf.flatten(after.model.codec.plan['user']).values()) <= 32
  stored, plan = (leaf.flatten(x) for x in (after.stored, after.model.codec.plan))
  assert {p: x.shape for p, x in stored.items()} == {p: x.shape for p, x in plan.items()}


def test_a_table_of_one_width_has_no_index():
  two = np.tile(np.arange(3) < 2, (40, 1)).astype(np.float32)
  assert str(adaptive._packed(two, 0)) == 'keep_dims(dims=2)'
  assert str(adaptive._packed(np.ones((40, 3)), 0)) == 'identity()'
  ranged = np.where(np.arange(40)[:, None] < 8, 1, two)
  assert adaptive._packed(ranged, 0).name == 'partition'
  assert str(adaptive._packed(ranged, 32)) == 'identity()'  # 32 values are not worth an array.
