"""Stacking: tables of equal width and dtype stored as one array, chosen by measurement.

On accelerators few large kernels usually win (not measured here yet); on two CPU cores a row-wise
Adagrad step on 26 tables of 38k×16 took 7.6 ms apart and 7.9 ms stacked, on 385k×16 10.0 and 10.4
(`experiments/bench/train_step.py`; experiments/RESULTS.md has the run).

A `Layout` maps the leaves of a plan, named by path, to the arrays that hold them:

  arrays[place[path].array][place[path].offset + i]  ≡  row i of the leaf at `path`

It is a pure transform of plan and addresses: names, bytes, checkpoints and artifacts stay per leaf.

Arrays whose rows are split over devices are dealt (`dealt`): rows go to `lanes` hands in turn, as
cards do, and each device holds some of the hands. Low row numbers are the frequent ones, so that
blocks of consecutive rows would leave all work to one device; and what an array looks like does not
depend on how many devices there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax.tables import gather
from ctr_jax.tables import leaf as leaf_lib


class Place(NamedTuple):
  """Where a leaf lives.

  Attributes:
    array: name of the physical array.
    offset: the array's row that is the leaf's first.
    rows: of the leaf.
    lanes: hands that its rows are dealt to; 1 if they are in order.
  """

  array: str
  offset: int
  rows: int
  lanes: int = 1


class Layout(NamedTuple):
  """Where each leaf lives.

  Attributes:
    leaves: path → Leaf, the plan, flattened.
    arrays: name → Leaf of the physical array; the leaf itself where it stands alone.
    place: path → Place.
  """

  leaves: dict[str, leaf_lib.Leaf]
  arrays: dict[str, leaf_lib.Leaf]
  place: dict[str, Place]


def apart(plan: Any) -> Layout:
  """Every leaf its own array, named by its path."""
  leaves = leaf_lib.flatten(plan)
  return Layout(leaves, dict(leaves), {p: Place(p, 0, x.rows) for p, x in leaves.items()})


def stacked(plan: Any) -> Layout:
  """Leaves that agree in everything but rows (and init) share one array, in order of path."""
  leaves = leaf_lib.flatten(plan)
  groups: dict[Any, list[str]] = {}
  for path, leaf in leaves.items():
    alike = (
      leaf.shape[1:],
      jnp.dtype(leaf.dtype).name,
      leaf.axes,
      leaf.frozen,
      leaf.load,
      leaf.store,
      leaf.decay,
      leaf.fixed,
    )
    groups.setdefault(alike if leaf.by_row else path, []).append(path)
  arrays, place = {}, {}
  for paths in _indexable(groups.values(), leaves):
    if len(paths) == 1:
      name = paths[0]
    else:
      name = f'/stack_{len(arrays)}'  # No path begins with a slash.
    first, offset = leaves[paths[0]], 0
    for path in paths:
      place[path] = Place(name, offset, leaves[path].rows)
      offset += leaves[path].rows
    # `init` of a stack is never called: arrays are made per leaf and then packed.
    arrays[name] = (
      dataclasses.replace(first, shape=(offset, *first.shape[1:])) if len(paths) > 1 else first
    )
  return Layout(leaves, arrays, place)


def dealt(layout: Layout, names: Iterable[str], lanes: int) -> Layout:
  """`layout` with some of its arrays dealt to `lanes` hands, padded to as many rows in each.

  Raises:
    ValueError: such an array holds more than one leaf, or has no rows.
  """
  arrays, place = dict(layout.arrays), dict(layout.place)
  for name in names:
    array = arrays[name]
    if name not in layout.leaves or not array.by_row:
      raise ValueError(f'Array {name!r} cannot be dealt: only a leaf that stands alone, of rows.')
    rows = -(-array.rows // lanes) * lanes
    if rows > np.iinfo(np.int32).max:
      raise ValueError(f'Array {name!r} has {array.rows:,} rows; int32 numbers 2,147,483,647.')
    arrays[name] = dataclasses.replace(array, shape=(rows, *array.shape[1:]))
    place[name] = place[name]._replace(lanes=lanes)
  return Layout(layout.leaves, arrays, place)


def deal(array: Any, lanes: int) -> Any:
  """Rows in order → dealt: row r is the hand r % lanes's card r // lanes; zeros fill the hands."""
  cards = -(-array.shape[0] // lanes)
  xp = jnp if isinstance(array, jax.Array) else np
  spare = [(0, cards * lanes - array.shape[0]), *[(0, 0)] * (array.ndim - 1)]
  rest = array.shape[1:]
  return xp.swapaxes(xp.pad(array, spare).reshape(cards, lanes, *rest), 0, 1).reshape(-1, *rest)


def undeal(array: Any, lanes: int, rows: int) -> Any:
  """The inverse of `deal`, of `rows` rows."""
  rest = array.shape[1:]
  return array.reshape(lanes, -1, *rest).swapaxes(0, 1).reshape(-1, *rest)[:rows]


def _indexable(groups, leaves):
  """Groups cut so that int32 can index each of their stacks."""
  for paths in groups:
    part, rows = [], 0
    for path in paths:
      if part and rows + leaves[path].rows > np.iinfo(np.int32).max:
        yield part
        part, rows = [], 0
      part, rows = [*part, path], rows + leaves[path].rows
    yield part


def pack(layout: Layout, leaves: Mapping[str, Any], in_order: bool = True) -> dict[str, Any]:
  """Arrays by path → physical arrays (also for optimizer slots, which have the same rows).

  Without `in_order`, leaves that are dealt are given so.
  """
  members: dict[str, list[Any]] = {}
  for path, place in layout.place.items():
    if path in leaves:
      members.setdefault(place.array, []).append(leaves[path])
  packed = {n: _joined(n, xs, layout) for n, xs in members.items()}
  lanes = {place.array: place.lanes if in_order else 1 for place in layout.place.values()}
  return {n: deal(x, lanes[n]) if lanes[n] > 1 else x for n, x in packed.items()}


def _joined(name, parts, layout):
  if len(parts) == 1:
    return parts[0]
  rows = layout.arrays[name].rows
  if sum(x.shape[0] for x in parts) != rows:
    raise ValueError(f'Array {name!r} has {rows} rows: give all leaves that it holds, or none.')
  return jnp.concatenate(parts)


def unpack(layout: Layout, arrays: Mapping[str, Any], in_order: bool = True) -> dict[str, Any]:
  """The inverse of `pack`; without `in_order`, dealt leaves are left as they lie."""
  leaves = {}
  for path, place in layout.place.items():
    if place.array in arrays:
      array = arrays[place.array]
      if place.lanes > 1:
        leaves[path] = undeal(array, place.lanes, place.rows) if in_order else array
      else:
        alone = layout.arrays[place.array] is layout.leaves[path]
        leaves[path] = array if alone else array[place.offset : place.offset + place.rows]
  return leaves


def shift(layout: Layout, address: Any) -> dict[str, Any]:
  """Addresses (a tree laid out as the plan) → index into the physical arrays, by path.

  Leaves that are read whole have no index and do not appear.
  """
  index = {}
  for path, x in leaf_lib.flatten(address).items():
    if layout.leaves[path].by_row:
      index[path] = shifted(x, layout.place[path], layout.arrays[layout.place[path].array].rows)
  return index


def shifted(index, place, rows):
  xp = jnp if isinstance(index, jax.Array) else np
  if place.lanes > 1:
    lanes = np.int32(place.lanes)
    index, nothing = index % lanes * (rows // lanes) + index // lanes, index == place.rows
  elif place.rows == rows:
    return index
  else:
    index, nothing = index + np.int32(place.offset), index == place.rows
  # No row of a leaf is no row of its array, never the first row of the next leaf.
  return xp.where(nothing, np.int32(rows), index)


def deduplicate(layout: Layout, index: Mapping[str, np.ndarray], function=gather.deduplicate):
  """Distinct rows per physical array, and per path where each read finds its own.

  Returns:
    unique: array name → int32 [capacity].
    inverse: path → int32 of the index's shape, an index into unique[place[path].array].
  """
  members: dict[str, list[str]] = {}
  for path in index:
    members.setdefault(layout.place[path].array, []).append(path)
  unique, inverse = {}, {}
  xp = np if function is gather.deduplicate else jnp
  for name, paths in members.items():
    joined = xp.concatenate([index[p].reshape(-1) for p in paths])
    unique[name], where = function(joined, layout.arrays[name].rows)
    start = 0
    for path in paths:
      inverse[path] = where[start : start + index[path].size].reshape(index[path].shape)
      start += index[path].size
  return unique, inverse
