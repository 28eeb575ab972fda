"""The columns that are kept, and the zeros in place of the others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.tables import gather, leaf


@given(rows=st.integers(1, 30), cols=st.integers(1, 9), data=st.data())
def test_kept_columns_are_exact_and_the_others_zero(rows, cols, data):
  dims = data.draw(st.integers(1, cols))
  codec = compress.keep_dims(dims)(leaf.Leaf((rows, cols)))
  x = np.random.default_rng(rows).normal(size=(rows, cols)).astype(np.float32)
  ids = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=5))
  stored = codec.encode(jnp.asarray(x))
  assert leaf.nbytes(codec.plan) == rows * dims * 4
  found = codec.decode(gather.gather(codec.plan, stored, codec.address(np.int32(ids))))
  want = x[ids] * (np.arange(cols) < dims)
  np.testing.assert_array_equal(found, want)


def test_kept_columns_start_as_those_of_the_table_and_keep_its_type():
  full = leaf.Leaf((4000, 6), jnp.float16, init=leaf.normal(0.3))
  codec = compress.keep_dims(4)(full)
  assert codec.plan.dtype == jnp.float16
  vectors = np.asarray(codec.decode(leaf.init(codec.plan, jax.random.key(0))), np.float32)
  assert abs(vectors[:, :4].std() / 0.3 - 1) < 0.05
  assert not vectors[:, 4:].any()


def test_settings_that_make_no_sense_are_refused():
  with pytest.raises(ValueError, match='dims ≥ 1, got 0'):
    compress.keep_dims(0)
  with pytest.raises(ValueError, match='7 columns cannot be kept of a table of 6'):
    compress.keep_dims(7)(leaf.Leaf((40, 6)))
