"""Rows that are given to another value: vectors and optimizer state as before the first step.

What a row has learned of a value says nothing of the next one. It is drawn as the table was, with a
key of its own for each day, and its optimizer's slots start where they started.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax import predict
from ctr_jax.tables import leaf as leaf_lib
from ctr_jax.train import state as state_lib


def rows(
  model: predict.Model,
  recipe: state_lib.Recipe,
  state: state_lib.State,
  given: Mapping[str, np.ndarray],
  day: int,
) -> state_lib.State:
  """The state with some rows of some tables as before the first step; the others have their bits.

  Args:
    model: on one device.
    recipe: with a row optimizer.
    state: its arrays are not donated.
    given: table → int32 row numbers. A table that the model drops has no rows to make.
    day: of the draw: the same rows on another day are drawn otherwise.

  Raises:
    ValueError: a row outside of its table, or a table whose values have no rows of their own.
  """
  key = jax.random.fold_in(jax.random.key(state.seed), day)
  tables, slots = dict(state.tables), dict(state.slots)
  for table, numbers in given.items():
    dropped = table in model.codec.plan and not leaf_lib.flatten(model.codec.plan[table])
    if len(numbers) and not dropped:
      name, at, leaf = _where(model, recipe, table, np.asarray(numbers))
      own = leaf_lib.path_key(key, f'{table}/anew')
      tables[name] = _written(tables[name], at, leaf, own)
      described = recipe.rows.slots(leaf)
      slots[name] = {s: _written(slots[name][s], at, x, own) for s, x in described.items()}
  return state._replace(tables=tables, slots=slots)


def _where(model, recipe, table, numbers):
  """(array, int32 places in it padded with one that is out of range, the table's leaf)."""
  place = model.layout.place.get(table)
  leaf = model.layout.leaves.get(table)
  if leaf is None or not leaf.is_table or place.array not in state_lib.by_rows(model, recipe):
    raise ValueError(
      f'Rows of table {table!r} cannot be made anew: its rule stores no row for each value, or it '
      'is not trained by rows. Give tables that admit values `identity` and a row optimizer.'
    )
  if place.lanes != 1:
    raise ValueError(f'Table {table!r} lies on a mesh; rows are made anew on one device only.')
  if numbers.min() < 0 or numbers.max() >= leaf.rows:
    raise ValueError(
      f'Table {table!r} has {leaf.rows} rows, and row {numbers.max()} was given to a value: build '
      'the model for the capacity that values are admitted to.'
    )
  size = 1 << (len(numbers) - 1).bit_length()  # Few sizes, so that few programs are compiled.
  at = np.full(size, model.layout.arrays[place.array].rows, np.int32)
  at[: len(numbers)] = place.offset + numbers
  return place.array, at, leaf


def _written(array, at, leaf, key):
  made = leaf.init(key, (len(at), *leaf.shape[1:]), leaf.dtype)
  return jnp.asarray(array).at[at].set(made.astype(array.dtype), mode='drop')
