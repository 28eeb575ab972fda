"""Blocks of popularity: each a low rank of its own; widths by the paper's rule."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax import compress
from ctr_jax.tables import gather, leaf

FULL = leaf.Leaf((60, 6), init=leaf.normal(0.5))
IDS = np.arange(60, dtype=np.int32)
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(60, 6)), jnp.float32)


def read(codec, stored, ids=IDS):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


def test_each_block_is_a_low_rank_of_its_own():
  codec = compress.mixed_dims((0, 10, 30), (6, 3, 1))(FULL)
  found = read(codec, codec.encode(TABLE))
  np.testing.assert_array_equal(found[:10], TABLE[:10])  # Full width: stored as it is.
  for start, end, dim in [(10, 30, 3), (30, 60, 1)]:
    block = dataclasses.replace(FULL, shape=(end - start, 6))
    alone = compress.low_rank(dim)(block)
    want = read(alone, alone.encode(TABLE[start:end]), np.arange(end - start, dtype=np.int32))
    np.testing.assert_allclose(found[start:end], want, rtol=1e-6, atol=1e-6)
  values = 10 * 6 + 20 * 3 + 3 * 6 + 30 * 1 + 1 * 6
  assert leaf.nbytes(codec.plan) == 4 * values + 9


@pytest.mark.parametrize('alpha, want', [(0.0, (8, 8, 8)), (0.5, (8, 4, 2)), (1.0, (8, 2, 1))])
def test_widths_by_popularity(alpha, want):
  assert compress.popular_dims((1600, 400, 100), 8, alpha) == want


def test_wider_than_the_table_is_refused():
  with pytest.raises(ValueError, match='column'):
    compress.mixed_dims((0, 5), (6, 7))(FULL)
