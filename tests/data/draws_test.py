"""Counter-based numbers against the published generator and against their distributions."""

import numpy as np
import pytest
import scipy.stats

from ctr_jax.data import draws


def test_splitmix_is_the_published_one():
  # The first numbers of the reference implementation (Vigna) for seed 1234567.
  found = draws.hashed(np.uint64(1234567), np.arange(1, 4, dtype=np.uint64))
  assert found.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize('key', [0, 1, 2**63])
def test_uniform_is_uniform_and_neighbours_are_independent(key):
  u = draws.uniform(draws.hashed(np.uint64(key), np.arange(200_000, dtype=np.uint64)))
  assert u.min() >= 0
  assert u.max() < 1
  assert scipy.stats.kstest(u, 'uniform').pvalue > 1e-3
  assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.01


def test_keys_are_streams_of_their_own():
  names = [(0, 'main', 'a'), (1, 'main', 'a'), (0, 'pair', 'a'), (0, 'main', 'b')]
  counter = np.arange(100_000)
  streams = [draws.uniform(draws.hashed(draws.key(*name), counter)) for name in names]
  assert np.max(np.abs(np.corrcoef(streams) - np.eye(4))) < 0.02


def test_effects_have_the_strength_that_the_spec_says():
  # Over values, one sample each: what the spec's standard deviation is of.
  values = np.arange(100_000)
  normal = draws.normal(draws.hashed(np.uint64(5), values))
  assert abs(normal.mean()) < 0.015
  assert abs(normal.std() - 1) < 0.01
  assert abs(scipy.stats.kurtosis(normal)) < 0.4
  one, two = (draws.vector(draws.hashed(np.uint64(k), values)) for k in (6, 7))
  product = draws.dot(one, two)
  assert abs(product.mean()) < 0.015
  assert abs(product.std() - 1) < 0.01
  assert abs(np.corrcoef(product, normal)[0, 1]) < 0.015


@pytest.mark.parametrize('exponent', [0.0, 0.5, 1.0, 1.0 + 1e-10, 1.7])
def test_power_law_inverts_its_distribution(exponent):
  # Row r has the probability ∫ x^-a dx from r to r + 1: u just above what is below r gives r.
  values = 1000
  grid = np.linspace(1, values + 1, 1_000_001)
  density = grid**-exponent
  below = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
  below = (below / below[-1])[::1000]
  found = draws.power_law((below[:-1] + below[1:]) / 2, values, exponent)
  np.testing.assert_array_equal(found, np.arange(1, values + 1))
  assert draws.power_law(np.array([0.0, 1 - 2**-53]), values, exponent).tolist() == [1, values]
