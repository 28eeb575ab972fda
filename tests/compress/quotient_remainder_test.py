"""Unique pairs, the last partial row, and how training starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.tables import gather, leaf

COMBINE = {
  'multiply': lambda parts: parts[0] * parts[1],
  'add': sum,
  'concat': lambda parts: np.concatenate(parts, axis=-1),
}
combines = pytest.mark.parametrize('combine', COMBINE)


def read(codec, stored, ids):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


@combines
@given(rows=st.integers(1, 300), divisor=st.integers(1, 400))
def test_pairs_are_unique_and_every_row_is_reached(combine, rows, divisor):
  codec = compress.quotient_remainder(divisor, combine)(leaf.Leaf((rows, 4)))
  found = codec.address(np.arange(rows, dtype=np.int32))
  pairs = set(zip(found['quotient'].tolist(), found['remainder'].tolist(), strict=True))
  assert len(pairs) == rows
  # No row is stored that no id reads; and the last, partial quotient row is there.
  for name, index in found.items():
    assert set(index.tolist()) == set(range(codec.plan[name].rows))
  assert codec.plan['quotient'].rows == -(-rows // divisor)


@pytest.mark.parametrize(
  'combine, widths', [('multiply', (5, 5)), ('add', (5, 5)), ('concat', (2, 3))]
)
def test_plan_and_decode(combine, widths):
  full = leaf.Leaf((40, 5), init=leaf.normal(0.5))
  codec = compress.quotient_remainder(7, combine)(full)
  shapes = (codec.plan['remainder'].shape, codec.plan['quotient'].shape)
  assert shapes == ((7, widths[0]), (6, widths[1]))
  rng = np.random.default_rng(0)
  stored = {n: rng.normal(size=x.shape).astype(np.float32) for n, x in codec.plan.items()}
  found = read(codec, jax.tree.map(jnp.asarray, stored), np.arange(40, dtype=np.int32))
  for i in range(40):
    one, other = stored['remainder'][i % 7], stored['quotient'][i // 7]
    want = COMBINE[combine]([one, other])
    np.testing.assert_allclose(found[i], want, rtol=1e-6)


@combines
def test_vectors_start_with_the_variance_of_the_table(combine):
  full = leaf.Leaf((9_000, 8), init=leaf.normal(0.3))
  codec = compress.quotient_remainder(95, combine)(full)  # As many rows of both: 95 and 95.
  found = np.asarray(
    read(codec, leaf.init(codec.plan, jax.random.key(0)), np.arange(9_000, dtype=np.int32))
  )
  assert abs(found.std() / 0.3 - 1) < 0.1


def test_multiply_starts_as_the_hashing_trick():
  full = leaf.Leaf((40, 6), init=leaf.normal(0.5))
  stored = leaf.init(compress.quotient_remainder(7)(full).plan, jax.random.key(0))
  np.testing.assert_array_equal(stored['quotient'], 1)
  vectors = read(compress.quotient_remainder(7)(full), stored, np.arange(40, dtype=np.int32))
  np.testing.assert_array_equal(vectors, np.asarray(stored['remainder'])[np.arange(40) % 7])


@combines
def test_encode_recovers_what_has_its_form(combine):
  # A table that two small ones make is found again, up to the freedom between them.
  rng, rows, m = np.random.default_rng(1), 42, 7
  codec = compress.quotient_remainder(m, combine)(leaf.Leaf((rows, 4)))
  one = rng.uniform(0.5, 2, codec.plan['remainder'].shape)
  other = rng.uniform(0.5, 2, codec.plan['quotient'].shape)
  i = np.arange(rows)
  x = jnp.asarray(COMBINE[combine]([one[i % m], other[i // m]]), jnp.float32)
  np.testing.assert_allclose(read(codec, codec.encode(x), i.astype(np.int32)), x, rtol=2e-5)


@combines
def test_encode_beats_the_hashing_trick_of_the_same_remainders(combine):
  x = jnp.asarray(np.random.default_rng(2).normal(size=(40, 6)), jnp.float32)
  ids, full = np.arange(40, dtype=np.int32), leaf.Leaf((40, 6))

  def error(technique):
    codec = technique(full)
    return float(jnp.sum(jnp.square(read(codec, codec.encode(x), ids) - x)))

  if combine != 'concat':  # Which gives half of the columns to each.
    assert error(compress.quotient_remainder(7, combine)) < error(compress.chain(_modulo(7)))
  assert error(compress.quotient_remainder(7, combine)) < float(jnp.sum(jnp.square(x)))


def _modulo(m):
  """The remainder table alone, written as a technique of the test's own."""

  def build(full):
    rows = full.shape[0]
    at = jnp.arange(rows) % m

    def encode(table):
      total = jnp.zeros((m, table.shape[1])).at[at].add(table)
      return total / jnp.bincount(at, length=m)[:, None].astype(jnp.float32)

    plan = leaf.Leaf((m, full.shape[1]))
    return compress.Codec(plan, encode, lambda ids: ids % m, lambda rows, **context: rows)

  return compress.Technique('modulo', {'m': m}, build)


def test_a_zero_column_keeps_its_quotient_at_one():
  x = jnp.zeros((40, 6)).at[:, 0].set(1.0)
  stored = compress.quotient_remainder(7)(leaf.Leaf((40, 6))).encode(x)
  np.testing.assert_array_equal(stored['quotient'], 1)
  assert bool(jnp.isfinite(stored['remainder']).all())


def test_settings_that_make_no_sense_are_refused():
  with pytest.raises(ValueError, match='divisor ≥ 1, got 0'):
    compress.quotient_remainder(0)
  with pytest.raises(ValueError, match="multiply, add or concat, got 'xor'"):
    compress.quotient_remainder(3, 'xor')
  with pytest.raises(ValueError, match='one column cannot be shared out'):
    compress.quotient_remainder(3, 'concat')(leaf.Leaf((40, 1)))
