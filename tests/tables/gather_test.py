"""Addresses made distinct, and rows read at them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ctr_jax.tables import gather, leaf

# Reads × rows on both sides of the choice in `deduplicate` (mark every row, or sort).
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, max_side=6)


@st.composite
def reads(draw):
  rows = draw(st.sampled_from([1, 2, 3, 7, 40, 900, 100_003]))
  shape = draw(SHAPES)
  return draw(hnp.arrays(np.int32, shape, elements=st.integers(0, rows))), rows


def check(unique, inverse, index, rows):
  """The three promises, in sets."""
  distinct = sorted(set(index.ravel().tolist()))
  assert unique.shape == (min(index.size, rows + 1),)
  assert unique.dtype == inverse.dtype == np.int32
  assert unique.tolist() == distinct + [rows] * (len(unique) - len(distinct))
  assert inverse.shape == index.shape
  np.testing.assert_array_equal(unique[inverse], index)


@given(reads())
def test_deduplicate(case):
  index, rows = case
  check(*gather.deduplicate(index, rows), index, rows)


@pytest.mark.parametrize('reads', [200, 300])  # 1000 rows: sorted, marked.
def test_both_branches_of_deduplicate_agree(reads):
  index = np.random.default_rng(0).zipf(1.3, reads).astype(np.int32) % 1000
  found, inverse = np.unique(index, return_inverse=True)
  unique, where = gather.deduplicate(index, 1000)
  np.testing.assert_array_equal(unique[: len(found)], found)
  assert (unique[len(found) :] == 1000).all()
  np.testing.assert_array_equal(where, inverse)


def test_nothing_to_read():
  unique, inverse = gather.deduplicate(np.zeros((0, 3), np.int32), 5)
  assert unique.shape == (0,)
  assert inverse.shape == (0, 3)


@pytest.mark.parametrize('rows', [1, 5, 40, 900])
@pytest.mark.parametrize('shape', [(), (60,), (4, 3, 5)])
def test_on_device_is_on_host(rows, shape):
  index = np.random.default_rng(rows).integers(0, rows, shape).astype(np.int32)
  device = jax.jit(gather.deduplicate_on_device, static_argnums=1)(index, rows)
  check(*(np.asarray(x) for x in device), index, rows)
  for host, found in zip(gather.deduplicate(index, rows), device, strict=True):
    np.testing.assert_array_equal(host, found)


def test_rows_of_reads_rows_and_padding_reads_something_real():
  array = jnp.arange(12.0).reshape(4, 3)
  found = gather.rows_of(array, jnp.int32([0, 2, 4, 4]))
  np.testing.assert_array_equal(found, np.asarray(array)[[0, 2, 3, 3]])


def test_gather_indexes_rows_and_reads_the_rest_whole():
  plan = {
    'a': leaf.Leaf((5, 2)),
    'b': {'half': leaf.Leaf((4, 3), jnp.float16), 'gate': leaf.Leaf((3,), axes=('way',))},
    'c': leaf.Leaf((6, 2), jnp.uint8, ('row', 'byte')),
    'gone': {},
  }
  rng = np.random.default_rng(0)
  stored = {
    'a': rng.normal(size=(5, 2)).astype(np.float32),
    'b': {
      'half': rng.normal(size=(4, 3)).astype(np.float16),
      'gate': rng.normal(size=3).astype(np.float32),
    },
    'c': rng.integers(0, 256, (6, 2)).astype(np.uint8),
    'gone': {},
  }
  address = {
    'a': np.int32([4, 0, 4]),
    'b': {'half': np.int32([[1, 2], [3, 3]]), 'gate': ...},
    'c': np.int32(5),
    'gone': {},
  }
  found = gather.gather(plan, jax.tree.map(jnp.asarray, stored), address)
  np.testing.assert_array_equal(found['a'], stored['a'][address['a']])
  assert found['b']['half'].dtype == jnp.float32
  np.testing.assert_array_equal(found['b']['half'], stored['b']['half'][address['b']['half']])
  np.testing.assert_array_equal(found['b']['gate'], stored['b']['gate'])
  assert found['c'].dtype == jnp.uint8
  np.testing.assert_array_equal(found['c'], stored['c'][5])
  assert found['gone'] == {}
