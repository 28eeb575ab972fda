"""Quantisation in the forward pass only, so that training learns to live with it."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ctr_jax.compress.codec import WHOLE, Codec, technique
from ctr_jax.compress.int_quantize import dequantize, quantize
from ctr_jax.tables import leaf as leaf_lib

# Rows of a table's first draw that the first learned step is measured on.
_SAMPLE = 256


def straight_through(x: jax.Array, rounded: jax.Array) -> jax.Array:
  """`rounded`, with the gradient of x (Bengio et al., 2013)."""
  # x − x is exactly zero, so that the sum is `rounded` to the bit; x + (rounded − x) would not be.
  return jax.lax.stop_gradient(rounded) + (x - jax.lax.stop_gradient(x))


@technique
def fake_quantize(bits: int = 8, step: str = 'row', offset: bool = True):
  """Reads rows as if they were stored in `bits` bits; stores and trains them in full.

  With step='row' the rounding is `int_quantize`'s own, so that storing the trained rows by
  int_quantize(bits, offset) in its place changes nothing: the vectors are the same to the bit.
  (Appended to it, it would quantise what is quantised already.)

  With step='learned' one step per table is learned with the rows (LSQ, Esser et al., ICLR 2020):
  value = step · clip(round(x/step), −Q, Q), Q = 2^(bits−1) − 1, and the gradient of the step is
  Σ g · (round(x/step) − x/step) inside the range and ±Q outside, scaled by 1/√(n·Q). The logarithm
  of the step is what is trained, so that the net's optimizer moves it by a ratio. As in the paper
  it is best started from trained rows: `encode` sets step = 2·mean|x|/√Q.

  Args:
    bits: 8, 4 or 2.
    step: 'row' or 'learned'.
    offset: with 'row', as in int_quantize.
  """
  if bits not in (8, 4, 2):
    raise ValueError(f'fake_quantize rounds to 8, 4 or 2 bits, got {bits}.')
  if step not in ('row', 'learned'):
    raise ValueError(f"fake_quantize takes its step per 'row' or 'learned', got {step!r}.")

  def by_row(leaf):
    def decode(rows, **context):
      fixed = jax.lax.stop_gradient(rows)
      return straight_through(rows, dequantize(quantize(fixed, bits, offset), bits))

    return Codec(leaf, leaf.stored, lambda ids: ids, decode)

  return by_row if step == 'row' else _learned(2 ** (bits - 1) - 1)


def _learned(top):
  def log_step(values):
    mean = jnp.mean(jnp.abs(values.astype(jnp.float32)))
    return jnp.log(jnp.maximum(2 * mean / math.sqrt(top), 1e-12))[None]

  def build(leaf):
    def init(key, shape, dtype):
      del shape
      return log_step(leaf.init(key, (_SAMPLE, leaf.shape[1]), jnp.float32)).astype(dtype)

    def decode(gathered, **context):
      return _lsq(gathered['table'], jnp.exp(gathered['log_step'][0]), top)

    return Codec(
      {'table': leaf, 'log_step': leaf_lib.Leaf((1,), jnp.float32, ('step',), init, decay=False)},
      lambda table: {'table': leaf.stored(table), 'log_step': log_step(table)},
      lambda ids: {'table': ids, 'log_step': WHOLE},
      decode,
    )

  return build


def _lsq(x, step, top):
  """x rounded to multiples of a learned step, with LSQ's gradients."""
  scale = 1 / math.sqrt(max(x.size, 1) * top)
  step = step * scale + jax.lax.stop_gradient(step * (1 - scale))  # The paper's gradient scale.
  scaled = jnp.clip(x / step, -top, top)
  return straight_through(scaled, jnp.round(scaled)) * step
