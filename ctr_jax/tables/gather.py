"""Rows from addresses: the only touch of large arrays, and what is done to addresses before it.

`deduplicate` runs on the host (NumPy), because XLA's CPU sort is slow: 106k ids take it 12-27 ms,
NumPy 2 ms; `deduplicate_on_device` is the same in JAX, for accelerators, where a sort is cheap and
the host's threads are not.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax.tables import leaf as leaf_lib


def capacity(positions: int, rows: int) -> int:
  """How many distinct rows `positions` reads can touch at most, with `rows` (no row): a shape."""
  return min(positions, rows + 1)


def deduplicate(index: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
  """Distinct rows in ascending order, and where each read finds its own.

  Args:
    index: int32, any shape, values in [0, rows]; `rows` stands for no row.
    rows: of the array that is read.

  Returns:
    unique: int32 [capacity(index.size, rows)], padded at the end with `rows`, which is out of range
      on purpose: a scatter drops it, as it drops a read of no row.
    inverse: int32 of index's shape, with unique[inverse] = index.
  """
  unique = np.full(capacity(index.size, rows), rows, np.int32)
  if rows <= 4 * index.size:  # Marking every row costs less than a sort.
    marks = np.zeros(rows + 1, bool)
    marks[index] = True
    found = np.flatnonzero(marks)
    rank = np.empty(rows + 1, np.int32)
    rank[found] = np.arange(found.size, dtype=np.int32)
    inverse = rank[index]
  else:
    found, inverse = np.unique(index, return_inverse=True)
  unique[: found.size] = found
  return unique, inverse.reshape(index.shape).astype(np.int32)


def deduplicate_on_device(index: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
  """`deduplicate` in JAX, for use inside a jitted step."""
  unique, inverse = jnp.unique(
    index, return_inverse=True, size=capacity(index.size, rows), fill_value=rows
  )
  return unique.astype(jnp.int32), inverse.reshape(index.shape).astype(jnp.int32)


def rows_of(array: jax.Array, unique: jax.Array) -> jax.Array:
  """The stored rows at `unique` (ascending, distinct, padding out of range reads the last row)."""
  return array.at[unique].get(mode='clip', unique_indices=True, indices_are_sorted=True)


def gather(plan, stored, address):
  """`tree.map(lambda leaf, index: leaf[index])` over a plan, each leaf then loaded to float.

  Leaves without rows are read whole, whatever their address. Ids are checked where they enter
  (`predict.inputs`), so that the only index that is clipped here is `rows`, which reads nothing.
  """

  def one(leaf, array, index):
    return leaf.load(jnp.asarray(array).at[index].get(mode='clip') if leaf.by_row else array)

  flat = {
    path: one(leaf, array, index)
    for (path, leaf), array, index in zip(
      leaf_lib.flatten(plan).items(),
      leaf_lib.flatten(stored).values(),
      leaf_lib.flatten(address).values(),
      strict=True,
    )
  }
  return leaf_lib.unflatten(plan, flat)
