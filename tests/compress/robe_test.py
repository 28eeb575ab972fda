"""Explicit slices of the circular array, neighbours, blocks of their own, and the mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.compress import hashing
from ctr_jax.tables import gather, leaf


def read(codec, stored, ids):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


def slices(array, ids, cols, block, seed):
  """Block by block, as the paper draws it."""
  vectors = []
  for i in ids:
    parts = []
    for b, first in enumerate(range(0, cols, block)):
      start = int(hashing.bucket(np.int32([i]), seed + b, len(array))[0])
      run = np.arange(start, start + min(block, cols - first))
      parts.append(np.take(array, run, mode='wrap'))
    vectors.append(np.concatenate(parts))
  return np.stack(vectors)


@given(
  size=st.integers(8, 70), cols=st.integers(1, 8), block=st.integers(1, 9), seed=st.integers(0, 99)
)
def test_decode_is_explicit_slices(size, cols, block, seed):
  codec = compress.robe(size, block, seed)(leaf.Leaf((50, cols)))
  array = np.random.default_rng(seed).normal(size=(size, 1)).astype(np.float32)
  ids = np.arange(50, dtype=np.int32)
  want = slices(array[:, 0], ids, cols, block, seed)
  np.testing.assert_array_equal(read(codec, {'array': array}, ids), want)


def test_without_a_block_a_row_is_one_run():
  found = compress.robe(1000)(leaf.Leaf((40, 6))).address(np.arange(40, dtype=np.int32))['array']
  np.testing.assert_array_equal(np.diff(found, axis=1) % 1000, 1)
  whole = compress.robe(1000, block=6)(leaf.Leaf((40, 6)))
  np.testing.assert_array_equal(whole.address(np.arange(40, dtype=np.int32))['array'], found)


def test_columns_of_a_block_are_neighbours_and_blocks_are_not():
  codec = compress.robe(1 << 20, block=2)(leaf.Leaf((500, 6)))
  steps = np.diff(codec.address(np.arange(500, dtype=np.int32))['array'], axis=1) % (1 << 20)
  np.testing.assert_array_equal(steps[:, ::2], 1)
  assert len(np.unique(steps[:, 1::2])) > 990  # Hashes of their own: nearly no step twice.


def test_blocks_of_one_column_hash_every_weight():
  found = compress.robe(64, block=1, seed=3)(leaf.Leaf((40, 6))).address(
    np.arange(40, dtype=np.int32)
  )
  want = [hashing.bucket(np.arange(40, dtype=np.int32), 3 + b, 64) for b in range(6)]
  np.testing.assert_array_equal(found['array'], np.stack(want, axis=1))


def test_the_end_of_the_array_wraps_round():
  found = compress.robe(7)(leaf.Leaf((200, 6))).address(np.arange(200, dtype=np.int32))['array']
  assert found.max() == 6
  assert found.min() == 0
  assert (found[:, -1] < found[:, 0]).any()
  assert all(len(set(row)) == 6 for row in found.tolist())  # An id meets no column of itself.


def test_encode_is_the_mean_of_the_elements_of_a_slot():
  x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
  codec = compress.robe(31, block=4)(leaf.Leaf((40, 6)))
  at = codec.address(np.arange(40, dtype=np.int32))['array']
  want = [[x[at == slot].mean() if (at == slot).any() else 0] for slot in range(31)]
  np.testing.assert_allclose(codec.encode(jnp.asarray(x))['array'], want, rtol=1e-5, atol=1e-6)


def test_encode_finds_an_array_again():
  codec = compress.robe(31, block=4)(leaf.Leaf((40, 6), init=leaf.normal(1.0)))
  stored = leaf.init(codec.plan, jax.random.key(0))
  x = read(codec, stored, np.arange(40, dtype=np.int32))
  np.testing.assert_allclose(codec.encode(x)['array'], stored['array'], rtol=1e-5)


def test_memory_is_the_size_and_vectors_start_with_the_variance_of_the_table():
  full = leaf.Leaf((9000, 8), init=leaf.normal(0.3))
  codec = compress.robe(20_000)(full)
  assert leaf.nbytes(codec.plan) == 80_000
  stored = leaf.init(codec.plan, jax.random.key(0))
  found = np.asarray(read(codec, stored, np.arange(9000, dtype=np.int32)))
  assert abs(found.std() / 0.3 - 1) < 0.05


def test_settings_that_make_no_sense_are_refused():
  for size in (0, 2**30):
    with pytest.raises(ValueError, match=rf'1\.\.2\^30-1, got {size}'):
      compress.robe(size)
  with pytest.raises(ValueError, match='at least one column, got 0'):
    compress.robe(10, block=0)
  with pytest.raises(ValueError, match='a block of 6 columns does not fit into 5'):
    compress.robe(5)(leaf.Leaf((40, 6)))
