"""Orbax checkpoints of a run: the last one, and the best one; between last ones, deltas.

A checkpoint holds the state with tables by leaf path (not by physical array, so that a stacked run
can be read apart and the other way round), the loop's position, and a description of what made it.
A checkpoint of another schema, chain or net is refused in words.

With `deltas`, so many of the last checkpoints are no full ones but what has changed since the one
before (`deltas.Deltas`); then comes a full one again, and when it is complete its deltas go:

  last/<step>/    deltas/delta-<step>-<step>/ ...    best/<step>/
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

from ctr_jax import predict
from ctr_jax.tables import stack
from ctr_jax.train import deltas as deltas_lib
from ctr_jax.train import state as state_lib


def _portable(model: predict.Model, state: state_lib.State) -> dict[str, Any]:
  """The state as nested dicts, tables and slots by leaf path; dealt rows as they lie.

  How rows are dealt does not depend on a mesh, so that each device of another one reads its part.
  """

  def leaves(arrays):
    return stack.unpack(model.layout, arrays, in_order=False)

  tree = state._asdict()
  tree['tables'] = leaves(state.tables)
  names = {slot for slots in state.slots.values() for slot in slots}
  tree['slots'] = {
    slot: leaves({n: x[slot] for n, x in state.slots.items() if slot in x})
    for slot in sorted(names)
  }
  return tree


def _native(model: predict.Model, like: state_lib.State, tree: dict[str, Any]) -> state_lib.State:
  """The inverse of `_portable`."""
  slots = {name: {} for name in like.slots}
  for slot, leaves in tree['slots'].items():
    for name, array in stack.pack(model.layout, leaves, in_order=False).items():
      slots[name][slot] = array
  tables = stack.pack(model.layout, tree['tables'], in_order=False)
  return state_lib.State(**(tree | {'tables': tables, 'slots': slots}))


def _lanes(model):
  """Path → hands that its rows are dealt to, where they are."""
  return {path: place.lanes for path, place in model.layout.place.items() if place.lanes > 1}


def _template(model, like, lanes):
  """What to restore: shapes, and where arrays lie on a mesh, each part read by its own device."""
  if all(place.array == path for path, place in model.layout.place.items()):
    tree = _portable(model, like)
  else:  # Stacks are cut and joined.
    tree = jax.eval_shape(lambda s: _portable(model, s), like)

  def saved(path, x):
    rows = model.layout.place[path].rows
    rows = -(-rows // lanes.get(path, 1)) * lanes.get(path, 1)
    # As many rows as were saved, perhaps no multiple of the devices: whole on each of them.
    shape, place = (rows, *x.shape[1:]), getattr(x, 'sharding', None)
    if isinstance(x, np.ndarray):
      return np.empty(shape, x.dtype)
    return jax.ShapeDtypeStruct(
      shape, x.dtype, sharding=place and NamedSharding(place.mesh, PartitionSpec())
    )

  return _where_dealt_anew(model, lanes, tree, saved)


def _dealt(model, lanes, tree, like):
  """Rows that were dealt to other hands, or to none, as this model deals them."""
  now, wanted = _lanes(model), _portable(model, like) if lanes != _lanes(model) else None

  def deal(path, x):
    if path in lanes:
      x = stack.undeal(x, lanes[path], model.layout.place[path].rows)
    return stack.deal(x, now[path]) if path in now else x

  tree = _where_dealt_anew(model, lanes, tree, deal)
  if wanted is not None:
    for part in ('tables', 'slots'):
      tree[part] = jax.tree.map(_like, tree[part], wanted[part])
  return tree


def _check_host(folder, state, like):
  """Refuses tables of the host with other shapes: orbax restores those as they were saved."""
  for name, wanted in like.tables.items():
    found = state.tables[name]
    if isinstance(wanted, np.ndarray) and found.shape != wanted.shape:
      raise ValueError(
        f'The checkpoint in {folder} has array {name!r} of shape {list(found.shape)}, and the '
        f'model wants {list(wanted.shape)}: restore it into a model with the rows that it was '
        'saved with, and go on from there: train.grow.'
      )


def _like(x, wanted):
  """`x` where `wanted` lies."""
  if isinstance(wanted, np.ndarray):
    return np.array(x)
  return jax.device_put(x, wanted.sharding)


def _where_dealt_anew(model, lanes, tree, function):
  """`tree` with function(path, array) for tables and slots that were dealt otherwise."""
  now = _lanes(model)
  anew = {p for p in lanes.keys() | now.keys() if lanes.get(p, 1) != now.get(p, 1)}

  def some(arrays):
    return {p: function(p, x) if p in anew else x for p, x in arrays.items()}

  slots = {slot: some(arrays) for slot, arrays in tree['slots'].items()}
  return tree | {'tables': some(tree['tables']), 'slots': slots}


def described(folder: pathlib.Path, kind: str) -> dict[str, Any]:
  """The description that the newest checkpoint of a kind ('last' or 'best') was saved with.

  Raises:
    ValueError: there is none.
  """
  found = folder / kind
  steps = [x for x in found.iterdir() if x.name.isdigit()] if found.is_dir() else []
  if not steps:
    raise ValueError(f'There is no checkpoint in {found}: name the folder `checkpoints` of a run.')
  newest = max(steps, key=lambda x: int(x.name))
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
    return reader.restore((newest / 'description').absolute())


class Checkpoints:
  """The checkpoints under one folder.

  `description` is plain JSON (schema, chain, net, optimizer): it is saved with every checkpoint and
  has to be equal when one is restored. `deltas` is how many deltas follow a full checkpoint before
  the next one is full again.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    model: predict.Model,
    description: dict[str, Any],
    deltas: int = 0,
  ):
    self._model = model
    self._deltas = deltas_lib.Deltas(folder.absolute() / 'deltas', model, deltas)
    self._description = description
    self._managers = {
      kind: ocp.CheckpointManager(
        (folder / kind).absolute(),
        options=ocp.CheckpointManagerOptions(
          max_to_keep=1,
          create=True,
          # Processes meet at barriers named by the step, which the other manager saves too.
          multiprocessing_options=ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=kind),
        ),
      )
      for kind in ('last', 'best')
    }

  def moved(self, batch: Any) -> None:
    """Tells what a step on `batch` has moved; every step between two saves of 'last' is told."""
    self._deltas.add(batch)

  def save(self, kind: str, state: state_lib.State, position: dict[str, Any]) -> None:
    """Saves asynchronously: returns when the arrays have been copied. A delta is then on disk."""
    best = self._managers['best']
    if kind == 'last' and best.latest_step() != int(state.step):
      best.wait_until_finished()  # Later ones are no help where a kill has left no best one.
    if kind == 'last' and self._deltas.due:
      self._managers[kind].wait_until_finished()  # What it follows is complete.
      self._drop_deltas()
      self._deltas.save(state, position)
      return
    self._save(kind, state, position)
    if kind == 'last':
      self._deltas.begin(state)

  def compact(self, like: state_lib.State) -> None:
    """Makes a full checkpoint of the last one and its deltas, which then go."""
    restored = self.restore('last', like)
    if restored is not None:
      self._save('last', *restored)
      self._deltas.begin(restored[0])
      self.wait()

  def _save(self, kind, state, position):
    step = int(state.step)
    manager = self._managers[kind]
    if step in manager.all_steps():
      return  # A resumed run walks over ground that it had already saved; the bits are the same.
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(_portable(self._model, state)),
      position=ocp.args.JsonSave(position),
      description=ocp.args.JsonSave(self._description),
      lanes=ocp.args.JsonSave(_lanes(self._model)),
    )
    manager.save(step, args=args, force=True)
    if any(isinstance(x, np.ndarray) for x in state.tables.values()):
      manager.wait_until_finished()  # The host's tables are changed in place.

  def restore(self, kind: str, like: state_lib.State) -> tuple[state_lib.State, dict] | None:
    """The newest checkpoint of its kind, or None if there is none.

    Args:
      kind: 'last', with the deltas that follow it, or 'best'.
      like: arrays or `ShapeDtypeStruct`s that say what the state looks like.

    Raises:
      FileNotFoundError, ValueError: a delta is missing, damaged or out of its place.
      ValueError: it was made by another schema, chain, net or optimizer.
    """
    manager = self._managers[kind]
    manager.wait_until_finished()
    step = manager.latest_step()
    if step is None:
      if kind == 'last':
        self._deltas.require_none()
      return None
    self._check(manager, step)
    lanes = self._saved_lanes(manager, step)
    template = _template(self._model, like, lanes)
    restored = manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(template), position=ocp.args.JsonRestore()
      ),
    )
    tree = _dealt(self._model, lanes, restored['state'], like)
    state, position = _native(self._model, like, tree), restored['position']
    _check_host(manager.directory, state, like)
    return self._deltas.restore(state, position) if kind == 'last' else (state, position)

  def _saved_lanes(self, manager, step):
    if not (manager.directory / str(step) / 'lanes').exists():
      return {}  # Of a time when no rows were dealt.
    return manager.restore(step, args=ocp.args.Composite(lanes=ocp.args.JsonRestore()))['lanes']

  def _check(self, manager, step):
    saved = manager.restore(step, args=ocp.args.Composite(description=ocp.args.JsonRestore()))[
      'description'
    ]
    for name in sorted(saved.keys() | self._description.keys()):
      if saved.get(name) != self._description.get(name):
        raise ValueError(
          f'The checkpoint in {manager.directory} was made with another {name}:\n'
          f'  saved: {saved.get(name)}\n  now:   {self._description.get(name)}\n'
          'Use another --workdir for this run, or the settings that the checkpoint was made with; '
          'or go on from it under these ones, as far as it can be carried over: train.grow.'
        )

  def wait(self) -> None:
    """Returns when everything saved is on disk."""
    for manager in self._managers.values():
      manager.wait_until_finished()
    self._drop_deltas()

  def _drop_deltas(self):
    """Those before the last full checkpoint, which is complete."""
    step = self._managers['last'].latest_step()
    if step is not None:
      self._deltas.drop(step)

  def close(self) -> None:
    for manager in self._managers.values():
      manager.close()
