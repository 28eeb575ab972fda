"""Codes and codebooks: the lookup by NumPy, exact corners, bytes, and what is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.tables import gather, leaf


def values(rows, cols, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, cols)), jnp.float32)


def read(codec, stored, ids):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


def by_numpy(stored, cols):
  code, book = (np.asarray(stored[n]) for n in ('code', 'codebook'))
  rows = [[book[part, c] for part, c in enumerate(row)] for row in code]
  return np.asarray(rows).reshape(len(code), -1)[:, :cols]


@pytest.mark.parametrize('cols, parts', [(1, 1), (6, 1), (6, 2), (7, 2), (8, 3), (5, 5)])
def test_decode_is_the_lookup(cols, parts):
  codec = compress.product_quantize(5, parts)(leaf.Leaf((20, cols), init=leaf.normal(1.0)))
  stored = leaf.init(codec.plan, jax.random.key(cols))
  found = read(codec, stored, np.arange(20, dtype=np.int32))
  np.testing.assert_array_equal(found, by_numpy(stored, cols))


@given(seed=st.integers(0, 1000), distinct=st.integers(1, 7))
def test_exact_with_as_many_centroids_as_distinct_slices(seed, distinct):
  rng = np.random.default_rng(seed)
  # Up to 49 distinct rows of 7 and 7 slices: a product holds what one codebook of 7 could not.
  slices = rng.normal(size=(2, distinct, 3)).astype(np.float32)
  pick = rng.integers(0, distinct, (100, 2))
  x = np.concatenate([slices[0][pick[:, 0]], slices[1][pick[:, 1]]], axis=1)
  codec = compress.product_quantize(7, 2)(leaf.Leaf((100, 6)))
  found = read(codec, codec.encode(jnp.asarray(x)), np.arange(100, dtype=np.int32))
  np.testing.assert_allclose(found, x, atol=1e-5)


def test_more_centroids_lose_less():
  x, ids, errors = values(300, 8), np.arange(300, dtype=np.int32), []
  for centroids in (1, 4, 16, 64, 256):
    codec = compress.product_quantize(centroids)(leaf.Leaf((300, 8)))
    errors.append(float(jnp.sum(jnp.square(read(codec, codec.encode(x), ids) - x))))
  assert errors == sorted(errors, reverse=True)
  # One centroid is the mean row.
  assert abs(errors[0] / float(jnp.sum(jnp.square(x - x.mean(0, keepdims=True)))) - 1) < 1e-4


def test_codes_are_counted_and_a_book_is_never_larger_than_its_table():
  plan = compress.product_quantize(256, 4)(leaf.Leaf((10_000, 16))).plan
  assert leaf.nbytes(plan) == 10_000 * 4 + 256 * 16 * 4
  assert compress.product_quantize(256, 4)(leaf.Leaf((30, 16))).plan['codebook'].shape == (4, 30, 4)


def test_vectors_start_with_the_variance_of_the_table_and_even_codes():
  codec = compress.product_quantize(200, 4)(leaf.Leaf((20_000, 16), init=leaf.normal(0.3)))
  stored = leaf.init(codec.plan, jax.random.key(0))
  found = np.asarray(read(codec, stored, np.arange(20_000, dtype=np.int32)))
  assert abs(found.std() / 0.3 - 1) < 0.05
  counts = np.bincount(np.asarray(stored['code']).reshape(-1), minlength=256)
  assert counts[200:].sum() == 0
  assert abs(counts[:200] / 400 - 1).max() < 0.3


def test_the_codebook_is_trained_and_the_codes_are_not():
  codec = compress.product_quantize(4, 2)(leaf.Leaf((20, 6)))
  assert codec.plan['code'].frozen
  assert not codec.plan['codebook'].frozen and not codec.plan['codebook'].by_row
  stored = codec.encode(values(20, 6))
  ids = np.int32([3, 3, 9])

  def total(book):
    return read(codec, stored | {'codebook': book}, ids).sum()

  found, want = jax.grad(total)(stored['codebook']), np.zeros((2, 4, 3))
  for row in np.asarray(stored['code'])[ids]:
    for part, code in enumerate(row):
      want[part, code] += 1
  np.testing.assert_array_equal(found, want)


def test_settings_that_make_no_sense_are_refused():
  for centroids in (0, 257):
    with pytest.raises(ValueError, match=f'a code is one byte.*got {centroids}'):
      compress.product_quantize(centroids)
  with pytest.raises(ValueError, match='parts ≥ 1 and iterations ≥ 0, got 0 and 10'):
    compress.product_quantize(4, 0)
  with pytest.raises(ValueError, match='4 parts of 2 columns leave one without: there are 6'):
    compress.product_quantize(4, 4)(leaf.Leaf((40, 6)))
