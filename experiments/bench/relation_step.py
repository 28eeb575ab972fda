r"""A training step of the relational network beside that of other nets, and its layer by itself.

  python -m experiments.bench.relation_step
  python -m experiments.bench.relation_step --rounds=3 --steps=1      # a quick look

39 fields × dim 16 (Criteo's), 4 heads, MLP [400]*3 with batch norm and dropout, batch 4096. A step
is forward, backward into parameters and vectors, and Adam over the net; tables are left out, being
the same for all. Contestants take turns in one process; ratios are of CPU times of the same round,
since the machine may have other work. The bar is 1.5 times a step of DCNv2 with 3 cross layers.

What was tried for the pairs, CPU ms of forward and backward on two busy cores, layer by itself:

- Square of all products, triangle by a static gather, autodiff: 64 + 259. The gather's transpose is
  a scatter. The triangle by slices joined field by field: 89 + 2,268.
- Both sides gathered as vectors, product and sum: 186 + 452.
- A backward of its own, which gathers too and needs one product for both sides: 58 + 63; with the
  heads beside the fields in every array, so that nothing is transposed: 39 + 52. Kept.

For attention, 365 by softmax as it is and 335 with its division after the mixing; 250 are products.
FiBiNET's step was 8.7 times DCNv2's here: its MLP reads 23,712 columns.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags

from ctr_jax import models, predict
from ctr_jax.models import relation
from experiments import common, report

_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Turns of each contestant.')
_STEPS = flags.DEFINE_integer('steps', 2, 'Steps in a turn.')
_FIELDS = flags.DEFINE_integer('fields', 39, 'Fields of a sample.')
_DIM = flags.DEFINE_integer('dim', 16, 'Embedding dimension.')
_HEADS = flags.DEFINE_integer('heads', 4, 'Heads of the relation.')
_NET_BATCH = flags.DEFINE_integer('batch', 4096, 'Samples per step.')

_REFERENCE = 'DCNv2, 3 cross layers'


def nets() -> dict[str, Any]:
  """Name → net; the first is what ratios refer to."""
  heads = _HEADS.value
  deep = {'hidden': (400, 400, 400), 'dropout': 0.2}
  return {
    _REFERENCE: models.NETS['dcnv2'](cross_layers=3, **deep),
    'DNN': models.NETS['dnn'](**deep),
    'DNN, inner products': models.NETS['inner_product'](**deep),
    f'DNN, relation of {heads} heads': models.NETS['relation'](heads=heads, **deep),
    f'DNN, attentive relation of {heads} heads': models.NETS['relation'](
      heads=heads, mode='attentive', **deep
    ),
  }


def by_autodiff(vectors, matrices):
  """`relation.pairs` without its backward: the gather's transpose is a scatter."""
  fields = vectors.shape[1]
  i, j = np.triu_indices(fields, 1)
  square = jnp.einsum('bid,hde,bje->bijh', vectors, matrices, vectors)
  return square[:, i, j].reshape(len(vectors), -1)


def net_step(net) -> Callable[[], None]:
  """One training step of a net, with its state kept between calls."""
  key = jax.random.key(0)
  shape = (_NET_BATCH.value, _FIELDS.value, net.width(_DIM.value))
  vectors = 0.1 * jax.random.normal(key, shape)
  label = (jax.random.uniform(key, shape[:1]) < 0.3).astype(jnp.float32)
  variables = net.init({'params': key, 'dropout': key}, vectors[:2], train=False)
  tx = optax.adam(1e-3)

  def objective(params, vectors, stats, label, key):
    logit, update = net.apply(
      {'params': params, 'batch_stats': stats},
      vectors,
      train=True,
      rngs={'dropout': key},
      mutable=['batch_stats'],
    )
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logit, label)), update['batch_stats']

  def step(params, opt, stats, count, vectors, label):
    gradient = jax.grad(objective, argnums=(0, 1), has_aux=True)
    found, stats = gradient(params, vectors, stats, label, jax.random.fold_in(key, count))
    updates, opt = tx.update(found[0], opt)
    return (optax.apply_updates(params, updates), opt, stats, count + 1), found[1]

  step = jax.jit(step, donate_argnums=(0, 1, 2), compiler_options=predict.compiler_options())
  params = variables['params']
  state = (params, tx.init(params), variables['batch_stats'], jnp.int32(0))

  def run():
    nonlocal state
    state, moved = step(*state, vectors, label)
    jax.block_until_ready((state, moved))

  return run


