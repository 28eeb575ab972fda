"""Training and scoring on a mesh of devices: the same model, its samples and tables split.

Samples are split over all devices. Between the gather and the vectors each device works on its own
samples (`shard_map`, with the exchange of `tables.sharded`); the net and the loss are those of the
whole batch, partitioned by the compiler, so that batch norms and dropout are what they would be on
one device, and gradients of the net are added up by the compiler.

Meshes have Auto axes: with Explicit ones (the default of `jax.make_mesh`) types of arrays say how
they are split, and every net would have to.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ctr_jax import predict
from ctr_jax.tables import leaf as leaf_lib
from ctr_jax.tables import placement, sharded, stack
from ctr_jax.train import hosted
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib


class Cluster(NamedTuple):
  """A mesh, and what lies on it.

  Attributes:
    mesh: with the axes of `placement.AXES`.
    rules: where arrays lie.
    lanes: hands that rows are dealt to.
    slack: room in a bucket, as a multiple of an even share of a batch's reads.
  """

  mesh: jax.sharding.Mesh
  rules: placement.Rules = placement.DEFAULT
  lanes: int = placement.LANES
  slack: float = 1.25

  def layout(self, plan: Any) -> stack.Layout:
    """For `predict.build(layout=...)`: whatever the mesh, if the rules are the same."""
    return placement.dealt(plan, self.rules, self.lanes)


def make(data: int, model: int, devices=None) -> jax.sharding.Mesh:
  """A mesh of data × model devices: of all processes, if not given."""
  auto = (jax.sharding.AxisType.Auto,) * len(placement.AXES)
  found = jax.devices() if devices is None else devices
  if data * model > len(found):
    raise ValueError(
      f'A mesh of {data}×{model} needs {data * model} devices, there are {len(found)}.'
    )
  if found[0].platform == 'cpu' and data * model > 1:
    # XLA's CPU programs from this cache do not keep their collectives in order: devices then wait
    # for each other for ever, most of all those of which one has the cache and another has not.
    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()
  return jax.make_mesh((data, model), placement.AXES, auto, devices=found[: data * model])


class _On:
  """A model on a cluster: what its functions share."""

  def __init__(self, cluster: Cluster, model: predict.Model, recipe: state_lib.Recipe | None):
    self.mesh, self.model, self.recipe, self.slack = cluster.mesh, model, recipe, cluster.slack
    self.every = P(cluster.mesh.axis_names)
    self.platform = cluster.mesh.devices.flat[0].platform
    self.arrays = model.layout.arrays
    self.lies = placement.lies(model.layout, cluster.rules, dict(cluster.mesh.shape))
    moved = state_lib.by_rows(model, recipe) if recipe else ()
    split = {n for n, lie in self.lies.items() if lie.split != 'nothing'}
    self.pulled = tuple(n for n in self.arrays if n in split or n in moved)
    self.pushed = tuple(moved)
    self._refuse(split)

  def _refuse(self, split):
    if self.recipe is None:
      return
    dense = split & set(state_lib.dense(self.model, self.recipe))
    if dense:
      raise ValueError(
        f'{sorted(dense)}: tables that are split need a row optimizer; in the dense mode every '
        'device holds all tables (placement.replicated()).'
      )
    for name in self.pushed:
      slots = self.recipe.rows.slots(self.arrays[name])
      whole = [s for s, x in slots.items() if x.axes != self.arrays[name].axes]
      if self.lies[name].split == 'columns' and whole:
        raise ValueError(
          f'Array {name!r} is split by columns, and its optimizer keeps {whole} for whole rows: '
          "use adagrad(per='element'), or split it by rows."
        )

  def spec(self, name: str) -> P:
    """Of one array, and of its slots."""
    split, over, _, _ = self.lies[name]
    return {'nothing': P(), 'rows': P(over), 'columns': P(None, over)}[split]

  def specs(self, names) -> dict[str, P]:
    return {n: self.spec(n) for n in names}

  def map(self, function, in_specs, out_specs):
    return jax.shard_map(
      function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )

  def bucket(self, name: str, reads: int) -> int:
    lie = self.lies[name]
    return sharded.capacity(reads, lie.parts, self.slack) if lie.split == 'rows' else reads

  def pull(self, tables, unique):
    """The distinct rows that each device reads, loaded, [devices, n, ...]; and how they went."""

    def local(tables, unique):
      rows, plans = {}, {}
      for name, (ids,) in unique.items():
        total, lie, size = self.arrays[name].rows, self.lies[name], self.bucket(name, len(ids))
        plan = sharded.plan(ids, total, lie, size)
        found = sharded.fetch(tables[name], ids, total, lie, plan, size)
        rows[name] = self.arrays[name].load(found)[None]
        plans[name] = jax.tree.map(lambda x: x[None], plan)
      return rows, plans

    found = self.map(local, (self.specs(unique), self.every), self.every)
    return found({n: tables[n] for n in unique}, unique)

  def vectors(self, rows, tables, index, values, key=None, step=None):
    """Vectors of all samples [batch, fields, width], and each device's penalty [devices]."""
    train = key is not None

    def local(rows, tables, index, values, key, step):
      rng = jax.random.fold_in(key, jax.lax.axis_index(self.mesh.axis_names)) if train else None
      rows, index = jax.tree.map(lambda x: x[0], (rows, index))
      found = step_lib.read(self.model, tables, rows, index)
      vectors = predict.vectors(self.model, found, values, train=train, rng=rng, step=step)
      penalty = predict.penalty(self.model, found, step=step) if train else 0
      return vectors, jnp.asarray(penalty, jnp.float32)[None]

    specs = (self.every, P(), self.every, self.every, P(), P())
    return self.map(local, specs, self.every)(rows, tables, index, values, key, step)

  def push(self, state, unique, slopes, plans, count, key):
    """Tables and slots after the owners' steps."""

    def local(tables, slots, unique, slopes, plans, scale, count, key):
      tables, slots = dict(tables), dict(slots)
      for i, name in enumerate(self.pushed):
        ids, plan = unique[name][0], jax.tree.map(lambda x: x[0], plans[name])
        tables[name], slots[name] = sharded.update(
          self.recipe.rows, self.arrays[name], tables[name], slots[name], ids, slopes[name][0],
          self.lies[name], plan, self.bucket(name, len(ids)), scale=scale, step=count,
          key=jax.random.fold_in(key, i),
        )  # fmt: skip
      return tables, slots

    lie = self.specs(self.pushed)
    own = (lie, {n: dict.fromkeys(state.slots[n], lie[n]) for n in self.pushed})
    found = self.map(local, (*own, *[self.every] * 3, *[P()] * 3), own)
    tables = {n: state.tables[n] for n in self.pushed}
    ids = {n: unique[n] for n in self.pushed}
    plans = {n: plans[n] for n in self.pushed}
    return found(tables, state.slots, ids, slopes, plans, state.scale, count, key)


