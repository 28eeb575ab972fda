"""Clusters and helpers: the sum by NumPy, and the step that clusters again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.compress import hashing
from ctr_jax.tables import gather, leaf


def values(rows, cols, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, cols)), jnp.float32)


def read(codec, stored):
  ids = np.arange(codec.plan['code'].rows, dtype=np.int32)
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


def random_arrays(codec, seed=0):
  rng, stored = np.random.default_rng(seed), leaf.init(codec.plan, jax.random.key(seed))
  return {
    n: x if n == 'code' else jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    for n, x in stored.items()
  }


@given(cols=st.integers(2, 9), seed=st.integers(0, 9))
def test_decode_is_cluster_row_plus_hashed_row(cols, seed):
  codec = compress.cce(5, 2, seed=seed)(leaf.Leaf((20, cols)))
  stored = random_arrays(codec)
  found, sub = read(codec, stored), -(-cols // 2)
  code, cluster = np.asarray(stored['code']), np.asarray(stored['cluster'])
  for i in range(20):
    for j in range(2):
      helper = np.asarray(stored[f'helper_{j}'])[int(hashing.bucket(i, seed + j, 5))]
      want = cluster[j, code[i, j]][: len(helper)] + helper
      np.testing.assert_array_equal(found[i, j * sub : j * sub + len(helper)], want)


def test_with_zero_helpers_it_is_product_quantize():
  full, x = leaf.Leaf((50, 6)), values(50, 6)
  codec, peer = compress.cce(8)(full), compress.product_quantize(8)(full)
  zeros = {f'helper_{j}': jnp.zeros((8, 3)) for j in range(2)}
  stored = peer.encode(x)
  arrays = {'code': stored['code'], 'cluster': stored['codebook']} | zeros
  np.testing.assert_array_equal(read(codec, arrays), peer.decode(stored))
  # And encode's helpers take something off the error that is left.
  error = [float(jnp.sum(jnp.square(read(codec, s) - x))) for s in (codec.encode(x), arrays)]
  assert error[0] < error[1]


def test_vectors_start_with_the_variance_of_the_table():
  codec = compress.cce(200)(leaf.Leaf((20_000, 16), init=leaf.normal(0.3)))
  stored = leaf.init(codec.plan, jax.random.key(0))
  assert abs(np.asarray(read(codec, stored)).std() / 0.3 - 1) < 0.05
  assert not stored['helper_0'].any()


@pytest.mark.parametrize('centroids', [4, 8, 16])
def test_vectors_move_by_the_error_of_k_means(centroids):
  codec = compress.cce(centroids)(leaf.Leaf((60, 6)))
  before = random_arrays(codec)
  after = jax.jit(lambda stored: compress.recluster(codec, stored))(before)
  assert {n: (x.shape, x.dtype) for n, x in after.items()} == {
    n: (x.shape, x.dtype) for n, x in codec.plan.items()
  }
  assert not after['helper_0'].any() and not after['helper_1'].any()
  old, new = read(codec, before), read(codec, after)
  peer = compress.product_quantize(centroids)(leaf.Leaf((60, 6)))
  want = jnp.sum(jnp.square(peer.decode(peer.encode(old)) - old))
  found = jnp.sum(jnp.square(new - old))
  np.testing.assert_allclose(found, want, rtol=1e-5)
  assert float(found) < float(jnp.sum(jnp.square(old - old.mean(axis=0, keepdims=True))))


def test_clustering_again_is_exact_where_clusters_hold_all_vectors():
  codec = compress.cce(30, 3)(leaf.Leaf((30, 7)))
  before = random_arrays(codec)
  np.testing.assert_allclose(
    read(codec, compress.recluster(codec, before)), read(codec, before), atol=1e-6
  )


def test_who_trains_what():
  plan = compress.cce(16, 2)(leaf.Leaf((100, 5), jnp.float16)).plan
  assert plan['code'].frozen and not plan['cluster'].frozen
  assert not plan['cluster'].by_row
  assert plan['helper_0'].is_table and plan['helper_0'].shape == (16, 3)
  assert plan['helper_1'].shape == (16, 2)
  assert leaf.nbytes(plan) == 100 * 2 + 16 * 6 * 4 + 16 * 5 * 2


def test_settings_that_make_no_sense_are_refused():
  with pytest.raises(ValueError, match=r'cce: a code is one byte.*got 300'):
    compress.cce(300)
  with pytest.raises(ValueError, match='2 parts of 1 columns leave one without: there are 1'):
    compress.cce(4)(leaf.Leaf((40, 1)))
