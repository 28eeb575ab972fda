"""Values that stay zero: bits by NumPy, and training under them."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.tables import gather, leaf


def read(codec, stored, ids):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


def holes(rows, cols, share, seed=0):
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(rows, cols)) * (rng.random((rows, cols)) >= share)).astype(np.float32)


@given(shape=st.sampled_from([(1, 1), (5, 8), (20, 17)]), share=st.floats(0, 1))
def test_bits_are_those_of_numpy_and_nothing_is_lost(shape, share):
  rows, cols = shape
  x = holes(rows, cols, share)
  codec = compress.masked()(leaf.Leaf((rows, cols)))
  stored = codec.encode(jnp.asarray(x))
  want = np.packbits(x != 0, axis=1, bitorder='little')
  np.testing.assert_array_equal(stored['mask'], want)
  np.testing.assert_array_equal(read(codec, stored, np.arange(rows, dtype=np.int32)), x)
  assert leaf.nbytes(codec.plan) == rows * cols * 4 + rows * -(-cols // 8)


def test_a_masked_value_is_zero_and_has_no_gradient_whatever_is_stored():
  x = holes(30, 6, 0.5)
  codec = compress.masked()(leaf.Leaf((30, 6)))
  stored = codec.encode(jnp.asarray(x))
  ids = np.arange(30, dtype=np.int32)

  def total(table):
    return read(codec, stored | {'table': table}, ids).sum()

  ones = jnp.ones((30, 6))  # The values before pruning, put back.
  np.testing.assert_array_equal(read(codec, stored | {'table': ones}, ids), x != 0)
  np.testing.assert_array_equal(jax.grad(total)(ones), x != 0)


def test_nothing_is_masked_at_the_start():
  codec = compress.masked()(leaf.Leaf((30, 6), init=leaf.normal(0.5)))
  stored = leaf.init(codec.plan, jax.random.key(0))
  np.testing.assert_array_equal(read(codec, stored, np.arange(30, dtype=np.int32)), stored['table'])
  assert codec.plan['mask'].frozen and codec.plan['table'].is_table


def test_a_pruned_table_trains_on_under_its_mask():
  full = leaf.Leaf((30, 6), init=leaf.normal(0.5))
  pruned = compress.prune()(full)
  stored = leaf.init(pruned.plan, jax.random.key(0)) | {'threshold': jnp.zeros(1)}
  ids = np.arange(30, dtype=np.int32)
  table = read(pruned, stored, ids)
  assert 0.5 < float(jnp.mean(table == 0)) < 0.8  # |v| < 1/2 of a standard deviation of 1/2.
  codec = compress.masked()(full)
  np.testing.assert_array_equal(read(codec, codec.encode(table), ids), table)
