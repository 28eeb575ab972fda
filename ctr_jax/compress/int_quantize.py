"""Values as integer codes with a scale and an offset per row."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ctr_jax.compress.codec import Codec, technique
from ctr_jax.tables import leaf as leaf_lib


def pack(codes: jax.Array, bits: int) -> jax.Array:
  """uint8 codes [..., n], each below 2^bits → uint8 [..., ⌈n·bits/8⌉], low bits first."""
  per_byte = 8 // bits
  spare = -codes.shape[-1] % per_byte
  codes = jnp.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, spare)])
  lanes = codes.reshape(*codes.shape[:-1], codes.shape[-1] // per_byte, per_byte)
  packed = lanes[..., 0]
  for lane in range(1, per_byte):
    packed = packed | (lanes[..., lane] << jnp.uint8(lane * bits))
  return packed


def unpack(packed: jax.Array, bits: int, n: int) -> jax.Array:
  """The inverse of `pack`: uint8 [..., bytes] → uint8 [..., n]."""
  mask = jnp.uint8(2**bits - 1)
  lanes = [(packed >> jnp.uint8(lane * bits)) & mask for lane in range(8 // bits)]
  codes = jnp.stack(lanes, axis=-1)
  return codes.reshape(*packed.shape[:-1], packed.shape[-1] * (8 // bits))[..., :n]


def _half_below(x):
  """The largest float16 that is not above x."""
  half = x.astype(jnp.float16)
  return jnp.where(half.astype(jnp.float32) > x, jnp.nextafter(half, jnp.float16(-jnp.inf)), half)


def _half_above(x):
  return -_half_below(-x)


def quantize(table: jax.Array, bits: int, offset: bool) -> dict[str, jax.Array]:
  """Rows [..., cols] → 'code' (uint8 [..., cols], not packed), 'scale' and, if asked for, 'offset'.

  The error of a value is at most scale/2, up to float16's own rounding of the scale.
  """
  table = table.astype(jnp.float32)
  if offset:
    top, zero = 2**bits - 1, 0
    low = _half_below(table.min(axis=-1))
    span = table.max(axis=-1) - low.astype(jnp.float32)
  else:  # Codes −top..top about zero, which is exact.
    top, zero = 2 ** (bits - 1) - 1, 2 ** (bits - 1)
    low = jnp.zeros(table.shape[:-1], jnp.float16)
    span = jnp.abs(table).max(axis=-1)
  scale = _half_above(span / top)
  step = jnp.where(scale > 0, scale, 1).astype(jnp.float32)
  codes = jnp.round((table - low.astype(jnp.float32)[..., None]) / step[..., None])
  codes = jnp.clip(codes, 0 if offset else -top, top) + zero
  return {'code': codes.astype(jnp.uint8), 'scale': scale} | ({'offset': low} if offset else {})


def dequantize(parts: dict[str, jax.Array], bits: int) -> jax.Array:
  """The inverse of `quantize`, up to rounding: float32 [..., cols]."""
  codes = parts['code'].astype(jnp.float32)
  scale = parts['scale'].astype(jnp.float32)[..., None]
  # float32 whatever the table was: a half could not hold the top of a row that it just held.
  if 'offset' in parts:
    return parts['offset'].astype(jnp.float32)[..., None] + scale * codes
  return scale * (codes - 2 ** (bits - 1))


@technique
def int_quantize(bits: int = 8, offset: bool = True):
  """`bits`-bit codes, with a float16 scale and offset per row: value = offset + scale · code.

  FBGEMM's row-wise format: a row of d values takes d·bits/8 + 4 bytes, + 2 without an offset. Codes
  of 4 and 2 bits share a byte. The offset is rounded down and the scale up, so that a row's range
  is covered and the error is at most scale/2, with scale = (max − min)/(2^bits − 1) up to float16's
  own rounding. Without an offset, value = scale · (code − 2^(bits−1)) and scale =
  max|value|/(2^(bits−1) − 1): zero stays exactly zero, and the step is up to twice as wide.

  The codes are frozen: this is the last link of a chain, applied to a trained table by `encode`.

  Args:
    bits: 8, 4 or 2.
    offset: whether a row has an offset beside its scale.
  """
  if bits not in (8, 4, 2):
    raise ValueError(f'int_quantize packs codes of 8, 4 or 2 bits, got {bits}.')

  def build(leaf):
    rows, cols = leaf.shape
    zeros = leaf_lib.constant(0)
    width = math.ceil(cols * bits / 8)
    plan = {'code': leaf_lib.Leaf((rows, width), jnp.uint8, ('row', 'byte'), zeros, frozen=True)}
    for name in ('scale', 'offset') if offset else ('scale',):
      plan[name] = leaf_lib.Leaf((rows,), jnp.float16, ('row',), zeros, frozen=True)

    def encode(table):
      parts = quantize(table, bits, offset)
      return parts | {'code': pack(parts['code'], bits)}

    def decode(gathered, **context):
      return dequantize(gathered | {'code': unpack(gathered['code'], bits, cols)}, bits)

    return Codec(plan, encode, lambda ids: dict.fromkeys(plan, ids), decode)

  return build
