"""An id's binary code, cut into blocks that each read a small table."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from ctr_jax.compress import hashing
from ctr_jax.compress.codec import Codec, technique
from ctr_jax.compress.multi_hash import fit, scaled, widths_of
from ctr_jax.tables import bit_blocks


@technique
def binary_code(
  block: int,
  bits: int | None = None,
  strategy: str = 'succession',
  combine: str = 'sum',
  seed: int | None = None,
):
  """Blocks of t bits of each id's code of S bits, each with 2^t rows of its own (Yan et al.,
  "Binary Code based Hash Embedding for Web-scale Applications", CIKM 2021).

  The tuple of rows is unique for every id while 2^S ≥ the table's rows and no hash is taken. Two
  'succession' blocks without a hash ≡ quotient_remainder(2^t, 'add').

  Args:
    block: t, bits of a block; ⌈S/t⌉ blocks.
    bits: S, the length of the code; as long as the row numbers if not given.
    strategy: 'succession' (neighbouring bits form a block) or 'skip' (every ⌈S/t⌉-th bit).
    combine: 'sum' or 'concat' (cols/⌈S/t⌉ columns each).
    seed: of a hash that makes the code; None takes the row number itself, which is already dense
      and without collisions.
  """
  if combine not in ('sum', 'concat') or strategy not in ('succession', 'skip'):
    raise ValueError(
      f'binary_code combines by sum or concat and cuts by succession or skip, got {combine!r} and '
      f'{strategy!r}.'
    )
  if block < 1 or (bits is not None and not 1 <= bits <= 32):
    raise ValueError(f'binary_code needs block ≥ 1 and bits in 1..32, got {block} and {bits}.')

  def build(leaf):
    rows, cols = leaf.shape
    cut = bit_blocks.blocks(rows, block, bits, strategy, hashed=seed is not None)
    if combine == 'concat' and len(cut) > cols:
      raise ValueError(f'binary_code: {len(cut)} blocks cannot share out {cols} columns.')
    longest, reach = max(len(own.bits) for own in cut), [own.rows for own in cut]
    if longest > 30:
      raise ValueError(f'binary_code: a block of {longest} bits is no small table.')
    widths = widths_of(cols, len(cut), combine)
    init = leaf.init if combine == 'concat' else scaled(leaf.init, 1 / math.sqrt(len(cut)))
    names = [f'block_{b}' for b in range(len(cut))]
    plan = {
      name: dataclasses.replace(leaf, shape=(n, width), init=init)
      for name, n, width in zip(names, reach, widths, strict=True)
    }

    def address(ids):
      code = ids.astype(np.uint32) if seed is None else hashing.mix(ids, seed)
      return {name: bit_blocks.read(code, own.bits) for name, own in zip(names, cut, strict=True)}

    def decode(gathered, **context):
      parts = [gathered[name] for name in names]
      return jnp.concatenate(parts, axis=-1) if combine == 'concat' else sum(parts[1:], parts[0])

    def encode(table):
      index = list(address(jnp.arange(rows)).values())
      arrays = zip(names, fit(table, index, reach, widths), strict=True)
      return {name: plan[name].stored(x) for name, x in arrays}

    return Codec(plan, encode, address, decode)

  return build
