"""States grown to other features, vocabularies and techniques."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax.tables import stack
from ctr_jax.train import grow
from ctr_jax.train import state as state_lib
from tests.train.grow_cases import (
  DIM,
  ITEM,
  PRICE,
  RECIPE,
  SOME,
  TAGS,
  USER,
  batch,
  logits,
  model,
  same,
  stepped,
  trained,
  without,
)  # fmt: skip


def kernel(state):
  """Of the MLP's first layer, a row for each column of the vectors."""
  return np.asarray(state.net['params']['mlp']['layer_0']['kernel'])


@pytest.mark.parametrize('net', ['dnn', 'dcn'])
def test_a_feature_comes_and_logits_stay(net):
  features = (USER, TAGS, ITEM, PRICE)
  old, new = model(SOME, net), model(features, net)
  state, columns = trained(old), batch(features)
  grown, report = grow.grow(state, old, new, RECIPE, seed=9)
  same(logits(new, grown, columns), logits(old, state, columns))
  assert report.of('tags')[:5] == ('tags', 'new', '-', '9', 'fresh')
  assert report.of('user')[:5] == ('user', 'kept', '12', '12', 'kept')
  assert report.of('net/mlp/layer_0/kernel').what == 'enlarged'
  # What is new is drawn as it would be without any training, and silent by zero weights.
  same(grown.tables['tags'], state_lib.drawn(new, jax.random.key(9))['tags'])
  assert not kernel(grown)[DIM : 2 * DIM].any()
  # It learns: weights in the first step, and by them the vectors in the second.
  first = stepped(new, grown, columns)
  assert kernel(first)[DIM : 2 * DIM].any(axis=1).all()
  np.testing.assert_array_equal(first.tables['tags'], grown.tables['tags'])
  second = stepped(new, first, columns)
  read = np.unique(np.where(columns['tags'] >= 0, columns['tags'], 0))
  assert (second.tables['tags'] != grown.tables['tags']).any(axis=1)[read].all()


def test_zero_vectors_learn_in_the_first_step():
  old, new = model(SOME), model((*SOME, TAGS))
  state, columns = trained(old), batch((*SOME, TAGS))
  grown, _ = grow.grow(state, old, new, RECIPE, seed=9, zeros='vectors')
  same(logits(new, grown, columns), logits(old, state, columns))
  assert not grown.tables['tags'].any()
  assert kernel(grown)[3 * DIM :].all()
  assert stepped(new, grown, columns).tables['tags'].any()


def test_a_feature_goes_and_logits_are_those_without_its_vector():
  features = (USER, ITEM, TAGS, PRICE)
  old, new = model(features, 'dcn'), model((PRICE, USER, ITEM), 'dcn')
  state, columns = trained(old), batch(features)
  grown, report = grow.grow(state, old, new, RECIPE, seed=9)
  same(logits(new, grown, columns), logits(old, without(state, 'tags'), columns))
  assert report.of('tags')[:4] == ('tags', 'dropped', '9', '-')
  assert 'tags' not in grown.tables


@pytest.mark.parametrize('layout', [stack.apart, stack.stacked])
def test_a_vocabulary_grows_and_slots_and_moments_follow(layout):
  old = model(SOME)
  new = model((*SOME, TAGS), rows={'item': 40, 'user': 30}, layout=layout)
  where = np.full(30, -1)
  where[[0, 5, 7]] = 0, 11, 3
  state, columns = trained(old), batch((*SOME, TAGS))
  there = columns | {'user': np.where(columns['user'] % 2, 7, 5).astype('i')}
  columns['user'] = np.where(columns['user'] % 2, 3, 11).astype('i')
  grown, report = grow.grow(state, old, new, RECIPE, seed=9, moved={'user': where})
  same(logits(new, grown, there), logits(old, state, columns))
  tables = stack.unpack(new.layout, grown.tables)
  sums = stack.unpack(new.layout, {n: x['sum'] for n, x in grown.slots.items()})
  drawn = stack.unpack(new.layout, state_lib.drawn(new, jax.random.key(9)))
  for found, was in ((tables, state.tables), (sums, {n: x['sum'] for n, x in state.slots.items()})):
    np.testing.assert_array_equal(found['item'][:20], was['item'])
    np.testing.assert_array_equal(
      found['user'][jnp.array([0, 5, 7])], was['user'][jnp.array([0, 11, 3])]
    )
    np.testing.assert_array_equal(found['price'], was['price'])
  same(tables['item'][20:], drawn['item'][20:])
  assert not sums['item'][20:].any() and not sums['tags'].any()
  # Adam's moments of the net, of the fields that stay; its count goes on.
  adam, was = grown.opt[0], state.opt[0]
  np.testing.assert_array_equal(adam.count, was.count)
  moments = adam.mu['net']['mlp']['layer_0']['kernel']
  np.testing.assert_array_equal(moments[: 3 * DIM], was.mu['net']['mlp']['layer_0']['kernel'])
  assert not moments[3 * DIM :].any()
  assert [report.of(n).optimizer for n in ('user', 'tags', 'optimizer')] == [
    'enlarged',
    'fresh',
    '-',
  ]
  assert grown.step == 5
  jax.block_until_ready(stepped(new, grown, there))
