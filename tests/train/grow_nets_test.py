"""Every net: logits before and after it has grown, or why it cannot grow."""

import jax
import numpy as np
import pytest

from ctr_jax import models
from ctr_jax.train import grow
from tests.train.grow_cases import (
  CHANGES,
  NETS,
  RECIPE,
  REFUSED,
  SOME,
  TAGS,
  USER,
  batch,
  changed,
  logits,
  model,
  same,
  stepped,
  trained,
  without,
)  # fmt: skip

# For every run one net of each kind (DNN and DCN: grow_test.py). Each compiles.
SOON = ('deepfm', 'final_mlp', 'autoint')


def check(net, name):
  old, new, columns = changed(name, net)
  state = trained(old)
  if name in REFUSED.get(net, ((), ''))[0]:
    with pytest.raises(ValueError, match=REFUSED[net][1]) as caught:
      grow.grow(state, old, new, RECIPE, seed=9)
    assert '\n  net: ' in str(caught.value)
    assert "accept=['net']" in str(caught.value)
    return
  grown, _ = grow.grow(state, old, new, RECIPE, seed=9)
  before = without(state, 'tags') if name == 'one goes' else state
  same(logits(new, grown, columns), logits(old, before, columns))


def test_every_net_is_tested():
  assert {options['net'] for options in NETS.values()} == models.NETS.keys()


@pytest.mark.parametrize('net', SOON)
def test_a_multi_valued_feature_comes_and_logits_stay(net):
  check(net, 'a multi-valued one comes')


@pytest.mark.long
@pytest.mark.parametrize('name', CHANGES)
@pytest.mark.parametrize('net', NETS)
def test_logits_stay(net, name):
  check(net, name)


def learns(net, change='a multi-valued one comes'):
  """What moves of a new table and of the weights that read it, in two steps."""
  old, new, columns = changed(change, net)
  grown, _ = grow.grow(trained(old), old, new, RECIPE, seed=9)
  read = np.unique(np.where(columns['tags'] >= 0, columns['tags'], 0))
  first = stepped(new, grown, columns)
  second = stepped(new, first, columns)
  return [np.any(x.tables['tags'][read] != grown.tables['tags'][read]) for x in (first, second)]


def test_zero_vectors_learn_at_once():
  assert learns('deepfm')[0]


@pytest.mark.long
@pytest.mark.parametrize('net', [net for net in NETS if 'softmax' not in REFUSED.get(net, ())])
def test_new_fields_learn(net):
  first, second = learns(net)
  assert second
  assert first != getattr(model(SOME, net).net, 'weighs_all', False)


@pytest.mark.long
def test_the_same_features_in_another_order():
  old, new = model((USER, TAGS, *SOME[1:]), 'dcn'), model((TAGS, *SOME[::-1]), 'dcn')
  state, columns = trained(old), batch((*SOME, TAGS))
  grown, _ = grow.grow(state, old, new, RECIPE, seed=9)
  same(logits(new, grown, columns), logits(old, state, columns))


def test_a_net_that_cannot_grow_is_made_anew_where_that_is_accepted():
  old, new, columns = changed('a feature comes', 'autoint')
  state = trained(old)
  grown, report = grow.grow(state, old, new, RECIPE, seed=9, accept=['net'])
  assert report.of('net').what == 'reset'
  assert report.of('item').what == 'kept'
  np.testing.assert_array_equal(grown.tables['item'], state.tables['item'])
  assert not any(np.any(x) for x in jax.tree.leaves(grown.opt[0].mu['net']))
  logits(new, grown, columns)
