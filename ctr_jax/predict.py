"""The one forward path: address, gather, decode, net. Training, evaluation and serving all use it.

`inputs` runs on the host (NumPy): it checks ids, flattens the features of each table into one list
of reads and addresses them. `logits` runs under jit. Between the two, whoever calls gathers: rows
straight from the tables (`gather_all`), or the distinct rows that a training step differentiates.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax import lists as lists_lib
from ctr_jax.compress import codec as codec_lib
from ctr_jax.data import schema as schema_lib
from ctr_jax.tables import leaf as leaf_lib
from ctr_jax.tables import stack


class Model(NamedTuple):
  """What turns a batch of columns into logits.

  Attributes:
    features: those whose tables are kept, in the schema's order; the net sees them in this order.
    rows: table → number of rows of the full table, for checking ids.
    codec: over `{table: ...}`.
    layout: where the leaves of the codec's plan live.
    net: a Flax module, vectors [batch, fields, width] → logit [batch].
    width: columns of a full table, `net.width(dim)`.
    rules: that the codec was bound by; none where they are not known.
  """

  features: tuple[schema_lib.Feature, ...]
  rows: Mapping[str, int]
  codec: codec_lib.Codec
  layout: stack.Layout
  net: Any
  width: int
  rules: codec_lib.Rules = ()

  @property
  def columns(self) -> tuple[str, ...]:
    """The sample columns that are read: those of the kept features."""
    return tuple(feature.name for feature in self.features)


class Inputs(NamedTuple):
  """A batch as the device sees it.

  Attributes:
    index: path of a stored leaf → int32 index into its physical array.
    values: feature → float32, for numeric features their value [batch], for multi-valued ones the
      mask [batch, width], or where their padding is left out `lists.Lists`; other features do not
      appear.
  """

  index: dict[str, np.ndarray]
  values: dict[str, np.ndarray | lists_lib.Lists]


def build(
  schema: schema_lib.Schema,
  rows: Mapping[str, int],
  rules: codec_lib.Rules,
  net: Any,
  dim: int,
  init: leaf_lib.Init | None = None,
  layout=stack.apart,
) -> Model:
  """Binds rules to the tables of a data set.

  Args:
    schema: of the sample.
    rows: table → number of rows, as the source gives it.
    rules: ordered (pattern, technique) pairs, see `compress.bind`. `('feature:NAME', drop())`
      leaves out one feature of a table that others read; a table that none reads is dropped.
    net: says how wide a row has to be for embeddings of `dim` (`net.width(dim)`).
    dim: embedding dimension.
    init: of the full tables; N(0, 1e-4²) if not given.
    layout: `stack.apart` or `stack.stacked`.
  """
  init = leaf_lib.normal(1e-4) if init is None else init
  width = net.width(dim)
  tables = {t: leaf_lib.Leaf((n, width), init=init) for t, n in rows.items()}
  wanted = [f for f in schema.features if not codec_lib.drops(f.name, rules)]
  unread = tables.keys() - {f.table for f in wanted}
  rules = [*((re.escape(t), codec_lib.drop()) for t in sorted(unread)), *rules]
  codec = codec_lib.bind(tables, rules)
  kept = tuple(f for f in wanted if leaf_lib.flatten(codec.plan[f.table]))
  if not kept:
    raise ValueError(
      f'The rules drop every feature of {schema.name!r}: nothing is left to learn from.'
    )
  return Model(kept, dict(rows), codec, layout(codec.plan), net, width, tuple(rules))


def _reads(feature, column, rows, flat):
  """A feature's column → (ids [batch], [batch, width] or [reads], values or None)."""
  if feature.kind == 'numeric':  # Row 1 times the value; row 0 stands for a missing one.
    missing = np.isnan(column)
    return (~missing).astype(np.int32), np.where(missing, 1, column).astype(np.float32)
  ids, mask = column, None
  found = flat(feature.name, column) if flat and feature.kind == 'ids' else None
  if found:
    ids, mask = found
  elif feature.kind == 'ids':
    present = column >= 0
    mask = present.astype(np.float32)
    # An empty list reads row 0, as every missing value does; padding reads the list's first row
    # again, so that it touches no row of its own.
    mask[:, 0] = 1
    first = np.where(column[:, :1] == -1, 0, column[:, :1])
    ids = np.where(column == -1, first, column)
  low, high = int(ids.min(initial=0)), int(ids.max(initial=0))
  if low < 0 or high >= rows:
    raise ValueError(
      f'Feature {feature.name!r}: id {low if low < 0 else high} is outside its table '
      f'{feature.table!r} of {rows} rows. The column was encoded for another vocabulary: encode '
      'the data again, or build the model from this data set.'
    )
  return ids, mask


