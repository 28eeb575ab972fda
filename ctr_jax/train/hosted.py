"""Tables in the host's memory, trained by a device that sees only the rows of one batch.

A table that does not fit the devices lies in memory of the host (NumPy), with its optimizer state.
For each step the batch's distinct rows go to the device, stand there for a table of so many rows,
and come back. The device's step is that of `step` or `mesh`, so that the two places of a table give
the same numbers, and one can hold the hot rows and the other the cold ones:

  rules = [('item_id', compress.hot_cold(k, tail))]        # The k most frequent ids are part_0.
  placements = [('item_id/part_1.*', placement.host())]

Ids are checked, addressed and freed of duplicates by the thread that prepares batches, while the
device takes the step before. Rows are fetched after the step before has written its own back, so
that no step reads an old one. (jax's arrays in pinned host memory are not used: they cannot be
changed in place, and a copy of the table would be made each step.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ctr_jax import predict
from ctr_jax.tables import leaf as leaf_lib
from ctr_jax.tables import stack
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib

# Model → a program for it: of `step.program`, or of a mesh.
Inner = Callable[[predict.Model], step_lib.Program]


class Prepared(NamedTuple):
  """A batch with what it reads of the host's tables.

  Attributes:
    rows: array → int32 [n], its distinct rows in this batch, padded with its number of rows.
    inner: the batch as the device sees it, whose tables are those rows.
  """

  rows: dict[str, np.ndarray]
  inner: Any


class _Hosted:
  """A model some of whose arrays are on the host, and the programs for what the device sees."""

  def __init__(self, model: predict.Model, names: tuple[str, ...], inner: Inner):
    if jax.process_count() > 1:
      raise ValueError(
        f'{sorted(names)} are placed on the host, which one process can do: with several, each '
        "would have its own. Split them by rows (placement.rows(('data', 'model')))."
      )
    self.model, self.names, self._inner, self._programs = model, set(names), inner, {}
    shared = {p.array for p in model.layout.place.values() if p.array not in model.layout.leaves}
    if shared & self.names:
      raise ValueError(f'{sorted(shared & self.names)}: stacks of tables are not kept on the host.')

  def prepared(self, columns, batch) -> Prepared:
    """What `batch` of the inner program makes of columns, with indices into the fetched rows."""
    index, _ = predict.inputs(self.model, columns)
    reads = {p: x for p, x in index.items() if self.model.layout.place[p].array in self.names}
    rows, _ = stack.deduplicate(self.model.layout, reads)
    inner = batch(self.program({n: len(x) for n, x in rows.items()}))
    return Prepared(rows, inner(columns, rows))

  def program(self, sizes: Mapping[str, int]) -> step_lib.Program:
    """Of the model in which the host's arrays have as many rows as a batch can read."""
    key = tuple(sorted(sizes.items()))
    if key not in self._programs:
      layout = self.model.layout
      small = {n: dataclasses.replace(layout.arrays[n], shape=self._shape(n, k)) for n, k in key}
      place = {n: stack.Place(n, 0, k) for n, k in key}
      layout = stack.Layout(layout.leaves | small, layout.arrays | small, layout.place | place)
      self._programs[key] = self._inner(self.model._replace(layout=layout))
    return self._programs[key]

  def _shape(self, name, rows):
    return (rows, *self.model.layout.arrays[name].shape[1:])

  def one_row(self) -> step_lib.Program:
    """Of the model in which the host's arrays have a row each: for all else."""
    return self.program(dict.fromkeys(self.names, 1))

  def taken(self, arrays, rows):
    """The host's rows of a batch; padding takes the last one."""
    return {n: np.take(arrays[n], x, axis=0, mode='clip') for n, x in rows.items()}


