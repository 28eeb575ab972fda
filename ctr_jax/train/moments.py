"""The optimizer's state of another model: what belongs to kept rows and weights follows them.

Row optimizers keep slots beside tables. An optax transform keeps trees that look like what it moves
(moments), somewhere within its state, and counts: each leaf of a tree is found by the path that it
has there, and by the name of what it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ctr_jax import predict
from ctr_jax.models import part
from ctr_jax.tables import stack
from ctr_jax.train import carry
from ctr_jax.train import state as state_lib


class Kept(NamedTuple):
  """What was kept of a state, for those that follow.

  Attributes:
    old: the model that was trained.
    new: the model that goes on.
    recipe: how it goes on.
    rows: path of a table's leaf → see `carry.Carried.rows`.
    axes: path of an array of the net → its labels before and after, for those that changed; None if
      nothing of the net was kept.
  """

  old: predict.Model
  new: predict.Model
  recipe: state_lib.Recipe
  rows: Mapping[str, np.ndarray | None]
  axes: Mapping[str, Any] | None


def slots(kept: Kept, state: state_lib.State, key: jax.Array):
  """The row optimizer's slots, and the paths of kept leaves that had none."""
  described = state_lib.slot_leaves(kept.new, kept.recipe) if kept.recipe.rows else {}
  drawn = jax.jit(
    lambda key: jax.tree.map(lambda leaf: leaf.init(key, leaf.shape, leaf.dtype), described)
  )(key)
  found, lost = {name: {} for name in described}, set()
  for slot in sorted({slot for leaves in described.values() for slot in leaves}):
    fresh = {name: x[slot] for name, x in drawn.items() if slot in x}
    before = {name: x[slot] for name, x in state.slots.items() if slot in x}
    arrays, missing = _followed(kept, before, fresh)
    lost |= missing
    for name, array in arrays.items():
      found[name][slot] = array
  return found, lost


def opt(kept: Kept, state: state_lib.State, tables, net):
  """The state of `recipe.tx`, and the names of what was kept and had none."""
  params = state_lib.dense_params(kept.new, kept.recipe, tables, net)
  before = _dense_names(kept.old, state)
  old = {_place(path, before): x for path, x in jax.tree.leaves_with_path(state.opt)}
  leaves, tree = jax.tree.flatten_with_path(jax.jit(kept.recipe.tx.init)(params))
  after = _names(params)
  places = [_place(path, after) for path, _ in leaves]
  fresh = {place: x for place, (_, x) in zip(places, leaves, strict=True)}
  found, lost = {}, set()
  for where in sorted({place[0] for place in places if place[1].startswith('tables/')}):
    here, there = _of(where, old), _of(where, fresh)
    arrays, missing = _followed(kept, here, there)
    lost |= missing
    found |= {(where, f'tables/{name}'): x for name, x in arrays.items()}
  for place, x in fresh.items():
    if place not in found:
      found[place] = _one(kept, place, old.get(place), x, lost)
  return jax.tree.unflatten(tree, [found[place] for place in places]), lost


def word(kept: Kept, lost: set[str], name: str) -> str:
  """What became of the optimizer's state of a row of the report: 'kept', 'fresh' or '-'."""
  if name.startswith('net/'):
    return 'fresh' if name in lost or kept.axes is None else 'kept'
  paths = carry.leaves(kept.new, name)
  trained = [path for path in paths if not paths[path].frozen]
  if not trained:
    return '-'
  return 'kept' if all(p in kept.rows and p not in lost for p in trained) else 'fresh'


def _followed(kept, before, fresh):
  """Physical arrays of the new layout, and the paths of kept leaves that `before` has not.

  `before` and `fresh` have the arrays of one slot or moment, by the arrays that they belong to.
  """
  rows_of = {name: x.shape[:1] for name, x in kept.old.layout.arrays.items()}
  whole = {name: x for name, x in before.items() if x.shape[:1] == rows_of[name]}
  here, there = stack.unpack(kept.old.layout, whole), stack.unpack(kept.new.layout, fresh)
  missing = set()
  for path, x in there.items():
    if path in kept.rows:
      rows, was = kept.rows[path], here.get(path)
      skip = 0 if rows is None else 1
      if was is None or was.shape[skip:] != x.shape[skip:]:
        missing.add(path)
      else:
        there[path] = carry.put(was, rows, lambda x=x: x)
  return stack.pack(kept.new.layout, there), missing


def _one(kept, place, old, fresh, lost):
  """A moment of the net, or what belongs to nothing: a count."""
  name = place[1]
  if name.startswith('tables/') or (name and kept.axes is None):
    return fresh  # Of nothing that was kept.
  if not name:
    if old is None or old.shape != fresh.shape or old.dtype != fresh.dtype:
      lost.add(place[0])
      return fresh
    return old
  axes = kept.axes.get(name.removeprefix('net/'))
  if old is None or (axes is None and old.shape != fresh.shape):
    lost.add(name)
    return fresh
  if axes is None:
    return old
  if old.shape != _shape(old, axes[0]) or fresh.shape != _shape(old, axes[1]):
    lost.add(name)
    return fresh
  return part.gathered(old, *axes, fresh)


def _shape(array, axes):
  """That labels describe, where `array` has an axis for each."""
  if array.ndim != len(axes):
    return None
  return tuple(n if x is None else len(x) for n, x in zip(array.shape, axes, strict=True))


def _of(where, leaves):
  """Array → leaf, of the tables' tree at one place of an optimizer's state."""
  return {
    name.removeprefix('tables/'): x
    for (place, name), x in leaves.items()
    if place == where and name.startswith('tables/')
  }


def _names(params):
  return {'/'.join(str(k.key) for k in path) for path, _ in jax.tree.leaves_with_path(params)}


def _dense_names(old, state):
  """Names that the old optimizer may have state of, whichever of them it moved."""
  return _names({'net': state.net['params'], 'tables': dict.fromkeys(old.layout.arrays, 0)})


def _place(path, names):
  """Where a leaf of an optimizer's state is, and what it belongs to; ('...', '') for nothing."""
  keys = [getattr(k, 'key', None) for k in path]
  for i, key in enumerate(keys):
    name = '/'.join(map(str, keys[i:]))
    if key in ('net', 'tables') and name in names:
      return jax.tree_util.keystr(path[:i]), name
  return jax.tree_util.keystr(path), ''