def inputs(
  model: Model,
  batch: Mapping[str, np.ndarray],
  fetched: Mapping[str, np.ndarray] | None = None,
  flat: lists_lib.Flat | None = None,
) -> Inputs:
  """Columns of a batch → indices and values, on the host.

  Args:
    model: what `build` made.
    batch: feature name → column, as `Source.read` gives it.
    fetched: array → its rows, ascending, that were fetched and stand for it: indices are then
      their places.
    flat: leaves out the padding of lists.

  Raises:
    ValueError: an id is outside its table.
  """
  ids: dict[str, list[np.ndarray]] = {}
  values = {}
  for feature in model.features:
    found, value = _reads(feature, batch[feature.name], model.rows[feature.table], flat)
    ids.setdefault(feature.table, []).append(found.reshape(-1))
    if value is not None:
      values[feature.name] = value
  flat = {
    table: np.concatenate(reads) if len(reads) > 1 else reads[0] for table, reads in ids.items()
  }
  index = stack.shift(model.layout, model.codec.address(flat))
  for path in index:
    rows = (fetched or {}).get(model.layout.place[path].array)
    if rows is not None:
      index[path] = np.searchsorted(rows, index[path]).astype(np.int32)
  return Inputs(index, values)


def gather_all(model: Model, arrays: Mapping[str, jax.Array], index) -> dict[str, jax.Array]:
  """Every read straight from its array: path → loaded rows. For evaluation and dense training."""
  rows = {}
  for path, leaf in model.layout.leaves.items():
    array = arrays[model.layout.place[path].array]
    # Ids were checked on the host, so nothing is clipped here in truth.
    rows[path] = leaf.load(array.at[index[path]].get(mode='clip') if leaf.by_row else array)
  return rows


def _pool(feature, vectors, values):
  """Vectors of one feature's reads [batch · width, cols] → [batch, cols]."""
  if feature.kind == 'ids':
    mask = values[feature.name]
    if isinstance(mask, lists_lib.Lists):
      return lists_lib.pool(vectors, mask)
    vectors = vectors.reshape(*mask.shape, -1) * mask[..., None]
    return vectors.sum(axis=1) / mask.sum(axis=1)[:, None]
  if feature.kind == 'numeric':
    return vectors * values[feature.name][:, None]
  return vectors


def vectors(model: Model, rows: Mapping[str, jax.Array], values, **context) -> jax.Array:
  """Gathered rows by path → the vectors of all kept features [batch, fields, width].

  Multi-valued features are averaged over their values; numeric ones scale their table's row.
  """
  by_table = _by_table(model, rows)
  sample = {t: _samples(model, t, x, values) for t, x in by_table.items()}
  decoded = model.codec.decode(by_table, sample=sample, **context)
  parts = _split(model, decoded, values)
  return jnp.stack([_pool(f, parts[f.name], values) for f in model.features], axis=1)


def _by_table(model, rows):
  used = {feature.table: model.codec.plan[feature.table] for feature in model.features}
  return leaf_lib.unflatten(used, rows)


def _samples(model, table, rows, values):
  """The sample of the batch that each read of a table is of, int32 [reads]."""
  plan = leaf_lib.flatten(model.codec.plan[table])
  read = [x for path, x in leaf_lib.flatten(rows).items() if plan[path].by_row]
  sizes = _sizes(model, table, values, read[0].shape[0])
  order = []
  for name, size in sizes.items():
    value = values.get(name)
    if isinstance(value, lists_lib.Lists):
      order.append(value.sample)
    else:
      shape = value.shape if getattr(value, 'ndim', 1) == 2 else (size, 1)
      order.append(jax.lax.broadcasted_iota(jnp.int32, shape, 0).reshape(-1))
  return jnp.concatenate(order)


def _sizes(model, table, values, reads):
  """Feature → its share of the reads of a table, in the order in which `inputs` joined them."""
  sharing = [f for f in model.features if f.table == table]
  sizes = {f.name: _listed(values[f.name]) for f in sharing if f.kind == 'ids'}
  others = max(len(sharing) - len(sizes), 1)
  batch = (reads - sum(sizes.values())) // others  # The others read a row for each sample.
  return {f.name: sizes.get(f.name, batch) for f in sharing}


