"""Values in a shorter floating-point type."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from ctr_jax.compress import rounding as round_lib
from ctr_jax.compress.codec import Codec, technique

_TYPES = ('float16', 'bfloat16', 'float32')


@technique
def cast(dtype: str, rounding: str = 'nearest'):
  """The table in `dtype`: 2 bytes a value for 'float16' and 'bfloat16'.

  float16 keeps 11 bits of precision up to ±65504, bfloat16 8 bits over float32's range. Vectors are
  read as float32. Rows are rounded whenever they are written, in training too: to the nearest
  value, which loses updates below half of the distance between two values, or at random so that
  their mean is kept (`rounding.to_type`). `encode` rounds to nearest.

  XLA's CPU backend scatters bfloat16 by way of float32, so there a row-sparse step on a bfloat16
  table costs time and memory of the whole table; train float16 on CPUs, or cast after training.

  Args:
    dtype: 'float16', 'bfloat16' or 'float32'.
    rounding: 'nearest' or 'stochastic', of the rows that training writes.
  """
  if dtype not in _TYPES:
    raise ValueError(f'cast stores {", ".join(_TYPES)}, got {dtype!r}; for codes use int_quantize.')
  if rounding not in ('nearest', 'stochastic'):
    raise ValueError(f'cast rounds to nearest or stochastic, got {rounding!r}.')

  def store(rows, key, gradients):
    del gradients
    return round_lib.to_type(rows, dtype, key)

  def build(leaf):
    stored = jnp.dtype(dtype)
    return Codec(
      plan=dataclasses.replace(
        leaf, dtype=stored, store=store if rounding == 'stochastic' else None
      ),
      encode=lambda table: table.astype(stored),
      address=lambda ids: ids,
      decode=lambda rows, **context: rows.astype(leaf.dtype),
    )

  return build
