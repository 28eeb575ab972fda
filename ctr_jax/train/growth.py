"""What became of each part of a state that was grown: a small table, and what was refused."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

KINDS = ('kept', 'enlarged', 'cut', 'new', 'dropped', 're-encoded', 'reset')


class Row(NamedTuple):
  """One table, array of the net, or part of the optimizer's state.

  Attributes:
    name: a table's name, 'net/...' of an array of the net, or 'optimizer'.
    what: 'kept' as it was; 'enlarged'; 'cut', of what fewer features or values need; 'new', as
      before training; 'dropped'; 're-encoded', from its vectors or from what was stored of it; or
      'reset', as before training although there was a trained one.
    before: its rows, or its shape.
    after: the same.
    optimizer: what became of the optimizer's state of it: one of these words, or '-' for none.
    note: what else is to be known.
  """

  name: str
  what: str
  before: str = '-'
  after: str = '-'
  optimizer: str = '-'
  note: str = ''


class Report(NamedTuple):
  """All rows. `print(report)` shows them."""

  rows: tuple[Row, ...]

  def of(self, name: str) -> Row:
    """The row of this name."""
    return next(row for row in self.rows if row.name == name)

  def __str__(self) -> str:
    lines = [Row._fields, *self.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(Row._fields))]
    return '\n'.join(
      '  '.join(text.ljust(n) for text, n in zip(line, widths, strict=True)).rstrip()
      for line in lines
    )


class Log:
  """Collects rows, and what cannot be carried over, so that all of it is named at once."""

  def __init__(self, accept: Iterable[str]):
    self._accept = (accept,) if isinstance(accept, str) else tuple(accept)
    self._rows: list[Row] = []
    self._refused: dict[str, str] = {}

  def add(self, *row: str) -> None:
    self._rows.append(Row(*row))

  def refuse(self, name: str, reason: str) -> None:
    """Remembers what cannot be carried over, unless it was accepted that it is not."""
    if not any(re.fullmatch(pattern, name) for pattern in self._accept):
      self._refused[name] = reason

  def done(self) -> Report:
    """The report.

    Raises:
      ValueError: something was refused.
    """
    if self._refused:
      lines = '\n'.join(f'  {name}: {reason}' for name, reason in self._refused.items())
      names = ', '.join(repr(re.escape(name)) for name in self._refused)
      raise ValueError(
        f'This cannot be carried over as it is:\n{lines}\n'
        f'To go on all the same, name it: accept=[{names}]. The report then says what is lost.'
      )
    return Report(tuple(self._rows))
