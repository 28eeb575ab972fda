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


@technique
def int_quantize(bits: int = 8):
  """`bits`-bit codes, with a float16 scale and offset per row: value = offset + scale · code.

  FBGEMM's row-wise format: a row of d values takes d·bits/8 + 4 bytes. Codes of 4 and 2 bits share
  a byte. The offset is rounded down and the scale up, so that a row's range is covered and the
  error is at most scale/2, with scale = (max − min)/(2^bits − 1) up to float16's own rounding.

  The codes are frozen: this is the last link of a chain, applied to a trained table by `encode`.

  Args:
    bits: 8, 4 or 2.
  """
  if bits not in (8, 4, 2):
    raise ValueError(f'int_quantize packs codes of 8, 4 or 2 bits, got {bits}.')
  top = 2**bits - 1

  def build(leaf):
    rows, cols = leaf.shape
    width = math.ceil(cols * bits / 8)
    zeros = leaf_lib.constant(0)
    plan = {
      'code': leaf_lib.Leaf((rows, width), jnp.uint8, ('row', 'byte'), zeros, frozen=True),
      'offset': leaf_lib.Leaf((rows,), jnp.float16, ('row',), zeros, frozen=True),
      'scale': leaf_lib.Leaf((rows,), jnp.float16, ('row',), zeros, frozen=True),
    }

    def encode(table):
      table = table.astype(jnp.float32)
      low, high = table.min(axis=1), table.max(axis=1)
      offset = _half_below(low)
      start = offset.astype(jnp.float32)
      scale = _half_above((high - start) / top)
      step = jnp.where(scale > 0, scale, 1).astype(jnp.float32)
      codes = jnp.clip(jnp.round((table - start[:, None]) / step[:, None]), 0, top)
      return {'code': pack(codes.astype(jnp.uint8), bits), 'offset': offset, 'scale': scale}

    def decode(gathered, **context):
      codes = unpack(gathered['code'], bits, cols).astype(jnp.float32)
      scale, offset = (gathered[x].astype(jnp.float32)[..., None] for x in ('scale', 'offset'))
      # float32 whatever the table was: a half could not hold the top of a row that it just held.
      return offset + scale * codes

    return Codec(plan, encode, lambda ids: {'code': ids, 'offset': ids, 'scale': ids}, decode)

  return build
