"""The dropout mask: a hash good enough to drop units with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax.models import dropout

ROWS, COLUMNS = 4096, 400


def mask(seed, shape=(ROWS, COLUMNS), rate=0.2):
  return np.asarray(dropout.keep(jnp.uint32(seed), shape, rate))


def worst_correlation(samples):
  """The largest correlation between two distinct rows of bool `samples`, in standard errors."""
  x = samples.astype(np.float64)
  x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
  correlation = x @ x.T / x.shape[1]
  np.fill_diagonal(correlation, 0)
  return np.abs(correlation).max() * np.sqrt(x.shape[1])


def test_bits_are_those_of_the_formula():
  def mix(x):
    x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
    x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
    return x ^ (x >> 16)

  seed, rate = 0xDEADBEEF, 0.3
  expected = np.zeros((50, 7), bool)
  for row, column in np.ndindex(expected.shape):
    start = mix(row ^ seed) + mix(seed ^ 0xFFFFFFFF) + column * 0x9E3779B9
    expected[row, column] = mix(start % 2**32) >= round(rate * 2**32)
  np.testing.assert_array_equal(mask(seed, expected.shape, rate), expected)


@pytest.mark.parametrize('rate', [0.001, 0.2, 0.5, 0.9])
def test_keeps_a_binomial_number(rate):
  for seed in (0, 1, 12345, 2**32 - 1):
    kept = mask(seed, rate=rate)
    for counts, n in ((kept.sum(), kept.size), (kept.sum(0), ROWS), (kept.sum(1), COLUMNS)):
      spread = np.sqrt(n * rate * (1 - rate))
      assert np.abs(counts - n * (1 - rate)).max() < 6 * spread + 1


def test_columns_and_rows_are_independent():
  # Of 8·10⁴ pairs the worst is expected near 4.5 standard errors.
  assert worst_correlation(mask(7).T) < 6
  assert worst_correlation(mask(7, (COLUMNS, ROWS))) < 6


def test_neighbours_are_independent():
  kept = mask(3).astype(np.float64) - 0.8
  for down, right in [(0, 1), (1, 0), (1, 1), (1, 399), (2, 0), (64, 0), (0, 16)]:
    product = kept[down:, right:] * kept[: ROWS - down, : COLUMNS - right]
    assert abs(product.mean()) < 6 * 0.16 / np.sqrt(product.size)


def test_steps_and_layers_are_independent():
  keys = [jax.random.fold_in(jax.random.key(0), i) for i in range(64)]
  from_keys = [int(dropout.seed_from(k)) for k in keys]
  for seeds in (range(64), [1 << i for i in range(32)], from_keys):
    assert worst_correlation(np.stack([mask(s, (64, 100)).ravel() for s in seeds])) < 6


@pytest.mark.parametrize('change', [1, 5, 1 << 11])
def test_near_seeds_are_not_rows_exchanged(change):
  kept, other = mask(100), mask(100 ^ change)
  exchanged = other[np.arange(ROWS) ^ change]
  assert worst_correlation(np.stack([kept.ravel(), exchanged.ravel()])) < 6


def test_seed_is_a_function_of_the_key():
  seeds = [int(dropout.seed_from(jax.random.key(i))) for i in (0, 0, 1, 2)]
  assert seeds[0] == seeds[1]
  assert len(set(seeds)) == 3
  assert dropout.seed_from(jax.random.key(0)).dtype == jnp.uint32


def test_dropout_scales_what_stays():
  x = jax.random.normal(jax.random.key(0), (ROWS, 10))
  y = np.asarray(dropout.dropout(x, jnp.uint32(5), 0.2))
  kept = mask(5, (ROWS, 10))
  np.testing.assert_allclose(y, np.where(kept, np.asarray(x) / 0.8, 0.0), rtol=1e-6)
  assert y.dtype == np.float32


def test_rate_zero_is_the_identity():
  x = jax.random.normal(jax.random.key(0), (16, 10))
  np.testing.assert_array_equal(dropout.dropout(x, jnp.uint32(5), 0.0), x)
  assert mask(5, rate=0.0).all()


def test_jit_gives_the_same_bits():
  jitted = jax.jit(dropout.keep, static_argnums=(1, 2))
  np.testing.assert_array_equal(jitted(jnp.uint32(9), (64, 33), 0.4), mask(9, (64, 33), 0.4))
