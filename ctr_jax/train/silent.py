"""Tables that start from zero vectors, and still learn.

Where a net has no weights that could silence a new field (the sums of factorization machines), its
vectors are zero at first. A technique makes vectors of several arrays, and if all were zero none
would have a gradient: so as few are zero as suffice, vectors themselves before gates and weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax import predict
from ctr_jax.tables import gather
from ctr_jax.tables import leaf as leaf_lib

# Ids that are looked at: of a large table the first ones, and as many all over it.
_LOOKED_AT = 2048


def silenced(model: predict.Model, table: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
  """The arrays of one table as drawn, with zeros where its vectors become zero by them.

  Args:
    model: that knows the table.
    table: its name.
    arrays: path → array as before training.

  Raises:
    ValueError: vectors that are zero could not learn, or cannot be zero.
  """
  plan = {table: model.codec.plan[table]}
  flat = leaf_lib.flatten(plan)
  ids = _some(model.rows[table])
  address = model.codec.address({table: ids})
  rows = leaf_lib.flatten(gather.gather(plan, leaf_lib.unflatten(plan, arrays), address))
  drawn = {path: x for path, x in rows.items() if _learns(flat[path])}

  def decode(some):
    found = leaf_lib.unflatten(plan, rows | some)
    return model.codec.decode(found, train=False)[table]

  def is_silent(zero):
    return not np.any(decode({path: _zeros(flat[path], drawn[path]) for path in zero}))

  zero = set(drawn)
  if not is_silent(zero):
    raise ValueError(
      'it cannot start from zero vectors: none of what is stored for it makes '
      'them so by being zero. Store it in another way at first, and exchange that later.'
    )
  for path in sorted(drawn, key=lambda path: (flat[path].is_table, path)):
    if is_silent(zero - {path}):
      zero.remove(path)
  _can_learn(table, decode, {path: _zeros(flat[path], drawn[path]) for path in zero})
  return {path: _silent(flat[path], x) if path in zero else x for path, x in arrays.items()}


def _learns(leaf):
  return not leaf.frozen and jnp.issubdtype(leaf.loaded.dtype, jnp.floating)


def _some(rows):
  """Ids of every part of a table."""
  far = np.linspace(0, rows - 1, min(rows, _LOOKED_AT)).astype(np.int32)
  return np.unique(np.concatenate([np.arange(min(rows, _LOOKED_AT), dtype=np.int32), far]))


def _zeros(leaf, loaded):
  """Loaded rows that are zero, but for what no optimizer moves."""
  width = loaded.shape[-1] - leaf.fixed
  return loaded.at[..., :width].set(0)


def _silent(leaf, array):
  return leaf.stored(_zeros(leaf, leaf.load(jnp.asarray(array))))


def _can_learn(table, decode, zero):
  """Refuses if something that is zero has no gradient."""
  shape = decode(zero).shape
  slope = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
  gradients = jax.grad(lambda some: jnp.sum(decode(some) * slope))(zero)
  dead = sorted(path for path, x in gradients.items() if not np.any(x))
  if dead:
    raise ValueError(
      f'it cannot start from zero vectors: {", ".join(dead)} would have no gradient '
      'and stay zero. Store it in another way at first, and exchange that later.'
    )
