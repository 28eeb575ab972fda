"""Places and values of what is not zero: by NumPy, to the last byte, and never lost in silence."""

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


def holes(rows, cols, share, seed=0):
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(rows, cols)) * (rng.random((rows, cols)) >= share)).astype(np.float32)


# A few shapes, on both sides of whole bytes and blocks: each is compiled.
@given(
  shape=st.sampled_from([(1, 1), (16, 8), (17, 9), (70, 20)]),
  share=st.sampled_from([0, 0.6, 0.95]),
  spare=st.sampled_from([0, 5]),
  data=st.data(),
)
def test_what_is_not_zero_comes_back(shape, share, spare, data):
  rows, cols = shape
  x = holes(rows, cols, share)
  kept = max(1, compress.nonzeros(jnp.asarray(x)) + spare)
  codec = compress.sparse_rows(kept)(leaf.Leaf((rows, cols)))
  stored = codec.encode(jnp.asarray(x))
  order = x.reshape(-1)[x.reshape(-1) != 0]
  np.testing.assert_array_equal(stored['value'], np.pad(order, (0, kept - len(order))))
  # Block by block, the counts of what came before.
  before = [np.count_nonzero(x[: 16 * b]) for b in range(-(-rows // 16))]
  np.testing.assert_array_equal(stored['base'], before)
  ids = data.draw(st.lists(st.integers(0, rows - 1), min_size=4, max_size=4))
  np.testing.assert_array_equal(read(codec, stored, np.int32(ids)), x[ids])
  np.testing.assert_array_equal(read(codec, stored, np.int32(ids)[:, None]), x[ids][:, None])


def test_bytes_are_bits_counts_and_values():
  plan = compress.sparse_rows(1000, 'float16')(leaf.Leaf((10_000, 16))).plan
  assert leaf.nbytes(plan) == 10_000 * 2 + 10_000 // 16 * 4 + 16 + 1000 * 2
  assert all(x.frozen and not x.is_table for x in plan.values())


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_values_are_rounded_to_their_type_and_read_as_float32(dtype):
  x = jnp.asarray(holes(40, 6, 0.5))
  codec = compress.sparse_rows(compress.nonzeros(x), dtype)(leaf.Leaf((40, 6)))
  found = read(codec, codec.encode(x), np.arange(40, dtype=np.int32))
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, x.astype(dtype).astype(jnp.float32))


def test_an_empty_table_takes_one_value():
  codec = compress.sparse_rows(1)(leaf.Leaf((20, 3)))
  stored = codec.encode(jnp.zeros((20, 3)))
  np.testing.assert_array_equal(read(codec, stored, np.arange(20, dtype=np.int32)), 0)


@pytest.mark.parametrize('missing', [1, 100])
def test_more_than_it_holds_is_refused_by_name(missing):
  x = jnp.asarray(holes(40, 6, 0.5))
  codec = compress.bind(
    {'item': leaf.Leaf((40, 6))}, [('.*', compress.sparse_rows(compress.nonzeros(x) - missing))]
  )
  with pytest.raises(ValueError, match=r'values of item/value: overflows .* keep more'):
    compress.encode(codec, {'item': x})


def test_it_stores_what_a_trained_chain_left():
  # Pruned, trained on under its mask, then stored without its zeros: `extend` on real arrays.
  full = leaf.Leaf((40, 6))
  x = jnp.asarray(holes(40, 6, 0.8))
  masked = compress.bind({'item': full}, [('.*', compress.masked())])
  stored = compress.encode(masked, {'item': x})
  link = compress.sparse_rows(compress.nonzeros(x))
  small = compress.extend(masked.plan, stored, link)
  codec = compress.bind({'item': full}, compress.appended([('.*', compress.masked())], link))
  found = read(codec, small, {'item': np.arange(40, dtype=np.int32)})
  np.testing.assert_array_equal(found['item'], x)


def test_the_values_are_not_made_float_as_a_whole():
  codec = compress.sparse_rows(1_000_000, 'float16')(leaf.Leaf((100_000, 16)))
  arrays = jax.tree.map(lambda x: x.struct, codec.plan)
  ids = jax.ShapeDtypeStruct((8,), jnp.int32)
  compiled = jax.jit(lambda stored, ids: read(codec, stored, ids)).lower(arrays, ids).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 1e5


def test_settings_that_make_no_sense_are_refused():
  for kept in (0, 2**31):
    with pytest.raises(ValueError, match=rf'1 ≤ kept < 2\^31, got {kept}'):
      compress.sparse_rows(kept)
  with pytest.raises(ValueError, match="float32, float16, bfloat16, got 'int8'"):
    compress.sparse_rows(5, 'int8')