def _listed(value):
  """Reads of a multi-valued feature, padding included where it was left in."""
  return value.sample.size if isinstance(value, lists_lib.Lists) else value.size


def penalty(model: Model, rows: Mapping[str, jax.Array], *, step: jax.Array) -> Any:
  """What the techniques add to the loss of training, from the gathered rows by path."""
  if model.codec.penalty is None:
    return 0
  return model.codec.penalty(_by_table(model, rows), step=step)


def _split(model, decoded, values):
  """Reads by table → reads by feature."""
  parts = {}
  for table, reads in decoded.items():
    sizes = _sizes(model, table, values, reads.shape[0])
    # One split, not a slice for each: the backward pass of a slice is as large as all reads.
    split = jax.lax.split(reads, list(sizes.values())) if len(sizes) > 1 else [reads]
    parts |= zip(sizes, split, strict=True)
  return parts


def logits(
  model: Model,
  variables: Mapping[str, Any],
  rows: Mapping[str, jax.Array],
  values: Mapping[str, jax.Array],
  *,
  train: bool = False,
  rng: jax.Array | None = None,
  step: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
  """Gathered rows → logits.

  Args:
    model: what `build` made.
    variables: of the net: {'params': ..., 'batch_stats': ...}.
    rows: path → loaded rows.
    values: `Inputs.values`.
    train: batch statistics, dropout, and techniques that behave differently while training.
    rng: key for dropout and random techniques; needed when `train`.
    step: int32, for annealed techniques.

  Returns:
    Logits [batch] and the net's new batch statistics ({} outside training).
  """
  vectors_BxFxD = vectors(model, rows, values, train=train, rng=rng, step=step)
  return of_vectors(model, variables, vectors_BxFxD, train=train, rng=rng)


def of_vectors(
  model: Model,
  variables: Mapping[str, Any],
  vectors_BxFxD: jax.Array,
  *,
  train: bool = False,
  rng: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
  """Vectors → logits: the second half of `logits`."""
  if not train:
    return model.net.apply(variables, vectors_BxFxD, train=False), {}
  logit, updated = model.net.apply(
    variables, vectors_BxFxD, train=True, mutable=['batch_stats'], rngs={'dropout': rng}
  )
  return logit, updated.get('batch_stats', {})


class Scorer(NamedTuple):
  """How batches are scored.

  Attributes:
    prepare: columns of a batch, and for tables on the host what was fetched of them (`inputs`) →
      what `score` takes; runs on the host, in a thread.
    score: (arrays, net, prepared) → logits [batch]; jitted.
    multiple: a batch is a multiple of so many samples.
    host: of several processes that each prepare their part of a batch, and get all logits, the
      number of this one.
    hosts: how many there are.
  """

  prepare: Callable[..., Any]
  score: Callable[..., jax.Array]
  multiple: int = 1
  host: int = 0
  hosts: int = 1


def scorer(model: Model) -> Scorer:
  """On one device."""

  def score(arrays, net, prepared):
    rows = gather_all(model, arrays, prepared.index)
    return logits(model, net, rows, prepared.values)[0]

  # See `lists`. Sizes are this scorer's own: another one compiles for itself.
  flat = lists_lib.Flat() if jax.default_backend() == 'cpu' else None
  jitted = jax.jit(score, compiler_options=compiler_options())
  return Scorer(functools.partial(inputs, model, flat=flat), jitted)


def compiler_options(platform: str | None = None) -> dict[str, str]:
  """What to hand to `jax.jit`, by platform: the one place for such choices.

  Programs may be compiled for devices that are not here; by default they are for those that are.

  XLA's CPU backend gives most products to YNNPACK; at the sizes of CTR nets Eigen, which it has
  too, does them in 0.87 of the time (experiments/bench/net_step.py measures both).
  """
  if (platform or jax.default_backend()) == 'cpu':
    return {'xla_cpu_experimental_ynn_fusion_type': ''}
  return {}


def init_net(model: Model, key: jax.Array) -> Any:
  """The net's variables before training: {'params': ..., 'batch_stats': ...}."""
  example = jnp.zeros((2, len(model.features), model.width), jnp.float32)
  return model.net.init({'params': key, 'dropout': key}, example, train=False)
