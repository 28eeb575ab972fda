"""A shared row times a scalar per id: its identity, its start, and what is fitted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.tables import gather, leaf

biases = pytest.mark.parametrize('bias', [True, False])


def read(codec, stored, ids):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


def random(plan, seed=0):
  rng = np.random.default_rng(seed)
  return {n: rng.normal(size=x.shape).astype(np.float32) for n, x in plan.items()}


@biases
@given(rows=st.integers(1, 60), buckets=st.integers(1, 80))
def test_decode_is_the_formula(bias, rows, buckets):
  codec = compress.memcom(buckets, bias)(leaf.Leaf((rows, 3)))
  stored, ids = random(codec.plan), np.arange(rows, dtype=np.int32)
  m = min(buckets, rows)
  assert codec.plan['shared'].shape == (m, 3)
  want = stored['shared'][ids % m] * stored['multiplier'][:, None]
  if bias:
    want = want + stored['bias'][:, None]
  np.testing.assert_allclose(read(codec, stored, ids), want, rtol=1e-5, atol=1e-6)


@biases
def test_starts_as_the_row_of_the_remainder(bias):
  codec = compress.memcom(7, bias)(leaf.Leaf((40, 6), init=leaf.normal(0.5)))
  stored = leaf.init(codec.plan, jax.random.key(0))
  ids = np.arange(40, dtype=np.int32)
  np.testing.assert_array_equal(read(codec, stored, ids), np.asarray(stored['shared'])[ids % 7])


def test_vectors_start_with_the_variance_of_the_table():
  codec = compress.memcom(4000)(leaf.Leaf((9000, 8), init=leaf.normal(0.3)))
  stored = leaf.init(codec.plan, jax.random.key(0))
  found = np.asarray(read(codec, stored, np.arange(9000, dtype=np.int32)))
  assert abs(found.std() / 0.3 - 1) < 0.02


@biases
def test_scalars_are_those_of_least_squares(bias):
  x = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
  stored = compress.memcom(7, bias)(leaf.Leaf((40, 6))).encode(jnp.asarray(x))
  for i in range(40):
    shared = x[np.arange(40) % 7 == i % 7].mean(axis=0, dtype=np.float64)
    basis = np.stack([shared, np.ones(6)], axis=1) if bias else shared[:, None]
    want = np.linalg.lstsq(basis, x[i].astype(np.float64), rcond=None)[0]
    found = [stored[n][i] for n in ('multiplier', 'bias') if n in stored]
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


@biases
def test_encode_recovers_vectors_that_differ_by_their_length(bias):
  rng = np.random.default_rng(2)
  x = rng.normal(size=(7, 6))[np.arange(42) % 7] * rng.uniform(0.5, 2, (42, 1))
  if bias:
    x = x + rng.normal(size=(42, 1))
  codec = compress.memcom(7, bias)(leaf.Leaf((42, 6)))
  found = read(codec, codec.encode(jnp.asarray(x, jnp.float32)), np.arange(42, dtype=np.int32))
  np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-5)


@biases
def test_rows_that_say_nothing_keep_a_multiplier_of_one(bias):
  x = jnp.full((40, 6), 0.1).at[3:].set(0.0)
  codec = compress.memcom(40, bias)(leaf.Leaf((40, 6)))
  stored = codec.encode(x)
  np.testing.assert_allclose(stored['multiplier'], 1, rtol=1e-6)
  np.testing.assert_allclose(read(codec, stored, np.arange(40, dtype=np.int32)), x, rtol=1e-6)


def test_an_id_of_rows_trains_no_scalar():
  found = compress.memcom(7)(leaf.Leaf((40, 6))).address(np.int32([40]))
  assert found['multiplier'] == found['bias'] == 40
  assert 0 <= found['shared'] < 7


def test_scalars_are_stored_in_the_type_of_the_table():
  codec = compress.chain(compress.cast('float16'), compress.memcom(8))(leaf.Leaf((40, 6)))
  assert leaf.nbytes(codec.plan) == 2 * (8 * 6 + 40 + 40)


def test_settings_that_make_no_sense_are_refused():
  with pytest.raises(ValueError, match='buckets ≥ 1, got 0'):
    compress.memcom(0)
