"""Pairs with a planted effect come first, pairs without one are worth nothing."""

import dataclasses

from ctr_jax.data import history, pair_gain, synthetic

FIELDS = (
  synthetic.Field('a', values=30, exponent=0.3, main=0.4),
  synthetic.Field('b', values=20, exponent=0.3, main=0.4),
  synthetic.Field('c', values=20, exponent=0.3, main=0.4),
  synthetic.Field('of_a', values=5, exponent=0.3, of='a'),
  synthetic.Field('ids', values=15_000, exponent=0.5),
)
SPEC = synthetic.Spec(
  'planted',
  samples=(20_000, 100, 100),
  fields=FIELDS,
  pairs=(),
  crosses=(('a', 'c', 0.8),),
  group='',
)


def test_planted_pair_is_first_by_far():
  for how in (history.History(clock='day'), history.History()):
    found = pair_gain.gains(synthetic.Synthetic(SPEC), how)
    assert len(found) == 10
    assert (found[0].first, found[0].second) == ('a', 'c')
    assert found[0].nats > 0.01
    assert (found[1].first, found[1].second) == ('c', 'of_a')  # Knows something of a.
    assert found[2].nats < 0.001


def test_nothing_planted_nothing_gained():
  """Also not by pairs of which most are seen once, where in-sample measures are largest."""
  plain = synthetic.Synthetic(dataclasses.replace(SPEC, crosses=()))
  found = pair_gain.gains(plain, history.History(), ('a', 'b', 'ids'))
  assert all(gain.nats < 0.0005 for gain in found)


def test_a_feature_that_is_named_twice_is_paired_once():
  spec = dataclasses.replace(SPEC, samples=(500, 10, 10))
  found = pair_gain.gains(synthetic.Synthetic(spec), history.History(), ('a', 'b', 'a'))
  assert [(gain.first, gain.second) for gain in found] == [('a', 'b')]
