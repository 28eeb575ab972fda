"""Orbax checkpoints of a run: the last one, and the best one.

A checkpoint holds the state with tables by leaf path (not by physical array, so that a stacked run
can be read apart and the other way round), the loop's position, and a description of what made it.
A checkpoint of another schema, chain or net is refused in words.
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from ctr_jax import predict
from ctr_jax.tables import stack
from ctr_jax.train import state as state_lib


def _portable(model: predict.Model, state: state_lib.State) -> dict[str, Any]:
  """The state as nested dicts, tables and slots by leaf path."""
  tree = state._asdict()
  tree['tables'] = stack.unpack(model.layout, state.tables)
  names = {slot for slots in state.slots.values() for slot in slots}
  tree['slots'] = {
    slot: stack.unpack(model.layout, {n: x[slot] for n, x in state.slots.items() if slot in x})
    for slot in sorted(names)
  }
  return tree


def _native(model: predict.Model, like: state_lib.State, tree: dict[str, Any]) -> state_lib.State:
  """The inverse of `_portable`."""
  slots = {name: {} for name in like.slots}
  for slot, leaves in tree['slots'].items():
    for name, array in stack.pack(model.layout, leaves).items():
      slots[name][slot] = array
  tables = stack.pack(model.layout, tree['tables'])
  return state_lib.State(**(tree | {'tables': tables, 'slots': slots}))


class Checkpoints:
  """The checkpoints under one folder.

  `description` is plain JSON (schema, chain, net, optimizer): it is saved with every checkpoint and
  has to be equal when one is restored.
  """

  def __init__(self, folder: pathlib.Path, model: predict.Model, description: dict[str, Any]):
    self._model = model
    self._description = description
    options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True)
    self._managers = {
      kind: ocp.CheckpointManager((folder / kind).absolute(), options=options)
      for kind in ('last', 'best')
    }

  def save(self, kind: str, state: state_lib.State, position: dict[str, Any]) -> None:
    """Saves asynchronously: returns when the arrays have been copied."""
    step = int(state.step)
    manager = self._managers[kind]
    if step in manager.all_steps():
      return  # A resumed run walks over ground that it had already saved; the bits are the same.
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(_portable(self._model, state)),
      position=ocp.args.JsonSave(position),
      description=ocp.args.JsonSave(self._description),
    )
    manager.save(step, args=args, force=True)

  def restore(self, kind: str, like: state_lib.State) -> tuple[state_lib.State, dict] | None:
    """The newest checkpoint of its kind, or None if there is none.

    Args:
      kind: 'last' or 'best'.
      like: arrays or `ShapeDtypeStruct`s that say what the state looks like.

    Raises:
      ValueError: it was made by another schema, chain, net or optimizer.
    """
    manager = self._managers[kind]
    manager.wait_until_finished()
    step = manager.latest_step()
    if step is None:
      return None
    self._check(manager, step)
    template = jax.eval_shape(lambda s: _portable(self._model, s), like)
    restored = manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(template), position=ocp.args.JsonRestore()
      ),
    )
    return _native(self._model, like, restored['state']), restored['position']

  def _check(self, manager, step):
    saved = manager.restore(step, args=ocp.args.Composite(description=ocp.args.JsonRestore()))[
      'description'
    ]
    for name in sorted(saved.keys() | self._description.keys()):
      if saved.get(name) != self._description.get(name):
        raise ValueError(
          f'The checkpoint in {manager.directory} was made with another {name}:\n'
          f'  saved: {saved.get(name)}\n  now:   {self._description.get(name)}\n'
          'Use another --workdir for this run, or the settings that the checkpoint was made with.'
        )

  def wait(self) -> None:
    """Returns when everything saved is on disk."""
    for manager in self._managers.values():
      manager.wait_until_finished()

  def close(self) -> None:
    for manager in self._managers.values():
      manager.close()