def layer_step(function) -> Callable[[], None]:
  """Forward and backward of the pairs alone."""
  keys = jax.random.split(jax.random.key(0), 3)
  vectors = jax.random.normal(keys[0], (_NET_BATCH.value, _FIELDS.value, _DIM.value))
  matrices = jax.random.normal(keys[1], (_HEADS.value, _DIM.value, _DIM.value))
  matrices = matrices + matrices.transpose(0, 2, 1)
  columns = _FIELDS.value * (_FIELDS.value - 1) // 2 * _HEADS.value
  weight = jax.random.normal(keys[2], (_NET_BATCH.value, columns))

  def both(vectors, matrices, weight):
    y, back = jax.vjp(function, vectors, matrices)
    return y, back(weight)

  both = jax.jit(both, compiler_options=predict.compiler_options())
  return lambda: jax.block_until_ready(both(vectors, matrices, weight))


def measure() -> list[dict[str, Any]]:
  """Milliseconds per step of every contestant, wall and CPU, by turn."""
  runs = {name: net_step(net) for name, net in nets().items()}
  runs |= {
    'the layer: relation.pairs': layer_step(relation.pairs),
    'the layer, by autodiff': layer_step(by_autodiff),
  }
  turns = {name: [] for name in runs}
  for turn in range(_ROUNDS.value + 1):  # The first one compiles.
    for name, run in runs.items():
      run()  # Wakes what slept through the others' turns.
      wall, cpu = time.perf_counter(), time.process_time()
      for _ in range(_STEPS.value):
        run()
      found = time.perf_counter() - wall, time.process_time() - cpu
      if turn:
        turns[name].append([1e3 * x / _STEPS.value for x in found])
  return [
    {
      'name': name,
      'wall_ms': statistics.median(x[0] for x in found),
      'cpu_ms': statistics.median(x[1] for x in found),
      'of_reference': statistics.median(
        x[1] / y[1] for x, y in zip(found, turns[_REFERENCE], strict=True)
      ),
      'turns': found,
    }
    for name, found in turns.items()
  ]


def render(rows: list[dict[str, Any]]) -> str:
  cells = [
    (x['name'], f'{x["wall_ms"]:.0f}', f'{x["cpu_ms"]:.0f}', f'{x["of_reference"]:.2f}')
    for x in rows
  ]
  return report.table(('training step', 'wall ms', 'CPU ms', f'of {_REFERENCE}'), cells)


def main() -> None:
  rows, where = measure(), common.environment()
  table = render(rows)
  caption = (
    f'{_FIELDS.value} fields × dim {_DIM.value}, batch {_NET_BATCH.value}, MLP [400]*3; medians of '
    f'{_ROUNDS.value} interleaved turns of {_STEPS.value} steps, ratios of CPU times; '
    f'{where["device"]}, {where["cpu_cores"]} cores, load average {where["load_average"]:.1f}, '
    f'jax {where["jax"]}, {where["date"]}. `{common.command("bench.relation_step")}`'
  )
  print(f'{table}\n\n{caption}')
  found = {
    'command': common.command('bench.relation_step'), 'environment': where, 'rows': rows,
    'table': table, 'caption': caption,
  }  # fmt: skip
  common.save_bench('relation_step', found)


if __name__ == '__main__':
  common.run(main)
