"""Labels: which fields the rows and columns of a net's parameters are of.

`net.labels(fields, width)` names the parameters that depend on the fields: path → for each axis a
list of labels, or None for an axis that does not depend on them. Two nets over different fields
mean the same by the same label, so `part` can move what was learned from one to the other.
"""

from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import Any, NamedTuple


class Label(NamedTuple):
  """One row or column of a parameter.

  Attributes:
    fields: that it is of: without one of them it has nothing to read. () for a hidden unit.
    place: which of theirs.
  """

  fields: tuple[str, ...]
  place: Hashable


Axes = tuple[list[Label] | None, ...]


def columns(fields: Sequence[str], width: int) -> list[Label]:
  """Of `layers.flatten`: fields · width columns."""
  return [Label((field,), i) for field in fields for i in range(width)]


def units(number: int) -> list[Label]:
  """Of hidden units, which are of no field."""
  return [Label((), i) for i in range(number)]


def pairs(fields: Sequence[str], heads: int = 1) -> list[Label]:
  """Of pairs i < j, heads side by side. Their products are symmetric: no label tells the order."""
  unordered = [tuple(sorted(pair)) for pair in combinations(fields, 2)]
  return [Label(pair, head) for pair in unordered for head in range(heads)]


def within(name: str, inputs: Sequence[Label]) -> list[Label]:
  """The same labels, told apart from those of other parts of one axis."""
  return [Label(x.fields, (name, x.place)) for x in inputs]


def joined(interaction: Any, fields: Sequence[str], width: int) -> list[Label]:
  """Of `layers.joined`: the vectors' columns, and beside them those of `interaction`.

  Raises:
    ValueError: the interaction has no `columns(fields, width)`, or refuses.
  """
  own = columns(fields, width)
  if interaction is None:
    return own
  if not hasattr(interaction, 'columns'):
    raise ValueError(
      f'{type(interaction).__name__} does not say which fields its columns are of, so no part of a '
      'net with it can be taken: give it a method `columns(fields, width)`, or train anew.'
    )
  return own + interaction.columns(fields, width)


def mlp(hidden: Sequence[int], inputs: list[Label]) -> tuple[dict[str, Axes], list[Label]]:
  """Labels of the parameters of an MLP named 'mlp' over `inputs`, and of what it gives."""
  if not hidden:
    return {}, inputs
  return {'mlp/layer_0/kernel': (inputs, None)}, units(hidden[-1])


def deep(hidden: Sequence[int], inputs: list[Label]) -> dict[str, Axes]:
  """Labels of an MLP and an output named 'output' that reads nothing else."""
  own, given = mlp(hidden, inputs)
  return own | {'output/kernel': (given, None)}
