"""Factors, digits, the product in float64, full ranks, and the error of cut ones."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.tables import factors, gather, leaf


def read(codec, stored, ids):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


def read_all(codec, stored, rows):
  return read(codec, stored, np.arange(rows, dtype=np.int32))


def product(stored, heights, widths, ranks):
  """The whole padded table, in float64, by one contraction of all cores."""
  whole = np.ones((1, 1, 1))  # [rows so far, cols so far, rank]
  for k, (n, d) in enumerate(zip(heights, widths, strict=True)):
    core = np.asarray(stored[f'core_{k}'], np.float64).reshape(n, ranks[k], d, ranks[k + 1])
    whole = np.einsum('iar,nrds->inads', whole, core)
    whole = whole.reshape(whole.shape[0] * n, -1, ranks[k + 1])
  return whole[..., 0]


@given(rows=st.integers(1, 10**9), cores=st.integers(2, 5))
def test_heights_suffice_and_waste_little(rows, cores):
  heights, _, _ = factors.shapes(rows, 1, 4, cores)
  assert len(heights) == cores
  assert math.prod(heights) >= rows
  assert (heights[0] - 1) * math.prod(heights[1:]) < rows  # No row of the first core is unread.
  assert max(heights) <= math.ceil(rows ** (1 / cores) + 1e-6)


@given(cols=st.integers(1, 300), cores=st.integers(2, 4))
def test_widths_multiply_to_the_columns(cols, cores):
  _, widths, _ = factors.shapes(9, cols, 4, cores)
  assert len(widths) == cores
  assert math.prod(widths) == cols


@pytest.mark.parametrize(
  'cols, widths', [(16, [2, 2, 4]), (64, [4, 4, 4]), (6, [1, 2, 3]), (17, [1, 1, 17])]
)
def test_widths_are_balanced(cols, widths):
  assert sorted(factors.shapes(9, cols, 4, 3)[1]) == widths


@given(rows=st.integers(1, 90), cols=st.integers(1, 12), cores=st.integers(2, 4))
def test_addresses_are_the_digits_of_the_id(rows, cols, cores):
  plan_of = compress.tensor_train(2, cores)(leaf.Leaf((rows, cols)))
  ids = np.arange(rows + 1, dtype=np.int32)
  found = plan_of.address(ids)
  heights = [plan_of.plan[f'core_{k}'].rows for k in range(cores)]
  value = 0
  for k in range(cores):
    value = value * heights[k] + found[f'core_{k}']
    assert found[f'core_{k}'].dtype == np.int32
    assert found[f'core_{k}'][:-1].max() < heights[k]
    assert found[f'core_{k}'].max() <= heights[k]  # Of the id `rows`, which reads nothing.
  np.testing.assert_array_equal(value, ids)


@given(
  rows=st.integers(1, 40), cols=st.integers(1, 8), cores=st.integers(2, 4), rank=st.integers(1, 5)
)
def test_decode_is_the_explicit_product(rows, cols, cores, rank):
  codec = compress.tensor_train(rank, cores)(leaf.Leaf((rows, cols)))
  rng = np.random.default_rng(0)
  stored = {n: rng.normal(size=x.shape).astype(np.float32) for n, x in codec.plan.items()}
  heights, widths, ranks = factors.shapes(rows, cols, rank, cores)
  want = product(stored, heights, widths, ranks)[:rows]
  np.testing.assert_allclose(read_all(codec, stored, rows), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('shape', [(40, 6), (1, 5), (27, 8), (2, 1), (37, 7)])
@pytest.mark.parametrize('cores', [2, 3, 4])
def test_full_rank_is_exact(shape, cores):
  x = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
  codec = compress.tensor_train(10_000, cores)(leaf.Leaf(shape))
  np.testing.assert_allclose(read_all(codec, codec.encode(x), shape[0]), x, atol=1e-5)


def test_encode_recovers_a_table_of_low_rank():
  codec = compress.tensor_train(3)(leaf.Leaf((64, 8), init=leaf.normal(1.0)))
  x = read_all(codec, leaf.init(codec.plan, jax.random.key(0)), 64)
  np.testing.assert_allclose(read_all(codec, codec.encode(x), 64), x, atol=1e-5)


def test_two_cores_are_the_truncated_svd():
  # The best of all pairs of cores: what is lost is the singular values that are cut off.
  x = np.random.default_rng(2).normal(size=(36, 6)).astype(np.float32)
  codec = compress.tensor_train(4, cores=2)(leaf.Leaf((36, 6)))
  lost = np.square(np.asarray(read_all(codec, codec.encode(jnp.asarray(x)), 36)) - x).sum()
  matrix = x.reshape(6, 6, 2, 3).transpose(0, 2, 1, 3).reshape(12, 18)
  values = np.linalg.svd(matrix, compute_uv=False)
  np.testing.assert_allclose(lost, np.square(values[4:]).sum(), rtol=1e-4)


def test_a_higher_rank_loses_less():
  x = jnp.asarray(np.random.default_rng(3).normal(size=(60, 8)), jnp.float32)

  def lost(rank):
    codec = compress.tensor_train(rank)(leaf.Leaf((60, 8)))
    return float(jnp.sum(jnp.square(read_all(codec, codec.encode(x), 60) - x)))

  losses = [lost(rank) for rank in (1, 2, 4, 8, 16)]
  assert losses == sorted(losses, reverse=True)
  assert losses[0] < float(jnp.sum(jnp.square(x)))


@pytest.mark.parametrize('stddev', [1e-4, 0.3])
@pytest.mark.parametrize('cores', [2, 3])
def test_vectors_start_with_the_variance_of_the_table(stddev, cores):
  full = leaf.Leaf((20_000, 16), init=leaf.normal(stddev))
  codec = compress.tensor_train(16, cores)(full)
  stored = leaf.init(codec.plan, jax.random.key(0))
  found = np.asarray(read_all(codec, stored, 20_000))
  assert abs(found.std() / stddev - 1) < 0.1
  sizes = [float(jnp.std(x)) for x in stored.values()]
  np.testing.assert_allclose(sizes, sizes[0], rtol=0.15)  # No core starts larger than another.


def test_a_start_of_zeros_stays_zero():
  codec = compress.tensor_train(4)(leaf.Leaf((40, 6), init=leaf.constant(0.0)))
  for core in leaf.init(codec.plan, jax.random.key(0)).values():
    np.testing.assert_array_equal(core, 0)


def test_memory_is_that_of_the_cores():
  codec = compress.tensor_train(16)(leaf.Leaf((10**7, 16)))
  sizes = {n: x.shape for n, x in codec.plan.items()}
  _, widths, _ = factors.shapes(10**7, 16, 16, 3)
  assert {n: s[1] for n, s in sizes.items()} == {
    'core_0': 16 * widths[0], 'core_1': 16 * 16 * widths[1], 'core_2': 16 * widths[2],
  }  # fmt: skip
  assert leaf.nbytes(codec.plan) * 500 < 10**7 * 16 * 4


def test_settings_that_make_no_sense_are_refused():
  with pytest.raises(ValueError, match='rank ≥ 1 and cores ≥ 2, got 0 and 3'):
    compress.tensor_train(0)
  with pytest.raises(ValueError, match='got 2 and 1'):
    compress.tensor_train(2, cores=1)
