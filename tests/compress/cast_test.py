"""Shorter floats: as NumPy rounds them, and never an infinity unnoticed."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ctr_jax import compress
from ctr_jax.tables import gather, leaf

FULL = leaf.Leaf((3, 4))
TYPES = {'float16': np.float16, 'bfloat16': ml_dtypes.bfloat16, 'float32': np.float32}
each = pytest.mark.parametrize('dtype', TYPES)


def read(codec, stored, ids):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


@each
@given(
  x=hnp.arrays(np.float32, (3, 4), elements=st.floats(-6e4, 6e4, width=32, allow_subnormal=False))
)
def test_values_are_rounded_to_nearest(dtype, x):
  codec = compress.cast(dtype)(FULL)
  stored = codec.encode(jnp.asarray(x))
  assert stored.dtype == TYPES[dtype]
  vectors = read(codec, stored, np.int32([2, 0, 1]))
  assert vectors.dtype == jnp.float32
  np.testing.assert_array_equal(vectors, x.astype(TYPES[dtype]).astype(np.float32)[[2, 0, 1]])


@each
def test_bytes(dtype):
  codec = compress.cast(dtype)(leaf.Leaf((1000, 16)))
  assert leaf.nbytes(codec.plan) == 16_000 * (4 if dtype == 'float32' else 2)


@each
def test_a_row_that_is_written_is_rounded_to_nearest(dtype):
  plan = compress.cast(dtype)(FULL).plan
  x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
  found = plan.stored(jnp.asarray(x))
  assert found.dtype == plan.dtype
  np.testing.assert_array_equal(found, x.astype(TYPES[dtype]))


def test_what_follows_keeps_the_type():
  codec = compress.chain(compress.cast('float16'), compress.multi_hash(7))(leaf.Leaf((40, 4)))
  assert {x.dtype for x in leaf.flatten(codec.plan).values()} == {jnp.dtype('float16')}
  stored = codec.encode(jnp.ones((40, 4)))
  assert {x.dtype for x in leaf.flatten(stored).values()} == {jnp.dtype('float16')}
  before = compress.chain(compress.multi_hash(7), compress.cast('float16'))(leaf.Leaf((40, 4)))
  assert leaf.nbytes(codec.plan) == leaf.nbytes(before.plan) == 2 * 7 * 4 * 2


def test_other_types_are_refused():
  with pytest.raises(ValueError, match="got 'int8'; for codes use int_quantize"):
    compress.cast('int8')
