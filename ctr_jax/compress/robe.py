"""One circular array that all rows are slices of."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax.compress import hashing
from ctr_jax.compress.codec import Codec, technique
from ctr_jax.compress.multi_hash import bucket_mean


@technique
def robe(size: int, block: int | None = None, seed: int = 0):
  """Slices of a circular array, at hashed offsets (ROBE, Desai et al., "Random offset block
  embedding array", MLSys 2022).

  Columns are cut into blocks of `block`, and column j of block b of an id is element
  (h_b(id) + j) mod size, h_b a hash of its own. With one column a block ≡ hashing every weight by
  itself (HashedNets); with one block per row an id reads one run of memory. The signs that the
  paper's analysis puts before the elements are left out, as in its experiments.

  The array is a table of one column, so that further links can follow; an optimizer by rows is then
  one by elements.

  Args:
    size: elements stored, whatever the rows and columns of the table.
    block: columns read in one run; all of them if not given.
    seed: of the first block; block b uses seed + b.
  """
  if not 1 <= size < 2**30:  # Sums of offsets stay below 2^31.
    raise ValueError(f'robe needs a size in 1..2^30-1, got {size}.')
  if block is not None and block < 1:
    raise ValueError(f'robe needs blocks of at least one column, got {block}.')

  def build(leaf):
    rows, cols = leaf.shape
    width = min(block or cols, cols)
    if width > size:
      raise ValueError(f'robe: a block of {width} columns does not fit into {size} elements.')
    offset = np.arange(cols, dtype=np.int32) % width
    blocks = -(-cols // width)

    def address(ids):
      xp = jnp if isinstance(ids, jax.Array) else np
      start = hashing.family(ids, seed, blocks, size)
      start = xp.repeat(start, width, axis=-1)[..., :cols]
      return {'array': (start + xp.broadcast_to(offset, start.shape)) % size}

    def encode(table):
      index = address(jnp.arange(rows))['array'].reshape(-1)
      array = bucket_mean(table.astype(jnp.float32).reshape(-1, 1), index, size)
      return {'array': plan['array'].stored(array)}

    plan = {'array': dataclasses.replace(leaf, shape=(size, 1))}
    return Codec(plan, encode, address, lambda rows, **context: rows['array'][..., 0])

  return build
