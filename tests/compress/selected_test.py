"""Rules from a ranking: how many stay, and what happens to tables that features share."""

import pytest

from ctr_jax import compress
from ctr_jax.compress import codec

SCORES = {'a': 0.5, 'b': 0.1, 'c': 0.3, 'd': 0.1}


def gone(rules, names=SCORES):
  """The tables that rules drop."""
  return {name for name in names if compress.match(name, rules).name == 'drop'}


def left_out(rules):
  """The features that rules leave out of tables that stay."""
  return {name for name in SCORES if codec.drops(name, rules)}


def test_the_most_important_stay():
  assert gone(compress.selected(SCORES, keep=2)) == {'b', 'd'}
  assert gone(compress.selected(SCORES, keep=3)) == {'d'}  # Equals by name.
  assert gone(compress.selected(SCORES, keep=9)) == set()


def test_a_budget_takes_in_order_what_still_fits():
  costs = {'a': 60, 'b': 30, 'c': 50, 'd': 10}
  assert gone(compress.selected(SCORES, budget=100, costs=costs)) == {'c'}
  assert gone(compress.selected(SCORES, budget=150, costs=costs)) == set()
  with pytest.raises(ValueError, match="'c' has none"):
    compress.selected(SCORES, budget=100, costs={'a': 60, 'b': 30, 'd': 1})


def test_a_budget_of_all_costs_keeps_all_in_whatever_order_they_are_added():
  costs = {'a': 0.1, 'b': 0.2, 'c': 0.3, 'd': 0.0}
  all_ = 0.3 + 0.2 + 0.1
  assert all_ < sum(costs.values())
  importance = {'a': 3.0, 'b': 2.0, 'c': 1.0, 'd': 0.0}
  assert gone(compress.selected(importance, budget=all_, costs=costs)) == set()


def test_a_table_is_paid_for_once_and_whole():
  tables = {'a': 'shared', 'b': 'b', 'c': 'c', 'd': 'shared'}
  costs, of_tables = dict.fromkeys(SCORES, 1), {'shared': 100, 'b': 10, 'c': 50}

  def chosen(budget):
    rules = compress.selected(
      SCORES, budget=budget, costs=costs, table_costs=of_tables, tables=tables
    )
    return gone(rules, {'shared', 'b', 'c'}), left_out(rules)

  assert chosen(60) == ({'shared', 'b'}, set())
  assert chosen(101) == ({'b', 'c'}, {'d'})
  assert chosen(102) == ({'b', 'c'}, set())


def test_losses_of_what_goes_add_up_to_no_more():
  assert gone(compress.selected(SCORES, max_loss=0.0)) == set()
  assert gone(compress.selected(SCORES, max_loss=0.15)) == {'d'}
  assert gone(compress.selected(SCORES, max_loss=0.25)) == {'b', 'd'}


def test_a_table_goes_with_its_last_feature():
  tables = {'a': 'a', 'b': 'shared', 'c': 'c', 'd': 'shared'}
  two = compress.selected(SCORES, keep=2, tables=tables)
  assert gone(two, {'a', 'c', 'shared'}) == {'shared'}
  assert left_out(two) == set()
  three = compress.selected(SCORES, keep=3, tables=tables)
  assert gone(three, {'a', 'c', 'shared'}) == set()
  assert left_out(three) == {'d'}


def test_a_feature_goes_alone_from_the_table_that_it_gave_its_name():
  tables = {'a': 'b', 'b': 'b', 'c': 'c', 'd': 'd'}
  rules = compress.selected(SCORES, keep=1, tables=tables)
  assert gone(rules, {'b', 'c', 'd'}) == {'c', 'd'}
  assert left_out(rules) == {'b'}


def test_what_does_harm_buys_nothing_for_others():
  rules = compress.selected({'a': 1.0, 'b': 0.2, 'c': -5.0}, max_loss=0.1)
  assert gone(rules, 'abc') == {'c'}


def test_rules_that_stay_come_after():
  rules = compress.selected(SCORES, keep=1, rules=(('.*', compress.multi_hash(8)),))
  assert compress.match('a', rules).name == 'multi_hash'
  assert compress.match('b', rules).name == 'drop'


def test_names_are_no_patterns():
  rules = compress.selected({'a.b': 0.1, 'axb': 0.2}, keep=1)
  assert gone(rules, {'a.b', 'axb'}) == {'a.b'}


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    ({}, 'exactly one'),
    ({'keep': 1, 'max_loss': 0.1}, 'exactly one'),
    ({'keep': 0}, 'No feature is left to learn from: allow for more'),
    ({'max_loss': 9.0}, 'No feature is left to learn from: lower max_loss'),
  ],
)
def test_what_makes_no_sense_is_refused(arguments, words):
  with pytest.raises(ValueError, match=words):
    compress.selected(SCORES, **arguments)
  with pytest.raises(ValueError, match='not a finite number'):
    compress.selected({'a': float('nan')}, keep=1)


@pytest.mark.parametrize('keep', [0, -1])
def test_at_least_one_stays(keep):
  with pytest.raises(ValueError, match='No feature is left'):
    compress.selected(SCORES, keep=keep)
