"""Eckart–Young, against NumPy's SVD in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.tables import gather, leaf


def read(codec, stored, ids):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


# A few shapes, long and wide: each is compiled.
@given(shape=st.sampled_from([(1, 1), (3, 8), (40, 8), (17, 1)]), data=st.data())
def test_the_error_is_the_sum_of_the_discarded_squares(shape, data):
  rows, cols = shape
  rank = data.draw(st.integers(1, cols))
  scales = data.draw(st.lists(st.floats(0.1, 10), min_size=cols, max_size=cols))
  x = np.random.default_rng(rows * 10 + cols).normal(size=(rows, cols)) * np.asarray(scales)
  codec = compress.low_rank(rank)(leaf.Leaf((rows, cols)))
  stored = codec.encode(jnp.asarray(x, jnp.float32))
  found = np.asarray(read(codec, stored, np.arange(rows, dtype=np.int32)), np.float64)
  left, values, right = np.linalg.svd(x, full_matrices=False)
  size = np.square(values).sum()
  error = np.square(found - x).sum()
  np.testing.assert_allclose(error, np.square(values[rank:]).sum(), rtol=1e-3, atol=1e-5 * size)
  # Where the spectrum has a gap there is one best matrix, and this is it.
  if rank >= len(values) or values[rank] < 0.9 * values[rank - 1]:
    want = (left[:, :rank] * values[:rank]) @ right[:rank]
    np.testing.assert_allclose(found, want, atol=2e-4 * np.sqrt(size))
  projection = np.asarray(stored['projection'])
  np.testing.assert_allclose(projection @ projection.T, np.eye(rank), atol=1e-5)


@pytest.mark.parametrize('rank', [1, 3, 8])
def test_vectors_start_with_the_variance_of_the_table(rank):
  codec = compress.low_rank(rank)(leaf.Leaf((9_000, 64), init=leaf.normal(0.3)))
  stored = leaf.init(codec.plan, jax.random.key(0))
  found = np.asarray(read(codec, stored, np.arange(9_000, dtype=np.int32)))
  assert abs(found.std() / 0.3 - 1) < 0.15  # The matrix holds few draws.


def test_bytes_and_who_trains_what():
  plan = compress.low_rank(2)(leaf.Leaf((1000, 16))).plan
  assert leaf.nbytes(plan) == 4 * (1000 * 2 + 2 * 16)
  assert plan['table'].is_table
  assert not plan['projection'].by_row and not plan['projection'].frozen


def test_settings_that_make_no_sense_are_refused():
  with pytest.raises(ValueError, match='rank ≥ 1, got 0'):
    compress.low_rank(0)
  with pytest.raises(ValueError, match='rank 7 is more than the 6 columns'):
    compress.low_rank(7)(leaf.Leaf((40, 6)))
