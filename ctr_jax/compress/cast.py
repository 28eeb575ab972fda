"""Values in a shorter floating-point type."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from ctr_jax.compress.codec import Codec, technique

_TYPES = ('float16', 'bfloat16', 'float32')


@technique
def cast(dtype: str):
  """The table in `dtype`: 2 bytes a value for 'float16' and 'bfloat16'.

  float16 keeps 11 bits of precision up to ±65504, bfloat16 8 bits over float32's range. Rows are
  rounded to nearest when they are written, in training too; vectors are read as float32.

  XLA's CPU backend scatters bfloat16 by way of float32, so there a row-sparse step on a bfloat16
  table costs time and memory of the whole table; train float16 on CPUs, or cast after training.
  """
  if dtype not in _TYPES:
    raise ValueError(f'cast stores {", ".join(_TYPES)}, got {dtype!r}; for codes use int_quantize.')

  def build(leaf):
    return Codec(
      plan=dataclasses.replace(leaf, dtype=jnp.dtype(dtype)),
      encode=lambda table: table.astype(dtype),
      address=lambda ids: ids,
      decode=lambda rows, **context: rows.astype(leaf.dtype),
    )

  return build
