"""The DCN's training step in JAX, ours and of Flax's own layers, for experiments.bench.net_step."""

import itertools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctr_jax import models


class Recipe(NamedTuple):
  """BARS, DCN_frappe_x1. Rows as in Frappe, with a row 0 for the unseen."""

  rows: tuple[int, ...] = (958, 4083, 8, 8, 3, 10, 3, 10, 81, 226)
  dim: int = 10
  batch: int = 4096
  hidden: tuple[int, ...] = (400, 400, 400)
  cross: int = 3
  dropout: float = 0.2
  learning_rate: float = 1e-3
  l2: float = 0.05
  clip: float = 10.0


class StockDCN(nn.Module):
  """The same net of Flax's own layers: nn.BatchNorm, nn.Dropout (threefry), autodiff."""

  recipe: Recipe

  @nn.compact
  def __call__(self, vectors, *, train):
    x = vectors.reshape(vectors.shape[0], -1)
    cross = x
    for i in range(self.recipe.cross):
      bias = self.param(f'bias_{i}', nn.initializers.zeros, (x.shape[1],))
      cross = x * nn.Dense(1, use_bias=False)(cross) + bias + cross
    for units in self.recipe.hidden:
      x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(units)(x)))
      x = nn.Dropout(self.recipe.dropout, deterministic=not train)(x)
    return nn.Dense(1)(jnp.concatenate([cross, x], 1))[:, 0]


def start(net, recipe):
  """(parameters, batch statistics) of the net and of a plain dict of tables."""
  fields = len(recipe.rows)
  rngs = {'params': jax.random.key(0), 'dropout': jax.random.key(1)}
  variables = net.init(rngs, jnp.zeros((2, fields, recipe.dim)), train=True)
  keys = jax.random.split(jax.random.key(2), fields)
  shapes = [(n, recipe.dim) for n in recipe.rows]
  tables = [1e-4 * jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]
  return {'net': variables['params'], 'tables': tables}, variables.get('batch_stats', {})


def trainer(net, recipe):
  """(state, step): step(state, (ids, label)) -> (state, loss), to be jitted."""
  tx = optax.chain(optax.clip_by_global_norm(recipe.clip), optax.adam(recipe.learning_rate))
  params, stats = start(net, recipe)

  def objective(params, stats, ids, label, key):
    tables = params['tables']
    vectors = jnp.stack([table[ids[:, i]] for i, table in enumerate(tables)], axis=1)
    variables = {'params': params['net'], 'batch_stats': stats}
    logit, update = net.apply(
      variables, vectors, train=True, rngs={'dropout': key}, mutable=['batch_stats']
    )
    penalty = recipe.l2 / 2 * sum(jnp.sum(jnp.square(table)) for table in tables)
    loss = jnp.mean(optax.sigmoid_binary_cross_entropy(logit, label))
    return loss + penalty, update['batch_stats']

  def step(state, batch):
    params, stats, opt, count = state
    key = jax.random.fold_in(jax.random.key(3), count)
    gradient = jax.value_and_grad(objective, has_aux=True)
    (loss, stats), gradients = gradient(params, stats, *batch, key)
    updates, opt = tx.update(gradients, opt, params)
    return (optax.apply_updates(params, updates), stats, opt, count + 1), loss

  return (params, stats, tx.init(params), jnp.int32(0)), step


def jax_dcn(recipe, batches, net=None, steps_per_call=1, options=None):
  """`run(steps)` of our DCN, jitted and donated."""
  net = net or models.NETS['dcn'](
    hidden=recipe.hidden, dropout=recipe.dropout, cross_layers=recipe.cross
  )
  state, step = trainer(net, recipe)
  if steps_per_call > 1:
    one = step
    step = lambda state, stacked: jax.lax.scan(one, state, stacked)  # noqa: E731
    batches = [tuple(map(np.stack, zip(*batches[:steps_per_call], strict=True)))]
  step = jax.jit(step, donate_argnums=0, compiler_options=options)
  forever = itertools.cycle(batches)

  def run(steps):
    nonlocal state
    for _ in range(max(1, steps // steps_per_call)):
      state, loss = step(state, next(forever))
    jax.block_until_ready(loss)

  return run


def products(recipe, batches, options=None):
  """The nine large matrix products of a step and nothing else: what no step can beat."""
  del batches
  widths = (len(recipe.rows) * recipe.dim, *recipe.hidden)
  kernels = [jnp.full((a, b), 1e-3) for a, b in itertools.pairwise(widths)]
  x = jnp.ones((recipe.batch, widths[0]))

  def step(kernels, x):
    inputs, gradients = [x], []
    for kernel in kernels:
      inputs.append(inputs[-1] @ kernel)
    y = inputs.pop()
    for kernel, x in zip(reversed(kernels), reversed(inputs), strict=True):
      gradients.append(x.T @ y)
      y = y @ kernel.T
    return y, gradients

  step = jax.jit(step, compiler_options=options)

  def run(steps):
    for _ in range(steps):
      done = step(kernels, x)
    jax.block_until_ready(done)

  return run
