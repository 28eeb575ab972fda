"""One training step: forward, gradients, optimizer. Pure; jitted once; the state is donated.

In row-sparse mode the gradient is taken with respect to the distinct rows of the batch, so no array
of a table's size is made and a step costs the same for any number of rows. In dense mode it is
taken with respect to the tables, for parity with published recipes and for tables so small that it
is faster.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctr_jax import predict
from ctr_jax.tables import gather, rowwise, stack
from ctr_jax.train import state as state_lib


class Batch(NamedTuple):
  """What a step takes.

  Attributes:
    label: float32 [batch], 0 or 1.
    index: path → int32; for arrays that are trained by rows an index into `unique`, else into the
      array itself.
    unique: array → int32 [capacity], its distinct rows in this batch (see `gather.deduplicate`).
    values: as `predict.Inputs.values`.
  """

  label: Any
  index: dict[str, Any]
  unique: dict[str, Any]
  values: dict[str, Any]


def batch(
  model: predict.Model, recipe: state_lib.Recipe, columns: Mapping[str, Any], fetched=None
) -> Batch:
  """Columns of a batch → what a step takes. NumPy, for the prefetch thread."""
  return batch_of(model, state_lib.by_rows(model, recipe), columns, fetched)


def batch_of(
  model: predict.Model, names: Iterable[str], columns: Mapping[str, Any], fetched=None
) -> Batch:
  """`batch`, with the reads of the arrays `names` told by their distinct rows."""
  index, values = predict.inputs(model, columns, fetched)
  names = set(names)
  reads = {p: x for p, x in index.items() if model.layout.place[p].array in names}
  unique, inverse = stack.deduplicate(model.layout, reads)
  return Batch(columns['label'], index | inverse, unique, values)


def read(model, tables, rows, index) -> dict[str, jax.Array]:
  """Path → loaded rows of every read: of the distinct rows where there are any, else of tables."""
  found = {}
  for path, leaf in model.layout.leaves.items():
    name = model.layout.place[path].array
    if name in rows:
      found[path] = rows[name][index[path]]
    elif leaf.by_row:
      found[path] = leaf.load(tables[name].at[index[path]].get(mode='clip'))
    else:
      found[path] = leaf.load(tables[name])
  return found


def loss(model, recipe, params, rows, state, inputs: Batch, rng):
  """Mean binary cross-entropy of a batch with penalties; without them; new batch statistics."""
  found = read(model, state.tables | params['tables'], rows, inputs.index)
  variables = state.net | {'params': params['net']}
  logit, batch_stats = predict.logits(
    model, variables, found, inputs.values, train=True, rng=rng, step=state.step
  )
  objective = jnp.mean(optax.sigmoid_binary_cross_entropy(logit, inputs.label))
  return objective + predict.penalty(model, found, step=state.step), (objective, batch_stats)


def step(model, recipe, state: state_lib.State, inputs: Batch):
  """(state, batch) → (state, {'loss': float32})."""
  count = state.step + 1
  key = jax.random.fold_in(jax.random.key(state.seed), count)
  net_key, store_key = jax.random.split(key)
  params = state_lib.dense_params(model, recipe, state.tables, state.net)
  sparse = state_lib.by_rows(model, recipe)
  arrays = model.layout.arrays
  rows = {
    n: arrays[n].load(gather.rows_of(state.tables[n], inputs.unique[n])) for n in inputs.unique
  }

  def objective(params, rows):
    return loss(model, recipe, params, rows, state, inputs, net_key)

  (_, (value, batch_stats)), (gradients, row_gradients) = jax.value_and_grad(
    objective, argnums=(0, 1), has_aux=True
  )(params, rows)

  params, opt = descended(recipe, state, gradients, params)
  tables, slots = state.tables | params['tables'], dict(state.slots)
  for i, name in enumerate(sparse):
    tables[name], slots[name] = rowwise.apply(
      recipe.rows,
      arrays[name],
      tables[name],
      slots[name],
      inputs.unique[name],
      rows[name],
      row_gradients[name],
      scale=state.scale,
      step=count,
      key=jax.random.fold_in(store_key, i),
    )
  net = net_of(state, params, batch_stats)
  return state._replace(step=count, tables=tables, slots=slots, net=net, opt=opt), {'loss': value}


def descended(recipe, state, gradients, params):
  """What `recipe.tx` moves, and its state, after one step."""
  # optax raises floats to its int32 count of steps, which strict promotion refuses.
  with jax.numpy_dtype_promotion('standard'):
    updates, opt = recipe.tx.update(gradients, state.opt, params)
  return optax.apply_updates(params, jax.tree.map(lambda u: u * state.scale, updates)), opt


def net_of(state, params, batch_stats):
  """The net's variables after a step."""
  net = state.net | {'params': params['net']}
  return net | {'batch_stats': batch_stats} if batch_stats else net


def compiled(model: predict.Model, recipe: state_lib.Recipe):
  """`step` for this model, jitted, its state donated."""

  def train_step(state, inputs):
    return step(model, recipe, state, inputs)

  return jax.jit(train_step, donate_argnums=0, compiler_options=predict.compiler_options())


class Program(NamedTuple):
  """What a training loop needs to know of a model and its recipe, wherever they run.

  Attributes:
    create: seed → the state before the first step.
    like: () → the state's shapes, and where its arrays lie: what checkpoints are restored into.
    batch: columns of this process's part of a batch, and for tables on the host what was fetched of
      them (`predict.inputs`) → what `step` takes.
    step: (state, batch) → (state, metrics); jitted, the state donated.
    scorer: for evaluation.
    host: the number of this process.
    hosts: how many there are.
  """

  create: Callable[[int], state_lib.State]
  like: Callable[[], state_lib.State]
  batch: Callable[..., Any]
  step: Callable[..., Any]
  scorer: predict.Scorer
  host: int = 0
  hosts: int = 1


def program(model: predict.Model, recipe: state_lib.Recipe) -> Program:
  """On one device."""
  return Program(
    functools.partial(state_lib.create, model, recipe),
    lambda: jax.eval_shape(lambda: state_lib.init(model, recipe, 0)),
    functools.partial(batch, model, recipe),
    compiled(model, recipe),
    predict.scorer(model),
  )


def l2_on_tables(l2: float, model: predict.Model | None = None) -> optax.GradientTransformation:
  """Adds l2 · table to the gradients of the tables that `tx` moves: the loss term (l2/2)·‖E‖².

  First in the chain, so that clipping and the optimizer see the whole gradient, as in the published
  recipes. With a model, leaves that are no vectors (`Leaf.decay`) are left out.
  """

  def mask(params):
    arrays = model.layout.arrays if model else {}
    tables = {n: n not in arrays or arrays[n].decay for n in params['tables']}
    return {'net': False, 'tables': tables}

  return optax.add_decayed_weights(l2, mask=mask)


def is_finite(metrics: Mapping[str, Any]) -> bool:
  return bool(np.isfinite(metrics['loss']))
