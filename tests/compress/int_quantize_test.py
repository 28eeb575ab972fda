"""Codes, packing and the promised error, over tables of every size of value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ctr_jax import compress
from ctr_jax.compress.int_quantize import pack, unpack
from ctr_jax.tables import gather, leaf

each_width = pytest.mark.parametrize('bits', [8, 4, 2])
ROWS, COLS = 4, 5
# One size of value a row: what float16 barely holds, what it holds well, and its largest.
SIZES = st.sampled_from([0.0, 1e-30, 1e-8, 1e-4, 1.0, 300.0, 6e4])


@st.composite
def tables(draw):
  unit = hnp.arrays(np.float32, (ROWS, COLS), elements=st.floats(-1, 1, width=32))
  sizes = draw(st.lists(SIZES, min_size=ROWS, max_size=ROWS))
  centres = draw(st.lists(SIZES, min_size=ROWS, max_size=ROWS))
  x = draw(unit) * np.float32(sizes)[:, None] + np.float32(centres)[:, None]
  return np.clip(x, -6e4, 6e4).astype(np.float32)


def codec(bits, rows=ROWS, cols=COLS):
  return compress.int_quantize(bits)(leaf.Leaf((rows, cols)))


# One compilation for each width, whatever the examples.
ENCODE = {bits: jax.jit(codec(bits).encode) for bits in (8, 4, 2)}


def check(x, bits):
  """|decoded − x| ≤ scale/2, of the stored scale, which is as small as that needs."""
  stored = ENCODE[bits](jnp.asarray(x))
  assert {p: (y.shape, y.dtype) for p, y in stored.items()} == {
    p: (y.shape, y.dtype) for p, y in codec(bits).plan.items()
  }
  found = np.asarray(codec(bits).decode(stored), np.float64)
  scale, offset = (np.asarray(stored[n], np.float64) for n in ('scale', 'offset'))
  # Float32's own rounding, of the division and of offset + scale · code.
  slack = 4 * np.finfo(np.float32).eps * np.abs(x).max(axis=1, keepdims=True)
  assert (np.abs(found - x) <= scale[:, None] / 2 + slack).all()
  low, high = x.min(axis=1), x.max(axis=1)
  assert (offset <= low).all()
  # An ulp of float16 is at most 2^-10 of a value, or 2^-24; both roundings widen the range by one.
  assert (offset >= low - np.maximum(2.0**-10 * np.abs(low), 2.0**-24)).all()
  widest = (high - offset) / (2**bits - 1)
  assert (scale >= 0).all()
  assert (scale * (1 + 1e-6) >= widest).all()
  assert (scale <= np.maximum(widest * (1 + 2.0**-9), widest + 2.0**-24) + 1e-12).all()


@each_width
@given(x=tables())
def test_error_is_at_most_half_the_stored_scale(bits, x):
  check(x, bits)


@each_width
@pytest.mark.parametrize('value', [0.0, -0.0, 1.0, 1 / 3, -1 / 3, 1e-8, -1e-8, 6e4, -6e4, 65504.0])
def test_constant_rows(bits, value):
  x = np.full((ROWS, COLS), value, np.float32)
  check(x, bits)
  if np.float16(value) == np.float32(value):  # Nothing is lost where the offset says it all.
    stored = ENCODE[bits](jnp.asarray(x))
    np.testing.assert_array_equal(codec(bits).decode(stored), x)
    np.testing.assert_array_equal(stored['scale'], 0)


@each_width
def test_values_on_the_grid_are_exact(bits):
  top = 2**bits - 1
  rng = np.random.default_rng(0)
  grid = rng.integers(0, top + 1, (ROWS, COLS))
  grid[:, 0], grid[:, 1] = 0, top  # So that the whole range of codes is in use.
  x = (-0.5 + grid * 2.0**-6).astype(np.float32)
  stored = ENCODE[bits](jnp.asarray(x))
  np.testing.assert_array_equal(codec(bits).decode(stored), x)
  np.testing.assert_array_equal(unpack(stored['code'], bits, COLS), grid)


@each_width
def test_the_same_bits_under_jit(bits):
  # Compilers may keep the precision that a cast to float16 takes away; the promise rests on it.
  x = jnp.asarray(100 + np.random.default_rng(1).normal(size=(ROWS, COLS)), jnp.float32)
  eager = codec(bits).encode(x)
  for name, array in ENCODE[bits](x).items():
    np.testing.assert_array_equal(array, eager[name])


@each_width
def test_more_bits_err_less(bits):
  x = jnp.asarray(np.random.default_rng(2).normal(size=(ROWS, COLS)), jnp.float32)
  error = float(jnp.abs(codec(bits).decode(codec(bits).encode(x)) - x).mean())
  # A uniform code errs by a quarter of its step on average, here about (max − min) / top.
  step = float((x.max(axis=1) - x.min(axis=1)).mean()) / (2**bits - 1)
  assert 0.1 * step < error < 0.4 * step


@each_width
@pytest.mark.parametrize('cols', [1, 2, 3, 4, 5, 7, 8, 16, 17])
def test_bytes_a_row(bits, cols):
  rows = 11
  plan = codec(bits, rows, cols).plan
  assert leaf.nbytes(plan) == rows * (-(-cols * bits // 8) + 4)
  stored = codec(bits, rows, cols).encode(jnp.ones((rows, cols)))
  assert sum(np.asarray(x).nbytes for x in stored.values()) == leaf.nbytes(plan)


@each_width
@given(data=st.data())
def test_unpack_inverts_pack(bits, data):
  shape = data.draw(st.sampled_from([(1,), (3,), (2, 5), (2, 8), (2, 3, 9)]))
  codes = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2**bits - 1)))
  packed = pack(jnp.asarray(codes), bits)
  assert packed.dtype == jnp.uint8
  assert packed.shape == (*shape[:-1], -(-shape[-1] * bits // 8))
  np.testing.assert_array_equal(unpack(packed, bits, shape[-1]), codes)


def test_reading_nothing_gives_nothing():
  made = codec(4)
  stored = made.encode(jnp.ones((ROWS, COLS)))
  ids = np.zeros((0,), np.int32)
  assert made.decode(gather.gather(made.plan, stored, made.address(ids))).shape == (0, COLS)


@pytest.mark.parametrize('bits, cols', [(8, 1), (4, 2), (2, 4)])
def test_pack_is_onto_and_low_bits_come_first(bits, cols):
  every = jnp.arange(256, dtype=jnp.uint8)[:, None]
  codes = unpack(every, bits, cols)
  np.testing.assert_array_equal(pack(codes, bits), every)
  weights = (2**bits) ** np.arange(cols)
  np.testing.assert_array_equal((np.asarray(codes, int) * weights).sum(1), np.arange(256))


def test_codes_are_frozen_and_no_table_is_left():
  for described in codec(8).plan.values():
    assert described.frozen
    assert not described.is_table
    assert described.by_row


def test_reads_decode_as_the_whole_table_does():
  x = jnp.asarray(np.random.default_rng(3).normal(size=(ROWS, COLS)), jnp.float32)
  made = codec(4)
  stored = made.encode(x)
  ids = np.int32([[3, 0], [1, 3]])
  found = made.decode(gather.gather(made.plan, stored, made.address(ids)))
  np.testing.assert_array_equal(found, np.asarray(made.decode(stored))[ids])


def test_a_half_precision_table_is_not_rounded_twice():
  # float16 tables end at 65504; a decoded value may lie half a step above the largest one.
  half = compress.chain(compress.cast('float16'), compress.int_quantize(2))(leaf.Leaf((1, 4)))
  x = jnp.float32([[-65504, -2e4, 2e4, 65504]])
  stored = compress.encode(half, x)
  found = half.decode(gather.gather(half.plan, stored, half.address(np.int32([0]))))
  assert bool(jnp.isfinite(found).all())
  assert float(jnp.abs(found - x).max()) <= float(stored['scale'][0]) / 2


@pytest.mark.parametrize('bits', [1, 3, 6, 16])
def test_other_widths_are_refused(bits):
  with pytest.raises(ValueError, match=f'8, 4 or 2 bits, got {bits}'):
    compress.int_quantize(bits)
