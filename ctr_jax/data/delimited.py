"""Rows of delimited text in Python, as DuckDB reads them, for encoding and serving alike: a field
may be of any length; a space before its first quote and spaces after its last are no part of it.
"""

import csv
import re
from collections.abc import Iterable

# Of a field; Python's own limit is 131,072 characters.
_LONGEST = 2**31 - 1


class Rows:
  """An iterator over rows, each a list of texts.

  Raises `csv.Error` for a row with broken quotes, and goes on at the next line.

  Args:
    lines: of text, with their ends.
    delimiter: between fields, one character.
    quote: '"' or such, or '' for none.
  """

  def __init__(self, lines: Iterable[str], delimiter: str, quote: str):
    self._inside = False
    how = {'quotechar': quote} if quote else {'quoting': csv.QUOTE_NONE}
    if quote and delimiter != ' ':
      lines = self._bare(lines, re.escape(delimiter), re.escape(quote))
    self._rows = csv.reader(lines, delimiter=delimiter, strict=True, **how)

  @property
  def line_num(self) -> int:
    """Lines that were read so far."""
    return self._rows.line_num

  def __iter__(self):
    return self

  def __next__(self) -> list[str]:
    self._inside = False
    # The limit is the interpreter's: whoever else reads keeps theirs.
    limit = csv.field_size_limit(_LONGEST)
    try:
      return next(self._rows)
    finally:
      csv.field_size_limit(limit)

  def _bare(self, lines, delimiter, quote):
    """Lines without the spaces beside quotes; a value that is open at a line's end stays so."""
    text = f'[^{quote}]*+(?:{quote}{quote}[^{quote}]*+)*+'
    end = f'{quote} *(?=[\r\n]|{delimiter}|$)'
    closing = re.compile(f'{text}{end}')
    field = re.compile(f'(^|{delimiter}) ?({quote}{text})({end})?')

    def bare(match):
      # What is followed by anything else is broken, and csv says so.
      self._inside = match[3] is None
      return f'{match[1]}{match[2]}{match[3].rstrip(" ") if match[3] else ""}'

    for line in lines:
      start = ''
      if self._inside and (found := closing.match(line)):
        self._inside = False
        start, line = found[0].rstrip(' '), line[found.end() :]
      yield start + (line if self._inside else field.sub(bare, line))
