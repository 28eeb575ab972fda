"""Training in integers: codes and a learned step are all that is stored, in training too."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ctr_jax.compress import rounding
from ctr_jax.compress.codec import Codec, technique
from ctr_jax.compress.int_quantize import pack, unpack
from ctr_jax.tables import leaf as leaf_lib

# Steps are float32, kept behind the codes of their row.
_STEP_BYTES = 4
_SMALLEST = 1e-12


@technique
def alpt(bits: int = 8, step_rate: float = 0.1):
  """Rows of `bits`-bit codes with a step each, which training reads and writes (Li et al.,
  "Adaptive Low-Precision Training for Embeddings in Click-Through Rate Prediction", AAAI 2023).

  A row is value_j = step · code_j, |code_j| ≤ Q = 2^(bits−1) − 1, in d·bits/8 + 4 bytes. When it is
  written, first the step moves against the gradient of the rounded row (LSQ), then the new values
  are rounded at random with it, so that small updates are kept on average:

    ∂L/∂step = Σ_j g_j · r_j,   r_j = round(v_j) − v_j if |v_j| ≤ Q else ±Q,   v_j = value_j/step

  The paper takes g at the updated row, by a second forward and backward pass; here it is that of
  the step just made, which costs nothing and differs by what one update changes. The move is
  relative and of bounded length, because steps differ by orders of magnitude between rows:
  step ← step · exp(−rate · ∂L/∂step / (‖g‖ · √(d·Q))). A row that outgrew its codes by more than a
  factor of two, or fills less than half of them, gets the step that fits it, max|value|/Q; within
  that, clipping is what the step has learned.

  Needs a row optimizer (dense training would want whole tables in float), which moves the values
  alone. `encode` rounds to nearest, with step = max|value|/Q.

  Args:
    bits: 8, 4 or 2.
    step_rate: how fast steps move; 0 keeps them while a row fits its codes.
  """
  if bits not in (8, 4, 2):
    raise ValueError(f'alpt packs codes of 8, 4 or 2 bits, got {bits}.')
  top = 2 ** (bits - 1) - 1

  def build(leaf):
    rows, cols = leaf.shape
    width = math.ceil(cols * bits / 8)

    def load(stored):
      codes = unpack(stored[..., :width], bits, cols).astype(jnp.float32) - (top + 1)
      step = jax.lax.bitcast_convert_type(stored[..., width:], jnp.float32)[..., None]
      return jnp.concatenate([codes * step, step], axis=-1)

    def store(loaded, key, gradients):
      values, step = loaded[..., :cols], jnp.maximum(loaded[..., cols], _SMALLEST)
      if gradients is not None:
        step = moved_step(values, step, gradients, top, step_rate)
      return written(values, step, key)

    def written(values, step, key):
      codes = jnp.clip(rounding.to_integer(values / step[..., None], key), -top, top) + (top + 1)
      tail = jax.lax.bitcast_convert_type(step, jnp.uint8)
      return jnp.concatenate([pack(codes.astype(jnp.uint8), bits), tail], axis=-1)

    def encode(table):
      table = table.astype(jnp.float32)
      return written(table, jnp.maximum(jnp.abs(table).max(axis=-1) / top, _SMALLEST), None)

    def draw(key, shape, dtype):
      del dtype
      return encode(leaf.init(key, (shape[0], cols), jnp.float32))

    plan = leaf_lib.Leaf(
      (rows, width + _STEP_BYTES), jnp.uint8, ('row', 'byte'), leaf_lib.in_blocks(draw),
      load=load, store=store, fixed=1,
    )  # fmt: skip
    return Codec(plan, encode, lambda ids: ids, lambda rows, **context: rows[..., :cols])

  return build


def moved_step(values, step, gradients, top, rate):
  """Steps [...] after their own gradient step, for rows `values` [..., d] about to be rounded."""
  scaled = values / step[..., None]
  residual = jnp.where(jnp.abs(scaled) <= top, jnp.round(scaled) - scaled, jnp.sign(scaled) * top)
  slope = jnp.sum(gradients * residual, axis=-1)
  size = jnp.sqrt(jnp.sum(jnp.square(gradients), axis=-1))
  length = math.sqrt(values.shape[-1] * top)
  step = step * jnp.exp(-rate * slope / (jnp.maximum(size, _SMALLEST) * length))
  fit = jnp.maximum(jnp.abs(values).max(axis=-1) / top, _SMALLEST)
  return jnp.where((step < fit / 2) | (step > fit * 2), fit, step)
