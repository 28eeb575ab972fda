"""Budgets are met exactly, spent where they help, and refused in words when they cannot be."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.compress import report
from ctr_jax.compress.budget import _LIKE_ONE, _READS, _candidates, _lost, _shared, _sizes, _tails
from ctr_jax.tables import gather, leaf, rowwise

TABLES = {
  'item.id': leaf.Leaf((5000, 8)),
  'user': leaf.Leaf((2000, 8)),
  'day': leaf.Leaf((7, 8)),
}
FULL = sum(x.nbytes for x in TABLES.values())


def zipf(rows):
  return (1e6 / np.arange(1, rows + 1)).astype(np.int64)


COUNTS = {name: zipf(x.rows) for name, x in TABLES.items()}


@given(part=st.floats(0.005, 1.5))
def test_the_budget_is_met_and_what_is_said_is_what_is_stored(part):
  limit = int(FULL * part)
  found = compress.budget(TABLES, COUNTS, limit)
  codec = compress.bind(TABLES, found.served)
  assert leaf.nbytes(codec.plan) == found.nbytes <= limit
  assert report.by_table(codec.plan) == {n: c.nbytes for n, c in found.choices.items()}


@given(part=st.floats(0.02, 1.5))
def test_a_training_budget_counts_the_optimizer(part):
  optimizer = rowwise.adagrad(0.1)
  limit = int(FULL * part)
  found = compress.budget(TABLES, COUNTS, limit, slots=optimizer.slots)
  assert found.rules == found.served
  codec = compress.bind(TABLES, found.rules)
  leaves = {p: x for p, x in leaf.flatten(codec.plan).items() if x.by_row and not x.frozen}
  slots = {p: optimizer.slots(x) for p, x in leaves.items()}
  assert report.training(codec, slots) == found.nbytes <= limit


def test_more_bytes_never_lose_more():
  losses = []
  for part in (0.01, 0.03, 0.1, 0.3, 1.0):
    found = compress.budget(TABLES, COUNTS, int(FULL * part))
    losses.append(sum(c.loss for c in found.choices.values()))
  assert losses == sorted(losses, reverse=True)
  assert losses[-1] == 0  # The full tables fit.


def test_importance_moves_bytes():
  limit = FULL // 50
  plain = compress.budget(TABLES, COUNTS, limit).choices
  users = compress.budget(
    TABLES, COUNTS, limit, importances={'item.id': 0.01, 'user': 10.0, 'day': 1.0}
  )
  assert users.choices['user'].nbytes > plain['user'].nbytes
  assert users.choices['item.id'].nbytes < plain['item.id'].nbytes


def reads(counts):
  """What `_lost` sums over: distinct numbers of reads and how often they are met, and all reads."""
  return *np.unique(counts, return_counts=True), counts.sum()


def bits(counts, at):
  """Of an id that its row `at` does not tell, each id's by what its reads let a vector learn."""
  share = counts / counts.sum()
  mass = np.bincount(at, weights=share)[at]
  return np.sum(share * counts / (counts + _READS) * np.log2(mass / share))


@pytest.mark.parametrize('buckets', [1, 8, 50, 300])
def test_the_estimate_is_what_random_sharing_loses(buckets):
  counts, plan = zipf(4000)[500:], leaf.Leaf((3500, 2))
  ids = np.arange(3500, dtype=np.int32)
  one, two = [], []
  for seed in range(10):
    address = compress.hash_trick(buckets, seed=seed)(plan).address(ids)
    one.append(bits(counts, address['way_0']))
    address = compress.multi_hash(buckets, 2, seed=seed)(plan).address(ids)
    two.append(bits(counts, address['way_0'] * buckets + address['way_1']))
  estimate = _lost(*reads(counts), buckets)
  np.testing.assert_allclose(estimate, np.mean(one), rtol=0.1)
  assert estimate >= np.mean(one) - 1e-9  # A bound from above.
  assert _lost(*reads(counts), buckets**2) >= np.mean(two) - 1e-9
  if buckets > 8:
    technique, lost = _shared(*reads(counts), 2 * buckets)
    assert str(technique) == str(compress.multi_hash(buckets, 2))
    alike, apart = (_lost(*reads(counts), m) for m in (2 * buckets, buckets**2))
    np.testing.assert_allclose(lost, _LIKE_ONE * alike + (1 - _LIKE_ONE) * apart)
    assert lost < alike


