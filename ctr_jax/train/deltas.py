"""Delta checkpoints: between two full ones, what training has changed since the last.

Of the arrays that are trained by rows these are the touched rows and their optimizer state; the
net, its optimizer's state and what is read whole are saved whole, and frozen arrays not at all, so
that a delta's size goes with the samples between two saves and not with the tables. A state is the
full checkpoint and its deltas in order, to the bit. `delta_files` says what lies where.

`checkpoint.Checkpoints` decides which of its checkpoints are deltas. Rows are by leaf and in order,
as those of full checkpoints are: another layout, or another mesh, reads them too.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from ctr_jax import predict
from ctr_jax.tables import stack
from ctr_jax.train import delta_files, processes, touched
from ctr_jax.train import state as state_lib


class Deltas:
  """The deltas in one folder, and what has changed since the last.

  `most` is how many may follow a full checkpoint; with 0 none are made, but those that are there
  are restored.
  """

  def __init__(self, folder: pathlib.Path, model: predict.Model, most: int):
    if most and processes.joined():
      raise ValueError(_ONE_PROCESS)
    self._folder, self._model, self._most = folder, model, most
    self._before: delta_files.Before | None = None
    self._count = 0
    self._touched: touched.Touched | None = None

  @property
  def due(self) -> bool:
    """Whether the next checkpoint may be a delta."""
    return self._before is not None and self._count < self._most

  def add(self, batch: Any) -> None:
    """Marks what a step on a batch moves."""
    if self._touched is not None:
      self._touched.add(batch)

  def begin(self, state: state_lib.State) -> None:
    """A full checkpoint was made of `state`: the next delta follows it."""
    if self._most:
      mark = delta_files.mark_of(_whole(self._model, state))
      self._follow(state, delta_files.full(int(state.step), mark), 0)

  def _follow(self, state, before, count):
    self._before, self._count = before, count
    if self._touched is None:
      self._touched = touched.Touched(self._model, state.slots)
    self._touched.clear()

  def save(self, state: state_lib.State, position: dict[str, Any]) -> None:
    """Writes what has changed since the last; returns when it is on the disk."""
    step = int(state.step)
    if step == self._before.step:
      return  # As it is saved already.
    self._before = delta_files.write(
      self._folder,
      step,
      self._before,
      position,
      _parts(self._model, state, self._touched),
      _whole(self._model, state),
    )
    self._count += 1
    self._touched.clear()

  def restore(
    self, state: state_lib.State, position: dict[str, Any]
  ) -> tuple[state_lib.State, dict[str, Any]]:
    """A full checkpoint's state and position → those after the deltas that follow it.

    Args:
      state: is used up.
      position: is returned where there are no deltas.

    Raises:
      FileNotFoundError: a delta, or a file of one, is missing.
      ValueError: one is damaged, out of its place, or of another model; or there are several
        processes.
    """
    step = int(state.step)
    if not self._most and not self.there(step):
      return state, position
    if processes.joined():
      raise ValueError(_ONE_PROCESS)
    before = delta_files.full(step, delta_files.mark_of(_whole(self._model, state)))
    deltas = delta_files.chain(self._folder, before)
    for delta in deltas:
      state = _applied(self._model, state, delta)
      before, position = delta.end, delta.manifest['position']
    if self._most:
      self._follow(state, before, len(deltas))
    return state, position

  def there(self, step: int = -1) -> bool:
    """Whether deltas lead beyond a step, or did."""
    return delta_files.newest_step(self._folder) > step

  def require_none(self) -> None:
    """There is no full checkpoint: deltas alone are nothing to go on from.

    Raises:
      FileNotFoundError: there are some.
    """
    if self.there():
      raise FileNotFoundError(
        f'{self._folder} has deltas, and the full checkpoint that they follow is missing. Copy it '
        f'again from where it is whole, or remove all of {self._folder} to begin anew.'
      )

  def drop(self, step: int) -> None:
    """Removes those that a full checkpoint of this step has made superfluous."""
    if self._folder.is_dir() and processes.is_first():
      delta_files.drop(self._folder, step)


def _whole(model, state) -> dict[str, np.ndarray]:
  """Name → array, of all that is saved whole."""
  named, _ = jax.tree_util.tree_flatten_with_path(_not_by_row(model, state))
  return {_key(path): np.asarray(x) for path, x in named}


def _key(path):
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _not_by_row(model, state):
  """The state without what is trained by rows and without what is frozen."""
  arrays = model.layout.arrays
  kept = {n: x for n, x in state.tables.items() if n not in state.slots and not arrays[n].frozen}
  return state._replace(tables=kept, slots={})


def _parts(model, state, marks) -> Iterator[tuple[str, delta_files.Rows]]:
  """(path, its touched rows), an array at a time."""
  for name, slots in state.slots.items():
    physical = marks.rows(name)
    if not len(physical):
      continue
    values, slots = _taken((state.tables[name], slots), physical)
    for path, place in model.layout.place.items():
      if place.array == name:
        rows, chosen = _leaf_rows(place, physical, model.layout.arrays[name].rows)
        if len(rows):
          here = {slot: x[chosen] for slot, x in slots.items()}
          yield path, delta_files.Rows(rows, values[chosen], here)


def _leaf_rows(place, physical, rows):
  """The rows of a leaf among those of its array, ascending, and where they are: `stack.shifted`."""
  if place.lanes > 1:
    cards = rows // place.lanes
    found = physical % cards * place.lanes + physical // cards
    order = np.argsort(found)
    return found[order], order
  start, stop = np.searchsorted(physical, [place.offset, place.offset + place.rows])
  return physical[start:stop] - np.int32(place.offset), slice(start, stop)


def _taken(arrays, rows):
  """Rows of arrays of the host or a device → NumPy, to the bit."""
  if isinstance(arrays[0], np.ndarray):
    return jax.tree.map(lambda x: x[rows], arrays)
  found = _gather(arrays, _padded(rows, arrays[0].shape[0]))
  return jax.tree.map(lambda x: np.asarray(x)[: len(rows)], found)


def _padded(rows, none):
  """To one of few lengths, since every other is compiled anew; `none` is no row."""
  size = 1024
  while size < len(rows):
    size *= 4
  return np.pad(rows, (0, min(size, none) - len(rows)), constant_values=none)


def _bits(x):
  """Halves as integers: XLA's CPU gathers and scatters them as float32."""
  if x.dtype.itemsize == 2:
    return jax.lax.bitcast_convert_type(x, np.uint16)
  return x


