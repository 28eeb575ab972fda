"""Stochastic rounding keeps the mean, lands on neighbours, and is reproducible."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax.compress import rounding

types = pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])


def test_uniform_is_uniform_and_a_function_of_the_key():
  x = np.asarray(rounding.uniform(jax.random.key(0), (200, 500)), np.float64)
  assert x.min() >= 0
  assert x.max() < 1
  np.testing.assert_allclose(x.mean(), 0.5, atol=4 / np.sqrt(12 * x.size))
  np.testing.assert_allclose(x.var(), 1 / 12, rtol=0.01)
  again = rounding.uniform(jax.random.key(0), (200, 500))
  other = np.asarray(rounding.uniform(jax.random.key(1), (200, 500)), np.float64)
  np.testing.assert_array_equal(x.astype(np.float32), again)
  assert abs(np.corrcoef(x.ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(x.size)
  assert abs(np.corrcoef(x[:, :-1].ravel(), x[:, 1:].ravel())[0, 1]) < 4 / np.sqrt(x.size)


@types
@given(x=st.floats(-1e4, 1e4, width=32))
def test_it_is_one_of_the_two_neighbours(dtype, x):
  x = jnp.full((64,), x, jnp.float32)
  found = rounding.to_type(x, dtype, jax.random.key(3)).astype(jnp.float32)
  near = x.astype(dtype)
  below = jnp.where(near.astype(jnp.float32) > x, jnp.nextafter(near, dtype(-jnp.inf)), near)
  above = jnp.where(near.astype(jnp.float32) < x, jnp.nextafter(near, dtype(jnp.inf)), near)
  assert bool(jnp.all((found == below.astype(found.dtype)) | (found == above.astype(found.dtype))))


@types
def test_the_mean_is_kept_where_rounding_to_nearest_loses(dtype):
  small = float(jnp.finfo(dtype).eps) / 10  # A tenth of the distance to the next value above one.
  x = jnp.full((100_000,), 1 + small, jnp.float32)
  assert bool(jnp.all(rounding.to_type(x, dtype, None) == 1))
  found = np.asarray(rounding.to_type(x, dtype, jax.random.key(0)), np.float64)
  spread = small * 10 * np.sqrt(0.1 * 0.9 / x.size)
  assert abs(found.mean() - float(x[0])) < 4 * spread


def test_whole_numbers():
  x = jnp.full((100_000,), -2.3, jnp.float32)
  found = np.asarray(rounding.to_integer(x, jax.random.key(0)), np.float64)
  assert set(found.tolist()) == {-3.0, -2.0}
  assert abs(found.mean() + 2.3) < 4 * np.sqrt(0.3 * 0.7 / x.size)
  np.testing.assert_array_equal(rounding.to_integer(x, None), -2)


@types
def test_values_that_are_stored_exactly_stay(dtype):
  x = jnp.asarray([0, 1, -2.5, 0.375], dtype).astype(jnp.float32)
  np.testing.assert_array_equal(rounding.to_type(x, dtype, jax.random.key(0)), x.astype(dtype))


def test_beyond_the_largest_half_it_stays_finite():
  x = jnp.full((1000,), 65519.0, jnp.float32)  # Rounds to 65504, whose neighbour above is infinite.
  assert bool(jnp.isfinite(rounding.to_type(x, jnp.float16, jax.random.key(0))).all())