def shardings(cluster: Cluster, model: predict.Model, recipe: state_lib.Recipe) -> state_lib.State:
  """Where each array of a state lies: a `NamedSharding` for each."""
  on = _On(cluster, model, recipe)
  like = jax.eval_shape(lambda: state_lib.init(model, recipe, 0))
  whole = jax.tree.map(lambda _: NamedSharding(on.mesh, P()), like)
  tables = {n: NamedSharding(on.mesh, on.spec(n)) for n in like.tables}
  slots = {n: dict.fromkeys(x, tables[n]) for n, x in like.slots.items()}
  return whole._replace(tables=tables, slots=slots)


def like(cluster: Cluster, model: predict.Model, recipe: state_lib.Recipe) -> state_lib.State:
  """What a state looks like, and where it lies: what checkpoints are restored into."""
  shapes = jax.eval_shape(lambda: state_lib.init(model, recipe, 0))
  where = shardings(cluster, model, recipe)
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, where
  )


def create(
  cluster: Cluster, model: predict.Model, recipe: state_lib.Recipe, seed: int
) -> state_lib.State:
  """`state.init`, each device making its own part: the same numbers on any mesh."""
  on = _On(cluster, model, recipe)
  place = {p.array: p for p in model.layout.place.values()}

  def split(name, key):
    """Rows that are kept by their owners alone, who draw them all, block by block."""
    leaf, array, lie = model.layout.leaves[name], on.arrays[name], on.lies[name]
    share = array.rows // lie.parts

    def local(key):
      def where(ids):
        at = stack.shifted(ids, place[name], array.rows) - share * jax.lax.axis_index(lie.over)
        return jnp.where((at >= 0) & (at < share), at, share)

      return leaf.init.here(key, leaf.shape, leaf.dtype, share, where)

    return on.map(local, P(), on.spec(name))(key)

  def draw(model, key):
    own = {
      n: split(n, leaf_lib.path_key(key, n))
      for n, lie in on.lies.items()
      if lie.split == 'rows' and isinstance(model.layout.leaves[n].init, leaf_lib.InBlocks)
    }
    layout = model.layout._replace(
      leaves={p: x for p, x in model.layout.leaves.items() if p not in own}
    )
    return state_lib.drawn(model._replace(layout=layout), key) | own

  def init():
    return state_lib.init(model, recipe, seed, draw)

  return jax.jit(init, out_shardings=shardings(cluster, model, recipe))()


