"""Budgets are met exactly, spent where they help, and refused in words when they cannot be."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.compress import report
from ctr_jax.compress.budget import _candidates
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


def test_the_estimate_of_mixing_is_what_random_sharing_does():
  rows, own, buckets = 4000, 500, 50
  share = zipf(rows) / zipf(rows).sum()
  technique = compress.hot_cold(own, compress.hash_trick(buckets))
  choices = _candidates('t', leaf.Leaf((rows, 2)), zipf(rows), 1.0, None)
  (choice,) = (c for c in choices if str(c.technique) == str(technique))
  mixed = []
  for seed in range(20):
    codec = compress.hash_trick(buckets, seed=seed)(leaf.Leaf((rows - own, 2)))
    at = codec.address(np.arange(rows - own, dtype=np.int32))['way_0']
    mass = np.bincount(at, weights=share[own:], minlength=buckets)[at]
    mixed.append(np.sum(share[own:] * (1 - share[own:] / mass)))
  np.testing.assert_allclose(choice.loss, np.mean(mixed), rtol=0.1)


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
