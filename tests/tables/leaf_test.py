"""Leaves: what is derived from one description."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax.tables import leaf

TREES = st.recursive(
  st.integers(),
  lambda inner: st.dictionaries(st.sampled_from(['a', 'b', 'way_0', 'way_1', 'z9']), inner),
  max_leaves=8,
)


@given(TREES)
def test_unflatten_inverts_flatten(tree):
  flat = leaf.flatten(tree)
  assert leaf.unflatten(tree, flat) == tree
  assert all(not isinstance(tip, dict) for tip in flat.values())


def test_paths_read_as_sentences_in_sorted_order():
  tree = {'item': {'way_1': 1, 'way_0': {'code': 2}}, 'age': 3, 'gone': {}}
  assert list(leaf.flatten(tree).items()) == [
    ('age', 3), ('item/way_0/code', 2), ('item/way_1', 1),
  ]  # fmt: skip
  assert leaf.flatten(7) == {'': 7}


@pytest.mark.parametrize(
  'shape, dtype, axes, nbytes',
  [
    ((5, 3), jnp.float32, leaf.TABLE, 60),
    ((5, 3), jnp.float16, leaf.TABLE, 30),
    ((5, 3), jnp.uint8, ('row', 'byte'), 15),
    ((7,), jnp.bfloat16, ('row',), 14),
    # More elements than int32 counts.
    ((3_000_000_000, 16), jnp.float32, leaf.TABLE, 192_000_000_000),
  ],
)
def test_bytes_and_struct(shape, dtype, axes, nbytes):
  described = leaf.Leaf(shape, dtype, axes)
  assert described.nbytes == nbytes
  assert leaf.nbytes({'a': described, 'b': {'c': described}, 'd': {}}) == 2 * nbytes
  assert (described.struct.shape, described.struct.dtype) == (shape, dtype)
  assert described.rows == shape[0]
  assert described.is_table == (axes == leaf.TABLE)
  assert described.by_row


def test_a_leaf_without_rows_is_read_whole():
  assert not leaf.Leaf((3,), axes=('way',)).by_row
  assert not leaf.Leaf((3, 4), axes=('col', 'row')).by_row


def test_shapes_that_make_no_sense_are_refused():
  with pytest.raises(ValueError, match=r'shape \(3, 4\) needs as many axis names'):
    leaf.Leaf((3, 4), axes=('row',))
  with pytest.raises(ValueError, match=r'at least one element on every axis, got \(0, 4\)'):
    leaf.Leaf((0, 4))


def test_draws_depend_on_the_path_alone():
  one, key = leaf.Leaf((50, 4)), jax.random.key(0)
  alone = leaf.init({'item': one}, key)
  beside = leaf.init({'age': one, 'item': one, 'user': {'way_0': one}}, key)
  np.testing.assert_array_equal(alone['item'], beside['item'])
  draws = [np.asarray(x) for x in leaf.flatten(beside).values()]
  for i, x in enumerate(draws):
    for y in draws[:i]:
      assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 0.3  # 4 standard errors.
  other = leaf.init({'item': one}, jax.random.key(1))
  assert not np.array_equal(alone['item'], other['item'])


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.float16])
def test_normal_has_its_spread_and_independent_draws(dtype):
  rows, cols, stddev = 40_000, 4, 0.02
  made = leaf.normal(stddev)(jax.random.key(0), (rows, cols), dtype)
  assert made.shape == (rows, cols)
  assert made.dtype == dtype
  x = np.asarray(made, np.float64)
  n = x.size
  assert abs(x.mean()) < 5 * stddev / n**0.5
  assert abs(x.std() / stddev - 1) < 5 / (2 * n) ** 0.5
  assert abs((x**4).mean() / stddev**4 - 3) < 5 * (96 / n) ** 0.5  # Kurtosis of a normal.
  # Neighbours in either direction, and rows far apart, know nothing of one another.
  for a, b in [(x[1:], x[:-1]), (x[:, 1:], x[:, :-1]), (x[: rows // 2], x[rows // 2 :])]:
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / a.size**0.5


def test_constant():
  made = leaf.constant(1.5)(None, (3, 2), jnp.float16)
  assert made.dtype == jnp.float16
  np.testing.assert_array_equal(made, np.full((3, 2), 1.5, np.float16))


def test_load_and_store():
  half = leaf.Leaf((2, 2), jnp.float16)
  rows = jnp.asarray([[1.0, 1 / 3]], jnp.float32)
  stored = half.stored(rows)
  assert stored.dtype == jnp.float16
  assert half.load(stored).dtype == jnp.float32
  np.testing.assert_array_equal(half.load(stored), np.float16([[1, 1 / 3]]).astype(np.float32))
  # Codes are not numbers: they stay as they are.
  assert leaf.Leaf((2, 2), jnp.uint8).load(jnp.zeros((1, 2), jnp.uint8)).dtype == jnp.uint8
  own = leaf.Leaf((2, 2), store=lambda rows, key, gradients: rows + key)
  np.testing.assert_array_equal(own.stored(rows, jnp.float32(1)), rows + 1)


def test_init_makes_one_array_not_several():
  # Tables are most of the memory: a draw must not need another copy of itself to be made.
  described = leaf.Leaf((1_000_003, 16))
  made = jax.jit(lambda: described.init(jax.random.key(0), described.shape, described.dtype))
  temporary = made.lower().compile().memory_analysis().temp_size_in_bytes
  assert temporary < described.nbytes / 4
