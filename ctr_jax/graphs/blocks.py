"""Edges a block at a time: what is made for each edge then never stands for all edges at once.

A vector for every edge is what a large graph has no room for: five million of 16 dimensions are
320 MB, and a gradient holds several of such arrays. Summed block by block they stay in the cache.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# Edges of a block. A sampled batch is mostly one block.
SIZE = 1 << 18


def fold(add: Callable[..., Any], total: Any, arrays: Sequence[jax.Array]) -> Any:
  """`add(total, *arrays)` as if for all edges at once, for an `add` that sums over edges.

  Gradients are taken block by block too: what a block makes is made again for them.

  Args:
    add: (total, block of each array) → total. Zeros are added to the last block, and must add
      nothing.
    total: to start from.
    arrays: [edges] each.

  Returns:
    The total.
  """
  edges = len(arrays[0])
  size = max(1, min(SIZE, edges))
  parts = tuple(jnp.pad(x, (0, -edges % size)).reshape(-1, size) for x in arrays)

  @jax.checkpoint
  def step(total, part):
    return add(total, *part), None

  return jax.lax.scan(step, total, parts)[0]
