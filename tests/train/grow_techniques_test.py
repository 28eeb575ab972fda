"""Every technique: vectors before and after its table has more rows, and new tables of it."""

import jax
import numpy as np
import pytest

from ctr_jax import compress
from ctr_jax.train import carry, grow, silent
from ctr_jax.train import state as state_lib
from tests.compress.techniques import TECHNIQUES
from tests.train.grow_cases import (
  ALL,
  CANNOT_BE_SILENT,
  CANNOT_ENLARGE,
  ITEM,
  RECIPE,
  SOME,
  TAGS,
  batch,
  logits,
  model,
  same,
  trained,
  without,
)

# For every run: with a leaf that is read whole, and with rows that are no floats. (Each compiles.)
SOON = ('multi_hash_weights', 'alpt_8')
DIMS = {'rows': {'item': 40}, 'dim': 6}


def rules(name, pattern='item'):
  return ((pattern, TECHNIQUES[name]), *ALL)


def every(soon=SOON):
  marks = pytest.mark.long
  return [name if name in soon else pytest.param(name, marks=marks) for name in TECHNIQUES]


@pytest.mark.parametrize('name', every())
def test_a_vocabulary_doubles_and_vectors_stay(name):
  old = model((ITEM,), 'dnn', rules(name), **DIMS)
  new = model((ITEM,), 'dnn', rules(name), **DIMS | {'rows': {'item': 80}})
  state = trained(old)
  if name in CANNOT_ENLARGE:
    with pytest.raises(ValueError, match=r'item: (ids read other rows|block_0|item/core_0 is)'):
      grow.grow(state, old, new, RECIPE, seed=9)
    _, report = grow.grow(state, old, new, RECIPE, seed=9, accept='item')
    assert report.of('item').what == 're-encoded'
    return
  grown, report = grow.grow(state, old, new, RECIPE, seed=9)
  assert report.of('item').what == 'enlarged'
  ids = np.arange(40, dtype=np.int32)
  found = carry.vectors(new, 'item', grown.tables, ids)
  np.testing.assert_array_equal(found, carry.vectors(old, 'item', state.tables, ids))


@pytest.mark.parametrize('name', every(soon=('hash_embedding', 'prune_table')))
def test_a_new_table_is_silent_and_learns(name):
  built = model((ITEM,), 'fm', rules(name), rows={'item': 40}, dim=5)
  drawn = state_lib.drawn(built, jax.random.key(0))
  if name in CANNOT_BE_SILENT:
    with pytest.raises(ValueError, match='item/table would have no gradient and stay zero'):
      silent.silenced(built, 'item', drawn)
    return
  found = silent.silenced(built, 'item', drawn)
  assert not carry.vectors(built, 'item', found, np.arange(40, dtype=np.int32)).any()
  assert found.keys() == drawn.keys()


@pytest.mark.long
@pytest.mark.parametrize('net', ['dcn', 'deepfm'])
@pytest.mark.parametrize('name', [x for x in TECHNIQUES if x not in CANNOT_ENLARGE])
def test_logits_stay(name, net):
  """All at once: a vocabulary doubles, a multi-valued feature comes, a feature goes."""
  if net == 'deepfm' and name in CANNOT_BE_SILENT:
    return
  both = rules(name, 'item|tags')
  old = model(SOME, net, both, rows={'item': 40}, dim=6 - (net == 'deepfm'))
  new = model(
    (*SOME[:2], TAGS), net, both, rows={'item': 80, 'tags': 40}, dim=6 - (net == 'deepfm')
  )
  state, columns = trained(old), batch((*SOME, TAGS))
  grown, _ = grow.grow(state, old, new, RECIPE, seed=9)
  same(logits(new, grown, columns), logits(old, without(state, 'price'), columns))


def test_a_hash_that_was_none_is_named():
  """With as many buckets as rows each id has its own; with more rows it is hashed."""
  hashed = (('item', compress.hash_trick(40)), *ALL)
  old = model((ITEM,), 'dnn', hashed, **DIMS)
  new = model((ITEM,), 'dnn', hashed, **DIMS | {'rows': {'item': 41}})
  with pytest.raises(ValueError, match='item: ids read other rows of item/way_0 than before'):
    grow.grow(trained(old), old, new, RECIPE, seed=9)