def placed(
  cluster: Cluster, model: predict.Model, recipe: state_lib.Recipe, state: state_lib.State
) -> state_lib.State:
  """A state whose arrays are whole on this process → the same on the mesh and on its host."""

  def put(x, where):
    if isinstance(x, jax.Array) and x.sharding == where:
      return x
    return jax.make_array_from_callback(x.shape, where, np.asarray(x).__getitem__)

  host = placement.on_host(model.layout, cluster.rules)
  where = shardings(cluster._replace(rules=placement.off_host(cluster.rules)), model, recipe)
  return hosted.placed(state, where, host, put)


def fetched(tree: Any) -> Any:
  """Arrays of a mesh → whole, on the first device of every process; others stay as they are."""

  def one(x):
    if isinstance(x, np.ndarray) or len(x.sharding.device_set) == 1:
      return x
    if x.is_fully_addressable:
      return jnp.asarray(np.asarray(x))
    return jnp.asarray(multihost_utils.process_allgather(x, tiled=True))

  return jax.tree.map(one, tree)


def _batch(on, columns, fetched=None):
  """Columns of this process's part of a batch → the whole batch, each device's part on it.

  Index and unique rows get a first axis of devices; label and values are of all samples in order.
  """
  here, size = len(on.mesh.local_devices), len(columns['label'])
  if size % here:
    raise ValueError(f'{size} samples cannot be split over {here} devices: use a multiple of it.')
  split = {n: np.split(x, here) for n, x in columns.items()}
  parts = [
    step_lib.batch_of(on.model, on.pulled, {n: x[i] for n, x in split.items()}, fetched)
    for i in range(here)
  ]
  whole = NamedSharding(on.mesh, on.every)

  def spread(x):
    return jax.make_array_from_process_local_data(whole, x)

  def joined(field, join):
    named = [getattr(part, field) for part in parts]
    return {n: spread(join([x[n] for x in named])) for n in named[0]}

  label = spread(np.concatenate([part.label for part in parts]))
  return step_lib.Batch(
    label, joined('index', np.stack), joined('unique', np.stack), joined('values', np.concatenate)
  )


def batch_like(
  cluster: Cluster, model: predict.Model, recipe: state_lib.Recipe, columns
) -> step_lib.Batch:
  """What a step takes, as shapes: `columns` are one device's part of a batch, as any other's."""
  on = _On(cluster, model, recipe)
  part, whole = step_lib.batch_of(model, on.pulled, columns), NamedSharding(on.mesh, on.every)

  def spread(x, *shape):
    return jax.ShapeDtypeStruct(shape, x.dtype, sharding=whole)

  def joined(x):
    return spread(x, on.mesh.size * x.shape[0], *x.shape[1:])

  own = jax.tree.map(lambda x: spread(x, on.mesh.size, *x.shape), (part.index, part.unique))
  return step_lib.Batch(joined(part.label), *own, jax.tree.map(joined, part.values))


