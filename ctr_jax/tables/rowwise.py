"""Optimizers that touch only the gathered rows: a step costs the same for 1e4 and for 1e8 rows.

The gradient is taken with respect to the distinct rows of a batch (never the table), so duplicates
are already summed; the update is written with unique indices. SGD and Adagrad are exact when
sparse: an untouched row has zero gradient and would not move. Adam is not, since its moments decay
everywhere, so the lazy form says so in its name.

L2 here means the touched rows: gradient + l2 · row, once per step for each distinct row, of leaves
that say they decay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ctr_jax.tables import gather
from ctr_jax.tables import leaf as leaf_lib


class RowOptimizer(NamedTuple):
  """How rows move.

  Attributes:
    slots: table leaf → {slot name: Leaf}, optimizer state with the table's rows. As leaves, so that
      their bytes, sharding and restore are derived as those of tables are.
    update: (rows, gradients, slot rows, learning-rate scale, step) → (rows, slot rows), all
      float32. `step` counts from 1.
    l2: added to the gradients as l2 · row before `update`.
  """

  slots: Callable[[leaf_lib.Leaf], dict[str, leaf_lib.Leaf]]
  update: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
  l2: float = 0.0


def _slot(leaf: leaf_lib.Leaf, per_row: bool, value: float = 0.0) -> leaf_lib.Leaf:
  return leaf_lib.Leaf(
    shape=leaf.shape[:1] if per_row else leaf.loaded.shape,
    axes=leaf.axes[:1] if per_row else leaf.axes,
    init=leaf_lib.constant(value),
  )


def sgd(learning_rate: float, l2: float = 0.0) -> RowOptimizer:
  """row ← row − lr · (g + l2 · row). Exact."""

  def update(rows, gradients, slots, scale, step):
    del step
    return rows - learning_rate * scale * gradients, slots

  return RowOptimizer(lambda leaf: {}, update, l2)


def adagrad(
  learning_rate: float,
  l2: float = 0.0,
  per: str = 'row',
  eps: float = 1e-8,
  initial: float = 0.0,
) -> RowOptimizer:
  """Adagrad (Duchi 2011): sum ← sum + g², row ← row − lr · g / (√sum + eps). Exact.

  Args:
    learning_rate: lr.
    l2: on the touched rows.
    per: 'element' keeps one sum for every element; 'row' one for every row, of the mean of g² over
      its columns, as FBGEMM's row-wise Adagrad: 4 bytes of state per row in place of 4 per element.
    eps: added to the root.
    initial: where the sums start.
  """
  if per not in ('row', 'element'):
    raise ValueError(f"adagrad keeps its sums per 'row' or per 'element', got {per!r}.")

  def update(rows, gradients, slots, scale, step):
    del step
    squares = jnp.square(gradients)
    if per == 'row':
      columns = tuple(range(1, rows.ndim))
      total = slots['sum'] + (jnp.mean(squares, axis=columns) if columns else squares)
      spread = total.reshape(total.shape + (1,) * len(columns))
    else:
      total = spread = slots['sum'] + squares
    return rows - learning_rate * scale * gradients / (jnp.sqrt(spread) + eps), {'sum': total}

  return RowOptimizer(lambda leaf: {'sum': _slot(leaf, per == 'row', initial)}, update, l2)


def lazy_adam(
  learning_rate: float, l2: float = 0.0, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> RowOptimizer:
  """Adam on touched rows only: moments of untouched rows wait, as in torch's SparseAdam.

  Not the same algorithm as Adam, whose moments decay (and whose rows move) without a gradient.
  Bias is corrected by the global step.
  """

  def update(rows, gradients, slots, scale, step):
    mean = b1 * slots['mean'] + (1 - b1) * gradients
    square = b2 * slots['square'] + (1 - b2) * jnp.square(gradients)
    t = step.astype(jnp.float32)
    unbiased = jnp.sqrt(square / (1 - b2**t)) + eps
    rows = rows - learning_rate * scale * (mean / (1 - b1**t)) / unbiased
    return rows, {'mean': mean, 'square': square}

  return RowOptimizer(
    lambda leaf: {'mean': _slot(leaf, False), 'square': _slot(leaf, False)}, update, l2
  )


def apply(
  optimizer: RowOptimizer,
  leaf: leaf_lib.Leaf,
  array: jax.Array,
  slots: dict[str, jax.Array],
  unique: jax.Array,
  rows: jax.Array,
  gradients: jax.Array,
  *,
  scale: Any,
  step: jax.Array,
  key: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """One step on one array.

  Args:
    optimizer: how rows move.
    leaf: describes `array`.
    array: the table; donate it, or the scatter copies it.
    slots: its optimizer state.
    unique: int32 [n], ascending distinct rows; padding is out of range and is dropped.
    rows: float [n, ...], the loaded rows that the gradient was taken at.
    gradients: of rows' shape.
    scale: multiplies the learning rate.
    step: int32, counts from 1.
    key: for stochastic rounding in `leaf.store`.

  Returns:
    The new array and slots.
  """
  here = {name: gather.rows_of(x, unique) for name, x in slots.items()}
  moving, slope, rest = rows, gradients, None
  if leaf.fixed:
    moving, rest = rows[..., : -leaf.fixed], rows[..., -leaf.fixed :]
    slope = gradients[..., : -leaf.fixed]
  total = slope + optimizer.l2 * moving if leaf.decay and optimizer.l2 else slope
  new_rows, new_slots = optimizer.update(moving, total, here, scale, step)
  if leaf.fixed:
    new_rows = jnp.concatenate([new_rows, rest], axis=-1)

  def write(target, values):
    where = target.at[unique]
    return where.set(values, mode='drop', unique_indices=True, indices_are_sorted=True)

  array = write(array, leaf.stored(new_rows, key, slope))
  return array, {name: write(slots[name], new_slots[name]) for name in slots}
