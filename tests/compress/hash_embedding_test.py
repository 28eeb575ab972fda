"""Identities with plain hashes, and weights that tell colliding ids apart."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax import compress
from ctr_jax.tables import gather, leaf

FULL = leaf.Leaf((200, 5), init=leaf.normal(0.5))
IDS = np.arange(200, dtype=np.int32)


def read(codec, stored, ids=IDS):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


def random(plan, seed=0):
  rng = np.random.default_rng(seed)
  return {n: jnp.asarray(rng.normal(size=x.shape), jnp.float32) for n, x in plan.items()}


def test_reference():
  codec = compress.hash_embedding(13, ways=3, weight_rows=50, seed=2)(FULL)
  stored, at = random(codec.plan), codec.address(IDS)
  found = read(codec, stored)
  for i in range(200):
    want = sum(
      np.float64(stored['weight'][at['weight'][i], k])
      * np.float64(stored['pool'][at['pool'][i, k]])
      for k in range(3)
    )
    np.testing.assert_allclose(found[i], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('ways', [1, 2, 3])
def test_with_weights_of_one_it_is_multi_hash_over_a_shared_table(ways):
  codec = compress.hash_embedding(13, ways=ways)(FULL)
  plain = compress.multi_hash(13, ways, shared=True)(FULL)
  stored = random(codec.plan) | {'weight': jnp.ones((200, ways))}
  np.testing.assert_allclose(
    read(codec, stored), read(plain, {'ways': stored['pool']}), rtol=1e-6, atol=1e-6
  )
  if ways == 1:
    hashed = compress.hash_trick(13)(FULL)
    np.testing.assert_array_equal(read(codec, stored), read(hashed, {'way_0': stored['pool']}))


def test_encode_is_the_least_squares_of_each_id():
  codec = compress.hash_embedding(40, ways=2)(FULL)
  table = jnp.asarray(np.random.default_rng(1).normal(size=(200, 5)), jnp.float32)
  stored = codec.encode(table)
  pool = np.asarray(stored['pool'], np.float64)[codec.address(IDS)['pool']]
  for i in range(200):
    want, *_ = np.linalg.lstsq(pool[i].T, np.asarray(table[i], np.float64), rcond=1e-4)
    np.testing.assert_allclose(stored['weight'][i] @ pool[i], want @ pool[i], atol=2e-3)


def test_ids_that_collide_in_every_way_differ_by_their_weights():
  codec = compress.hash_embedding(1, ways=1)(FULL)
  table = jnp.outer(jnp.arange(200.0) - 50, jnp.arange(5.0) + 1)
  np.testing.assert_allclose(read(codec, codec.encode(table)), table, rtol=1e-3, atol=1e-2)


def test_variance_of_the_table_at_the_start():
  full = dataclasses.replace(FULL, shape=(20_000, 16), init=leaf.normal(0.3))
  codec = compress.hash_embedding(5_000, ways=3)(full)
  import jax

  stored = leaf.init(codec.plan, jax.random.key(1))
  vectors = read(codec, stored, np.arange(20_000, dtype=np.int32))
  np.testing.assert_allclose(float(jnp.std(vectors)), 0.3, rtol=0.03)


@pytest.mark.parametrize('arguments', [(0, 2, None), (5, 0, None), (5, 2, 0)])
def test_bad_settings(arguments):
  with pytest.raises(ValueError, match='at least one'):
    compress.hash_embedding(*arguments)
