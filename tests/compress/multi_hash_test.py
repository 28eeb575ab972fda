"""Collisions against their predictions, and the identities that the docstrings state."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax import compress
from ctr_jax.compress.multi_hash import bucket_mean
from ctr_jax.tables import gather, leaf

FULL = leaf.Leaf((40, 6), init=leaf.normal(0.5))
COMBINES = ('sum', 'mean', 'concat', 'weights')


def table(rows=40, cols=6, seed=0):
  return np.random.default_rng(seed).normal(size=(rows, cols)).astype(np.float32)


def read(codec, stored, ids):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


def sharing(address):
  """The share of ids that agree with some other id in every way."""
  tuples = np.stack(list(address.values()), axis=-1)
  _, counts = np.unique(tuples, axis=0, return_counts=True)
  return 1 - (counts == 1).sum() / len(tuples)


@pytest.mark.parametrize('n, m', [(20_000, 5_000), (20_000, 20_001), (50_000, 500_000)])
def test_collisions_of_one_hash(n, m):
  # With as many buckets as rows way 0 needs no hash; the last way of two always is one.
  codec = (compress.hash_trick(m) if m < n else compress.multi_hash(m))(leaf.Leaf((n, 4)))
  address = codec.address(np.arange(n, dtype=np.int32))
  shared = sharing({'': address[max(address)]})
  want = 1 - np.exp(-n / m)
  assert abs(shared - want) < 5 * (2 * want * (1 - want) / n) ** 0.5


@pytest.mark.parametrize('n, m, ways', [(20_000, 200, 2), (50_000, 500, 2), (100_000, 60, 3)])
@pytest.mark.parametrize('seed', [0, 11])
def test_collisions_of_several_ways(n, m, ways, seed):
  codec = compress.multi_hash(m, ways=ways, seed=seed)(leaf.Leaf((n, 4)))
  address = codec.address(np.arange(n, dtype=np.int32))
  assert len(address) == ways
  shared = sharing(address)
  # 1 − e^(−n/m^k) ≈ n/m^k: the ways know nothing of one another.
  want = 1 - np.exp(-n / m**ways)
  assert abs(shared - want) < 5 * (2 * want * (1 - want) / n) ** 0.5


def test_two_ways_collide_far_less_than_one_of_as_many_rows():
  n, rows = 20_000, 2_000
  ids = np.arange(n, dtype=np.int32)
  one = sharing(compress.hash_trick(rows)(leaf.Leaf((n, 4))).address(ids))
  two = sharing(compress.multi_hash(rows // 2)(leaf.Leaf((n, 4))).address(ids))
  assert one > 0.99
  assert two < 0.03


def test_shared_ways_read_one_table_by_different_hashes():
  n, m = 20_000, 300
  codec = compress.multi_hash(m, shared=True)(leaf.Leaf((n, 4)))
  found = codec.address(np.arange(n, dtype=np.int32))['ways']
  assert found.shape == (n, 2)
  apart = compress.multi_hash(m)(leaf.Leaf((n, 4))).address(np.arange(n, dtype=np.int32))
  np.testing.assert_array_equal(found[:, 0], apart['way_0'])
  np.testing.assert_array_equal(found[:, 1], apart['way_1'])
  # A plain sum cannot tell (a, b) from (b, a): twice the collisions of ordered pairs.
  unordered = sharing(dict(enumerate(np.sort(found, axis=1).T)))
  want = 1 - np.exp(-2 * n / m**2)
  assert abs(unordered - want) < 0.03


@pytest.mark.parametrize('combine', COMBINES)
@pytest.mark.parametrize('buckets', [11, 40, 64])
def test_one_way_is_the_hash_trick(combine, buckets):
  one = compress.multi_hash(buckets, ways=1, combine=combine, seed=5)(FULL)
  trick = compress.hash_trick(buckets, seed=5)(FULL)
  assert trick.plan['way_0'].shape == (min(buckets, 40), 6)
  ids = np.arange(40, dtype=np.int32)
  np.testing.assert_array_equal(one.address(ids)['way_0'], trick.address(ids)['way_0'])
  x = jnp.asarray(table())
  np.testing.assert_allclose(
    read(one, one.encode(x), ids), read(trick, trick.encode(x), ids), rtol=1e-6
  )


def loops(stored, codec, combine, i):
  """The vector of id i by plain indexing."""
  at = codec.address(np.int32([i]))
  if 'ways' in at:
    rows = [np.asarray(stored['ways'])[j] for j in at['ways'][0]]
  else:
    rows = [np.asarray(stored[n])[at[n][0]] for n in sorted(at) if n != 'weights']
  if combine == 'concat':
    return np.concatenate(rows)
  if combine == 'weights':
    return sum(w * r for w, r in zip(np.asarray(stored['weights']), rows, strict=True))
  return sum(rows) / (len(rows) if combine == 'mean' else 1)


@pytest.mark.parametrize('shared', [False, True])
@pytest.mark.parametrize('combine', COMBINES)
def test_decode_combines_the_rows(combine, shared):
  if shared and combine == 'concat':
    return
  codec = compress.multi_hash(7, ways=3, combine=combine, shared=shared)(FULL)
  stored = leaf.init(codec.plan, jax.random.key(1))
  if combine == 'weights':
    stored['weights'] = jnp.float32([0.5, -1.0, 2.0])
  found = read(codec, stored, np.arange(40, dtype=np.int32))
  for i in range(40):
    np.testing.assert_allclose(found[i], loops(stored, codec, combine, i), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'cols, ways, widths', [(6, 4, [2, 2, 1, 1]), (6, 3, [2, 2, 2]), (5, 5, [1] * 5)]
)
def test_concatenated_ways_share_out_the_columns(cols, ways, widths):
  plan = compress.multi_hash(9, ways=ways, combine='concat')(leaf.Leaf((40, cols))).plan
  assert [plan[f'way_{j}'].shape for j in range(ways)] == [(9, w) for w in widths]


@pytest.mark.parametrize('shared', [False, True])
@pytest.mark.parametrize('combine', COMBINES)
@pytest.mark.parametrize('ways', [1, 2, 4])
def test_vectors_start_with_the_variance_of_the_table(combine, ways, shared):
  if shared and combine == 'concat':
    return
  rows, cols, stddev = 4_000, 8, 0.3
  full = leaf.Leaf((rows, cols), init=leaf.normal(stddev))
  codec = compress.multi_hash(2_000, ways=ways, combine=combine, shared=shared)(full)
  stored = leaf.init(codec.plan, jax.random.key(2))
  found = np.asarray(read(codec, stored, np.arange(rows, dtype=np.int32)))
  # 2000 rows of 8 columns a way: the standard deviation is known to 0.6 %.
  assert abs(found.std() / stddev - 1) < 0.03
  assert abs(found.mean()) < 0.03 * stddev


def test_encode_takes_the_mean_of_a_bucket():
  x, m = table(), 11
  codec = compress.hash_trick(m, seed=3)(FULL)
  ids = np.arange(40, dtype=np.int32)
  members = collections.defaultdict(list)
  for i, b in enumerate(codec.address(ids)['way_0']):
    members[int(b)].append(x[i])
  stored = np.asarray(codec.encode(jnp.asarray(x))['way_0'])
  for b in range(m):
    want = np.mean(members[b], axis=0) if b in members else np.zeros(6)
    np.testing.assert_allclose(stored[b], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('combine', ['sum', 'mean', 'weights'])
def test_each_way_fits_what_is_left_over(combine):
  # So more ways are never worse, and what one way cannot hold a second one partly does.
  x, ids, errors = jnp.asarray(table()), np.arange(40, dtype=np.int32), []
  for ways in (1, 2, 3, 4):
    codec = compress.multi_hash(11, ways=ways, combine=combine)(FULL)
    errors.append(float(jnp.sum(jnp.square(read(codec, codec.encode(x), ids) - x))))
  assert all(after < before for before, after in itertools.pairwise(errors))


def test_bucket_mean():
  x = table(5, 2)
  found = bucket_mean(jnp.asarray(x), jnp.int32([1, 3, 1, 1, 3]), 4)
  np.testing.assert_allclose(found[1], x[[0, 2, 3]].mean(0), rtol=1e-6)
  np.testing.assert_allclose(found[3], x[[1, 4]].mean(0), rtol=1e-6)
  np.testing.assert_array_equal(found[jnp.int32([0, 2])], 0)


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'buckets': 0}, 'needs buckets ≥ 1 and ways ≥ 1, got 0 and 2'),
    ({'buckets': 5, 'ways': 0}, 'got 5 and 0'),
    ({'buckets': 5, 'combine': 'product'}, "sum, mean, concat or weights, got 'product'"),
    ({'buckets': 5, 'combine': 'concat', 'shared': True}, 'none can be shared'),
  ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    compress.multi_hash(**settings)


def test_more_ways_than_columns_are_refused():
  with pytest.raises(ValueError, match='7 ways cannot share out 6 columns'):
    compress.multi_hash(5, ways=7, combine='concat')(FULL)


@pytest.mark.long
def test_a_bucket_counts_beyond_what_float32_can():
  rows = 2**25
  total = jnp.zeros((rows, 1)).at[0].set(float(rows))
  assert float(bucket_mean(total, jnp.zeros(rows, jnp.int32), 1)[0, 0]) == 1.0
