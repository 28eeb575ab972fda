"""The state of a training run: every array that a step changes, and nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctr_jax import predict
from ctr_jax.tables import leaf as leaf_lib
from ctr_jax.tables import rowwise, stack


class Recipe(NamedTuple):
  """How a model learns.

  Attributes:
    tx: optax transform over {'net': params, 'tables': {array: ...}}: the net, the small leaves that
      are read whole, and in dense mode every table.
    rows: how gathered rows move; None is the dense mode, in which `tx` moves whole tables.
  """

  tx: optax.GradientTransformation
  rows: rowwise.RowOptimizer | None = None


class State(NamedTuple):
  """Everything that a step changes; donated to it.

  Attributes:
    step: int32, steps taken.
    seed: uint32; every random draw of a step is a function of (seed, step).
    scale: float32, multiplies every learning rate (the plateau schedule).
    tables: physical array name → array.
    slots: physical array name → {slot: array}, of the row optimizer.
    net: {'params': ..., 'batch_stats': ...}.
    opt: of `Recipe.tx`.
  """

  step: jax.Array
  seed: jax.Array
  scale: jax.Array
  tables: dict[str, jax.Array]
  slots: dict[str, dict[str, jax.Array]]
  net: dict[str, Any]
  opt: Any


def by_rows(model: predict.Model, recipe: Recipe) -> tuple[str, ...]:
  """The arrays that the row optimizer moves."""
  if recipe.rows is None:
    return ()
  return tuple(n for n, x in model.layout.arrays.items() if x.by_row and not x.frozen)


def dense(model: predict.Model, recipe: Recipe) -> tuple[str, ...]:
  """The arrays that `recipe.tx` moves, beside the net."""
  sparse = by_rows(model, recipe)
  names = [n for n, x in model.layout.arrays.items() if not x.frozen and n not in sparse]
  for name in names:
    dtype = model.layout.arrays[name].dtype
    if not jnp.issubdtype(dtype, jnp.floating):
      raise ValueError(
        f'Array {name!r} is trained as it is stored ({jnp.dtype(dtype).name} codes), which only a '
        'row optimizer can do: give the recipe one in place of the dense mode.'
      )
    if model.layout.arrays[name].store is not None:
      raise ValueError(
        f'Array {name!r} is rounded in a way of its own when its rows are written, which only a '
        "row optimizer does: give the recipe one in place of the dense mode, or cast to 'nearest'."
      )
  return tuple(names)


def dense_params(model: predict.Model, recipe: Recipe, tables, net) -> dict[str, Any]:
  """What `recipe.tx` sees."""
  return {'net': net['params'], 'tables': {n: tables[n] for n in dense(model, recipe)}}


def drawn(model: predict.Model, key: jax.Array) -> dict[str, jax.Array]:
  """The tables before the first step."""
  leaves = {
    path: leaf.init(leaf_lib.path_key(key, path), leaf.shape, leaf.dtype)
    for path, leaf in model.layout.leaves.items()
  }
  return stack.pack(model.layout, leaves)


def init(model: predict.Model, recipe: Recipe, seed: int, draw=drawn) -> State:
  """The state before the first step, a function of the seed alone. For jit or `eval_shape`.

  Args:
    model: what learns.
    recipe: how.
    seed: an integer.
    draw: (model, key) → the tables, if they are not drawn as a whole.
  """
  key = jax.random.key(seed)
  tables = draw(model, key)
  slots = {}
  for name in by_rows(model, recipe):
    described = recipe.rows.slots(model.layout.arrays[name])
    slots[name] = {s: x.init(key, x.shape, x.dtype) for s, x in described.items()}
  net = predict.init_net(model, leaf_lib.path_key(key, 'net'))
  return State(
    step=jnp.int32(0),
    seed=jnp.uint32(seed),
    scale=jnp.float32(1),
    tables=tables,
    slots=slots,
    net=net,
    opt=recipe.tx.init(dense_params(model, recipe, tables, net)),
  )


def create(model: predict.Model, recipe: Recipe, seed: int) -> State:
  """`init`, compiled: every array is made where it stays."""
  return jax.jit(lambda: init(model, recipe, seed))()


def tx_bytes(model: predict.Model, recipe: Recipe) -> int:
  """Bytes of `recipe.tx`'s state for tables: those that are read whole, in dense mode all."""

  def nbytes(tables):
    net = jax.eval_shape(lambda: predict.init_net(model, jax.random.key(0)))
    found = jax.eval_shape(recipe.tx.init, {'net': net['params'], 'tables': tables})
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(found))

  tables = {n: model.layout.arrays[n].struct for n in dense(model, recipe)}
  return nbytes(tables) - nbytes({})


def slot_leaves(model: predict.Model, recipe: Recipe) -> dict[str, dict[str, leaf_lib.Leaf]]:
  """The leaves of the row optimizer's state, for reports of bytes."""
  arrays = model.layout.arrays
  return {name: recipe.rows.slots(arrays[name]) for name in by_rows(model, recipe)}