@jax.jit
def _gather(arrays, rows):
  def one(x):
    found = _bits(x).at[rows].get(mode='clip')
    return found if found.dtype == x.dtype else jax.lax.bitcast_convert_type(found, x.dtype)

  return jax.tree.map(one, arrays)


def _scatter(x, rows, values):
  found = _bits(x).at[rows].set(_bits(values), mode='drop')
  return found if found.dtype == x.dtype else jax.lax.bitcast_convert_type(found, x.dtype)


_scattered = jax.jit(_scatter, donate_argnums=0)


def _put(x, rows, values):
  """`x` with other rows; it is used up."""
  if isinstance(x, np.ndarray):
    x[rows] = values
    return x
  padded = _padded(rows, x.shape[0])
  spare = [(0, len(padded) - len(rows)), *[(0, 0)] * (values.ndim - 1)]
  where = x.sharding
  found = _scattered(x, padded, np.pad(values, spare))
  return found if found.sharding == where else jax.device_put(found, where)


def _applied(model, state, delta):
  """The state after a delta."""
  tables, slots = dict(state.tables), {n: dict(x) for n, x in state.slots.items()}
  for path, found in delta_files.rows(delta):
    place = _place(model, state, delta, path, found)
    physical = stack.shifted(found.rows, place, model.layout.arrays[place.array].rows)
    tables[place.array] = _put(tables[place.array], physical, found.values)
    own = slots[place.array]
    for slot, values in found.slots.items():
      own[slot] = _put(own[slot], physical, values)
  state = state._replace(tables=tables, slots=slots)
  whole = _replaced(model, state, delta)
  return whole._replace(tables=tables | whole.tables, slots=slots)


def _place(model, state, delta, path, found):
  """Where a leaf's rows go, if they are of this model."""
  place = model.layout.place.get(path)
  if place is not None and place.array in state.slots:
    described = {'': state.tables[place.array], **state.slots[place.array]}
    given = {'': found.values, **found.slots}
    alike = given.keys() == described.keys() and all(
      x.dtype == described[n].dtype and x.shape[1:] == described[n].shape[1:]
      for n, x in given.items()
    )
    inside = found.rows[-1] < place.rows and found.rows[0] >= 0
    if alike and inside and (np.diff(found.rows) > 0).all():
      return place
  raise _other(delta, f'rows of {path!r}')


def _replaced(model, state, delta):
  """What is not by row, as a delta has it, where it lies now."""
  given = delta_files.whole(delta)
  named, structure = jax.tree_util.tree_flatten_with_path(_not_by_row(model, state))
  keys = [_key(path) for path, _ in named]
  for key in sorted(given.keys() ^ set(keys)):
    raise _other(delta, repr(key))
  found = []
  for key, (_, x) in zip(keys, named, strict=True):
    if given[key].dtype != x.dtype or given[key].shape != x.shape:
      raise _other(delta, repr(key))
    # A copy: what is mapped goes with its file.
    new = np.array(given[key])
    found.append(new if isinstance(x, np.ndarray) else jax.device_put(new, x.sharding))
  return jax.tree.unflatten(structure, found)


def _other(delta, what):
  return ValueError(
    f'{delta.folder} has {what}, as this model has none: it was made by another schema, chain, net '
    'or optimizer.'
  )


_ONE_PROCESS = (
  'Deltas are saved and restored by one process: leave out --deltas. To go on from deltas that are '
  'there, run the same command by one process and without --deltas until its next checkpoint, '
  'which is a full one.'
)