def test_one_row_for_all_loses_the_entropy_of_the_reads():
  counts = zipf(1000) * 10**6  # Read so often that nothing is left to learn.
  share = counts / counts.sum()
  entropy = -np.sum(share * np.log2(share))
  np.testing.assert_allclose(_lost(*reads(counts), 1), entropy, rtol=1e-6)
  assert _lost(*reads(np.array([0, 10**9, 0])), 1) == 0  # An only id has nothing to lose.


@given(counts=st.lists(st.integers(0, 10**6), min_size=2, max_size=200), seed=st.integers(0, 9))
def test_more_rows_never_lose_more(counts, seed):
  counts = np.random.default_rng(seed).permutation(np.array(counts, np.int64))
  tails = _tails(counts, _sizes(len(counts)))
  for own, (read, times) in tails.items():
    np.testing.assert_array_equal(np.repeat(read, times.astype(int)), np.sort(counts[own:]))
  total = counts.sum()
  lost = [_lost(*tails[0], total, rows) for rows in (1, 2, 3, 10, 1000)]
  assert all(more <= less + 1e-12 for less, more in itertools.pairwise(lost))
  whole = [_lost(*tails[own], total, 4) for own in sorted(tails)]  # The more own rows, the less.
  assert all(more <= less + 1e-12 for less, more in itertools.pairwise(whole))


def test_every_kind_of_sharing_is_considered():
  choices = _candidates('t', leaf.Leaf((4000, 8)), zipf(4000), 1.0, None)
  names = {str(choice.technique).split('(')[0] for choice in choices}
  assert names == {'identity', 'hash_trick', 'multi_hash', 'hot_cold'}
  assert any('tail=multi_hash' in str(choice.technique) for choice in choices)
  assert min(c.nbytes for c in choices) == min(
    c.nbytes for c in choices if 'hash_trick(buckets=1,' in str(c.technique)
  )


def test_bytes_go_where_ids_tell_most():
  """By default: to a table whose reads spread over its ids, before one that is nearly constant."""
  tables = {name: leaf.Leaf((1000, 8)) for name in ('spread', 'constant')}
  counts = {'spread': zipf(1000), 'constant': np.array([10**8] + [10**3] * 999)}
  found = compress.budget(tables, counts, 4000).choices
  assert found['spread'].nbytes > 4 * found['constant'].nbytes


def test_ids_that_were_seldom_read_get_no_rows_before_others():
  tables = {name: leaf.Leaf((1000, 8)) for name in ('known', 'seldom')}
  counts = {'known': np.full(1000, 1000), 'seldom': np.full(1000, 3)}
  found = compress.budget(tables, counts, 4000).choices
  assert found['known'].nbytes > 4 * found['seldom'].nbytes


def test_rules_work_from_training_to_serving():
  found = compress.budget(TABLES, COUNTS, FULL // 20)
  trained = compress.bind(TABLES, found.rules)
  served = compress.bind(TABLES, found.served)
  tables = {n: jnp.ones(x.shape) * jnp.arange(8.0)[None] for n, x in TABLES.items()}
  for codec in (trained, served):
    stored = compress.encode(codec, tables)
    ids = {n: np.arange(x.rows, dtype=np.int32) for n, x in TABLES.items()}
    vectors = codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))
    for name in TABLES:
      np.testing.assert_allclose(vectors[name], tables[name], atol=0.25)


def test_what_cannot_be_met_is_refused():
  with pytest.raises(ValueError, match='cannot be met: the smallest form of all 3 tables takes'):
    compress.budget(TABLES, COUNTS, 10)
  with pytest.raises(ValueError, match="'day' has 7 rows and 6 counts"):
    compress.budget(TABLES, COUNTS | {'day': zipf(6)}, FULL)


def test_kinds_of_values_are_kept_to():
  tables, counts = {'a': leaf.Leaf((50, 4))}, {'a': np.arange(50)}
  found = compress.budget(tables, counts, 200, kinds=('int8',))
  assert 'int_quantize(bits=8' in str(found.choices['a'].technique)
  with pytest.raises(ValueError, match='knows no int3; known are float32, float16, int8, int4'):
    compress.budget(tables, counts, 200, kinds=('int3',))
