"""Hashes against plain Python integers, against JAX, and against chance."""

import math
import warnings

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ctr_jax.compress import hashing

uint32s = st.integers(0, 2**32 - 1)


def scramble(x):
  x ^= x >> 16
  x = x * 0x7FEB352D % 2**32
  x ^= x >> 15
  x = x * 0x846CA68B % 2**32
  return x ^ x >> 16


def mix(x, seed):
  """The definition in unbounded integers."""
  first = scramble((seed + 0x9E3779B9) % 2**32)
  second = scramble((first + 0x9E3779B9) % 2**32)
  return scramble((scramble((x ^ first) % 2**32) + second) % 2**32)


def test_known_answers():
  # Hashes are part of every saved model: these values may never change.
  assert [int(hashing.mix(x, s)) for x, s in [(0, 0), (1, 0), (0, 1), (12345, 7)]] == [
    1336613536,
    510349731,
    3825097074,
    250691938,
  ]
  assert hashing.bucket(np.arange(8, dtype=np.int32), 3, 1000).tolist() == [
    261,
    665,
    598,
    155,
    784,
    793,
    907,
    48,
  ]


@hypothesis.given(x=st.lists(uint32s, min_size=1, max_size=20), seed=uint32s)
def test_numpy_is_the_definition(x, seed):
  found = hashing.mix(np.asarray(x, np.uint32), seed)
  assert found.dtype == np.uint32
  assert found.tolist() == [mix(v, seed) for v in x]


@hypothesis.given(
  x=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=6, max_size=6),
  seed=st.integers(0, 2**40),
  buckets=st.integers(1, 2**31 - 1),
)
def test_jax_is_numpy(x, seed, buckets):
  host = np.asarray(x, np.int32).reshape(2, 3)
  device = jnp.asarray(host)
  np.testing.assert_array_equal(hashing.mix(host, seed), hashing.mix(device, seed))
  found = hashing.bucket(device, seed, buckets)
  assert isinstance(found, jax.Array)
  assert found.dtype == jnp.int32
  np.testing.assert_array_equal(hashing.bucket(host, seed, buckets), found)
  np.testing.assert_array_equal(
    hashing.mix(host, seed), hashing.mix(device, jnp.uint32(seed % 2**32))
  )


def test_jitted_is_numpy():
  ids = np.arange(1000, dtype=np.int32)
  found = jax.jit(hashing.bucket, static_argnums=2)(ids, 5, 777)
  np.testing.assert_array_equal(found, hashing.bucket(ids, 5, 777))


@pytest.mark.parametrize('dtype', [np.int8, np.int32, np.int64, np.uint32, np.uint64])
def test_every_integer_type_and_scalars_agree_without_warnings(dtype):
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    for x in (0, 1, 127):
      want = mix(x, 9)
      assert int(hashing.mix(x, 9)) == want
      assert int(hashing.mix(dtype(x), dtype(9))) == want
      assert int(hashing.mix(np.asarray(x, dtype), 9)) == want
      assert int(hashing.mix(np.asarray([x], dtype), 9)[0]) == want


def test_it_is_a_bijection():
  # All pairs in a million ids: a random function would lose about 116 of them.
  assert len(np.unique(hashing.mix(np.arange(1_000_000), 4))) == 1_000_000


@pytest.mark.parametrize('buckets', [10, 1000, 1024, 65_521])
@pytest.mark.parametrize('seed', [0, 1, 123_456_789])
@pytest.mark.parametrize('stride', [1, 1024])
def test_buckets_are_uniform(buckets, seed, stride):
  ids = np.arange(1_000_000, dtype=np.int32) * stride
  counts = np.bincount(hashing.bucket(ids, seed, buckets), minlength=buckets)
  assert len(counts) == buckets
  # Two-sided: counts that are too even are not random either.
  assert 1e-4 < scipy.stats.chisquare(counts).pvalue < 1 - 1e-4


def test_one_hash_collides_as_chance_says():
  n, m = 100_000, 50_021
  counts = np.bincount(hashing.bucket(np.arange(n), 11, m), minlength=m)
  pairs, want = (counts * (counts - 1) // 2).sum(), n * (n - 1) / 2 / m
  assert abs(pairs - want) < 5 * want**0.5


@pytest.mark.parametrize('one, two', [(0, 1), (1, 2), (0, 2**31), (7, 1007), (3, 2**16 + 3)])
def test_two_seeds_are_independent(one, two):
  # Pairs that collide under both: n(n-1)/2 / m², if the seeds know nothing of one another.
  n, m = 100_000, 1009
  ids = np.arange(n, dtype=np.int32)
  pair = hashing.bucket(ids, one, m).astype(np.int64) * m + hashing.bucket(ids, two, m)
  counts = np.bincount(pair, minlength=m * m)
  both, want = (counts * (counts - 1) // 2).sum(), n * (n - 1) / 2 / m**2
  assert abs(both - want) < 5 * want**0.5
  assert 1e-4 < scipy.stats.chisquare(counts.reshape(m, m).sum(0)).pvalue < 1 - 1e-4


@pytest.mark.parametrize('of', ['ids', 'seed'])
def test_avalanche(of):
  rng = np.random.default_rng(0)
  x, seed = rng.integers(0, 2**32, (2, 20_000), dtype=np.uint32)
  for bit in range(32):
    flip = np.uint32(1 << bit)
    other = hashing.mix(x ^ flip, seed) if of == 'ids' else hashing.mix(x, seed ^ flip)
    changed = hashing.mix(x, seed) ^ other
    share = [np.mean(changed >> np.uint32(i) & np.uint32(1)) for i in range(32)]
    assert np.max(np.abs(np.asarray(share) - 0.5)) < 0.02  # 5.6 standard errors of a fair coin.


def test_errors_say_what_is_wrong():
  with pytest.raises(ValueError, match=r'1\.\.2\^31-1, got 0'):
    hashing.bucket(np.arange(3), 0, 0)
  with pytest.raises(ValueError, match='got 2147483648'):
    hashing.bucket(np.arange(3), 0, 2**31)
  with pytest.raises(TypeError, match='ids must be integers, got float32'):
    hashing.mix(np.zeros(3, np.float32), 0)
  with pytest.raises(TypeError, match='the seed must be integers, got float32'):
    hashing.mix(np.zeros(3, np.int32), jnp.float32(1))


@pytest.mark.parametrize('shape', [(), (7,), (3, 4)])
def test_a_family_is_its_hashes_side_by_side(shape):
  ids = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
  want = np.stack([hashing.bucket(ids, 5 + j, 97) for j in range(6)], axis=-1)
  np.testing.assert_array_equal(hashing.family(ids, 5, 6, 97), want)
  np.testing.assert_array_equal(hashing.family(jnp.asarray(ids), 5, 6, 97), want)