def program(
  model: predict.Model, recipe: state_lib.Recipe, names: tuple[str, ...], inner: Inner
) -> step_lib.Program:
  """A program for a model some of whose arrays are on the host.

  Args:
    model: what learns.
    recipe: how; arrays on the host need a row optimizer, unless they are frozen.
    names: of the arrays on the host.
    inner: what runs on the devices.

  Raises:
    ValueError: several processes, stacked tables, or the dense mode.
  """
  dense = set(names) & set(state_lib.dense(model, recipe))
  if dense:
    raise ValueError(f'{sorted(dense)}: tables on the host need a row optimizer, no dense mode.')
  on = _Hosted(model, names, inner)
  moved = on.names & set(state_lib.by_rows(model, recipe))

  def create(seed):
    state = on.one_row().create(seed)
    key = jax.random.key(seed)
    tables = {n: _drawn(model.layout.arrays[n], leaf_lib.path_key(key, n)) for n in on.names}
    slots = {
      n: {s: _drawn(x, key) for s, x in recipe.rows.slots(model.layout.arrays[n]).items()}
      for n in moved
    }
    return state._replace(tables=state.tables | tables, slots=state.slots | slots)

  def like():
    found = on.one_row().like()
    tables = {n: _empty(model.layout.arrays[n]) for n in on.names}
    slots = {
      n: {s: _empty(x) for s, x in recipe.rows.slots(model.layout.arrays[n]).items()} for n in moved
    }
    return found._replace(tables=found.tables | tables, slots=found.slots | slots)

  def step(state, prepared):
    rows = prepared.rows
    tables, slots = on.taken(state.tables, rows), dict(state.slots)
    for name in moved:
      slots[name] = {s: np.take(x, rows[name], 0, mode='clip') for s, x in slots[name].items()}
    device = state._replace(tables=state.tables | tables, slots=slots)
    inner = on.program({n: len(x) for n, x in rows.items()})
    new, metrics = inner.step(device, prepared.inner)
    for name in moved:
      _put(state.tables[name], rows[name], new.tables[name])
      for slot, x in state.slots[name].items():
        _put(x, rows[name], new.slots[name][slot])
    whole = {n: state.tables[n] for n in on.names}, {n: state.slots[n] for n in moved}
    return new._replace(tables=new.tables | whole[0], slots=new.slots | whole[1]), metrics

  def batch(columns):
    return on.prepared(columns, lambda inner: inner.batch)

  return step_lib.Program(create, like, batch, step, _scorer(on))


def placed(
  state: state_lib.State,
  where: state_lib.State,
  names: tuple[str, ...],
  put: Callable[[Any, Any], jax.Array],
) -> state_lib.State:
  """A state whose arrays `names` are the host's own, and of the others put(array, its place)."""

  def rest(tree):
    both = tree.tables, tree.slots
    tables, slots = ({n: x for n, x in y.items() if n not in names} for y in both)
    return tree._replace(tables=tables, slots=slots)

  found = jax.tree.map(put, rest(state), rest(where))
  tables = {n: np.array(state.tables[n]) for n in names}
  slots = {n: jax.tree.map(np.array, state.slots[n]) for n in names if n in state.slots}
  return found._replace(tables=found.tables | tables, slots=found.slots | slots)


def _scorer(on):
  def prepare(columns):
    return on.prepared(columns, lambda inner: inner.scorer.prepare)

  def score(arrays, net, prepared):
    inner = on.program({n: len(x) for n, x in prepared.rows.items()})
    return inner.scorer.score(arrays | on.taken(arrays, prepared.rows), net, prepared.inner)

  return predict.Scorer(prepare, score, on.one_row().scorer.multiple)


def _put(table, rows, values):
  """Writes a batch's rows back; those out of range are padding."""
  values, there = np.asarray(values), rows < len(table)
  table[rows[there]] = values[there]


def _drawn(leaf, key):
  """An array of the host, drawn on the device, of which it is never whole if it is large."""
  if not isinstance(leaf.init, leaf_lib.InBlocks):
    return np.array(leaf.init(key, leaf.shape, leaf.dtype))
  table = _empty(leaf)
  for start, rows in leaf.init.blocks(key, leaf.shape, leaf.dtype):
    table[start : start + len(rows)] = rows
  return table


def _empty(leaf):
  return np.empty(leaf.shape, leaf.dtype)
