"""Where each stored array lies on a mesh, by rules over their names: as techniques are chosen.

  RULES = (('(user|item)_id/.*', rows()), ('.*/hot/.*', replicated()), ('.*', rows()))

The first pattern that matches a name wins. Arrays of few rows are replicated, whatever a rule of
`rows` says, unless it says `least=1`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ctr_jax.tables import leaf as leaf_lib
from ctr_jax.tables import sharded, stack

AXES = ('data', 'model')
"""The axes of a mesh. Samples are split over both of them."""

LANES = 512
"""Hands that rows are dealt to: a multiple of the devices that a table can be split over."""


class Placement(NamedTuple):
  """Where an array lies.

  Attributes:
    split: 'rows', 'columns', 'nothing' or 'host'.
    over: the mesh axes that it is split over.
    least: arrays of fewer rows are replicated.
  """

  split: str
  over: tuple[str, ...] = ()
  least: int = 1


Rules = Sequence[tuple[str, Placement]]


def replicated() -> Placement:
  """Every device holds all of it."""
  return Placement('nothing')


def rows(over: str | Iterable[str] = 'model', least: int = 1 << 16) -> Placement:
  """Rows are dealt to the devices along `over`."""
  return Placement('rows', _axes(over), least)


def columns(over: str | Iterable[str] = 'model') -> Placement:
  """Each device along `over` holds some columns of every row."""
  return Placement('columns', _axes(over))


def _axes(over):
  over = (over,) if isinstance(over, str) else tuple(over)
  unknown = [axis for axis in over if axis not in AXES]
  if unknown or not over:
    raise ValueError(f'An array is split over {" or ".join(AXES)}, or both, not {over}.')
  return over


def host() -> Placement:
  """In the memory of the host: devices see the rows of one batch (train/hosted.py)."""
  return Placement('host')


DEFAULT: Rules = (('.*', rows()),)


def of(name: str, leaf: leaf_lib.Leaf, rules: Rules) -> Placement:
  """The placement of one array.

  Raises:
    ValueError: no rule is about it, or it cannot be split as its rule says.
  """
  found = next((found for pattern, found in rules if re.fullmatch(pattern, name)), None)
  if found is None:
    raise ValueError(f"No placement for array {name!r}: add a last rule ('.*', replicated()).")
  if not leaf.by_row or (found.split == 'rows' and leaf.rows < found.least):
    return replicated()
  if found.split == 'columns' and (not leaf.is_table or leaf.store is not None or leaf.fixed):
    raise ValueError(
      f'Array {name!r} cannot be split by columns: it has axes {leaf.axes}, or what is stored of a '
      'row is not a number for each column. Split it by rows.'
    )
  return found


def dealt(plan, rules: Rules, lanes: int = LANES, layout=stack.apart) -> stack.Layout:
  """`layout` of a plan, with the arrays that are split by rows dealt to `lanes` hands."""
  found = layout(plan)
  names = [n for n, x in found.arrays.items() if of(n, x, rules).split == 'rows']
  return stack.dealt(found, names, lanes)


def lies(layout: stack.Layout, rules: Rules, mesh: Mapping[str, int]) -> dict[str, sharded.Lie]:
  """How each array of a layout lies on a mesh.

  Args:
    layout: of `dealt`.
    rules: that it was made with.
    mesh: axis → devices along it.

  Raises:
    ValueError: rows or columns are not a multiple of the devices that they are split over.
  """
  found, lanes = {}, {place.array: place.lanes for place in layout.place.values()}
  for name, array in layout.arrays.items():
    # Dealt arrays have more rows than their leaf, so that the leaf tells the placement.
    split, over, _ = of(name, layout.leaves.get(name, array), rules)
    parts = math.prod(mesh[axis] for axis in over)
    size = lanes[name] if split == 'rows' else array.shape[-1]
    if size % parts:
      what = f'{size} lanes' if split == 'rows' else f'{size} columns'
      raise ValueError(f'Array {name!r} has {what}, which {parts} devices cannot share evenly.')
    copies = tuple(axis for axis in mesh if axis not in over)
    found[name] = sharded.Lie(split, over, parts, copies)
  return found


def on_host(layout: stack.Layout, rules: Rules) -> tuple[str, ...]:
  """The arrays of a layout that lie in the host's memory."""
  own = layout.leaves
  return tuple(n for n, x in layout.arrays.items() if of(n, own.get(n, x), rules).split == 'host')


def off_host(rules: Rules) -> Rules:
  """Rules by which the devices hold all of what was on the host: the rows that they are sent."""
  return tuple((p, replicated() if x.split == 'host' else x) for p, x in rules)