def _step(on: _On, state: state_lib.State, inputs: step_lib.Batch):
  """(state, batch) → (state, metrics): `step.step` on a mesh.

  Beside the loss, metrics have for the arrays that are split by rows `overflow`, the rows that
  needed a second round, summed over devices, and `imbalance`, the requests that the busiest owner
  got over those of the mean.
  """
  model, recipe = on.model, on.recipe
  count = state.step + 1
  net_key, store_key = jax.random.split(jax.random.fold_in(jax.random.key(state.seed), count))
  params = state_lib.dense_params(model, recipe, state.tables, state.net)
  rows, plans = on.pull(state.tables, inputs.unique)
  rest = {n: x for n, x in state.tables.items() if n not in on.pulled}

  def objective(params, rows):
    tables = rest | params['tables']
    vectors, penalty = on.vectors(rows, tables, inputs.index, inputs.values, net_key, state.step)
    variables = state.net | {'params': params['net']}
    logit, batch_stats = predict.of_vectors(model, variables, vectors, train=True, rng=net_key)
    value = jnp.mean(optax.sigmoid_binary_cross_entropy(logit, inputs.label))
    return value + jnp.mean(penalty), (value, batch_stats)

  (_, (value, batch_stats)), (gradients, slopes) = jax.value_and_grad(
    objective, argnums=(0, 1), has_aux=True
  )(params, rows)
  params, opt = step_lib.descended(recipe, state, gradients, params)
  tables, slots = on.push(state, inputs.unique, slopes, plans, count, store_key)
  tables = state.tables | params['tables'] | tables
  net = step_lib.net_of(state, params, batch_stats)
  metrics = {'loss': value} | _traffic(on, plans)
  return state._replace(step=count, tables=tables, slots=slots, net=net, opt=opt), metrics


def _traffic(on, plans):
  split = [p for n, p in plans.items() if on.lies[n].split == 'rows']
  if not split:
    return {}
  received = sum(p.received for p in split).astype(jnp.float32)
  return {
    'overflow': sum(jnp.sum(p.overflow) for p in split),
    'imbalance': jnp.max(received) / jnp.maximum(jnp.mean(received), 1),
  }


def program(cluster: Cluster, model: predict.Model, recipe: state_lib.Recipe) -> step_lib.Program:
  """`step.program` on a cluster; the model was built with `layout=cluster.layout`.

  Raises:
    ValueError: an array cannot lie as the rules say, in words.
  """
  host = placement.on_host(model.layout, cluster.rules)
  if not host:
    return _program(cluster, model, recipe)
  inner = cluster._replace(rules=placement.off_host(cluster.rules))
  return hosted.program(model, recipe, host, lambda small: _program(inner, small, recipe))


def _program(cluster, model, recipe):
  on = _On(cluster, model, recipe)

  def train_step(state, inputs):
    return _step(on, state, inputs)

  where = shardings(cluster, model, recipe)
  jitted = jax.jit(
    train_step,
    donate_argnums=0,
    out_shardings=(where, NamedSharding(on.mesh, P())),
    compiler_options=predict.compiler_options(on.platform),
  )
  return step_lib.Program(
    functools.partial(create, cluster, model, recipe),
    lambda: like(cluster, model, recipe),
    functools.partial(_batch, on),
    jitted,
    scorer(cluster, model),
    jax.process_index(),
    jax.process_count(),
  )


def scorer(cluster: Cluster, model: predict.Model) -> predict.Scorer:
  """`predict.scorer` on a cluster: every process gets all logits."""
  on = _On(cluster, model, None)

  def prepare(columns, fetched=None):  # Nobody scores by the labels: any column does for them.
    return _batch(on, {'label': next(iter(columns.values())), **columns}, fetched)

  def score(arrays, net, inputs):
    rows, _ = on.pull(arrays, inputs.unique)
    rest = {n: x for n, x in arrays.items() if n not in on.pulled}
    vectors, _ = on.vectors(rows, rest, inputs.index, inputs.values)
    return predict.of_vectors(model, net, vectors)[0]

  where, options = NamedSharding(on.mesh, P()), predict.compiler_options(on.platform)
  jitted = jax.jit(score, out_shardings=where, compiler_options=options)
  return predict.Scorer(prepare, jitted, on.mesh.size, jax.process_index(), jax.process_count())
