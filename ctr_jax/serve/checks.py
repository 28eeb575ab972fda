"""What is asked of a request's columns, whatever the format they came in."""

import math
import re
from collections.abc import Collection

from ctr_jax.serve.limits import Refused

_INT64 = range(-(1 << 63), 1 << 63)
_TYPES = frozenset((str, int, float, type(None), list))
# Half of a character outside the basic plane; a string with only one half is not text.
_SURROGATE = re.compile('[\ud800-\udfff]')


def check_names(found: Collection[str], names: Collection[str], where: str = '') -> None:
  """Refuses columns that the model does not read, and the lack of one that it does."""
  for name in found:
    if name not in names:
      raise Refused(422, f'The model has no column {shown(name)}{where}; see GET /v1/model.')
  for name in names:
    if name not in found:
      raise Refused(422, f'The column {name!r} is missing{where}; send null where it has no value.')


def check_rows(rows: int, max_rows: int) -> None:
  """Refuses a request of too many rows, or of none."""
  if rows > max_rows:
    raise Refused(413, f'The request has {rows} rows, and at most {max_rows} are taken at once.')
  if not rows:
    raise Refused(422, 'The request has no rows.')


def shown(name: str) -> str:
  """A client's string, quoted and cut, for a sentence that is sent back."""
  return repr(name if len(name) <= 60 else f'{name[:60]}…').encode('ascii', 'replace').decode()


def check_values(name: str, values: list, odd_text: bool = False) -> None:
  """Refuses values that are no raw values.

  Args:
    name: of the column, for the sentence.
    values: str, None, lists of str or int, finite floats and integers of 64 bits pass. They are
      looked at by the set of their types, so that most columns cost next to nothing.
    odd_text: whether a text may hold half of a surrogate pair.
  """
  types = set(map(type, values))
  if not types <= _TYPES:
    row = next(i for i, value in enumerate(values) if type(value) not in _TYPES)
    raise _bad(name, row, 'must be a string, a number, null or a list of strings or integers')
  if int in types or list in types:
    for row, value in enumerate(values):
      numbers = value if type(value) is list else [value]
      if any(type(number) is int and number not in _INT64 for number in numbers):
        raise _bad(name, row, 'is an integer of more than 64 bits; send a string')
  if float in types:
    for row, value in enumerate(values):
      if type(value) is float and not math.isfinite(value):
        raise _bad(name, row, 'is not a finite number; send null for a missing one')
  if list in types:
    for row, value in enumerate(values):
      if type(value) is list and not set(map(type, value)) <= {str, int}:
        raise _bad(name, row, 'is a list of something other than strings and integers')
  if odd_text:
    for row, value in enumerate(values):
      texts = value if type(value) is list else [value]
      if any(type(text) is str and _SURROGATE.search(text) for text in texts):
        raise _bad(name, row, 'has half of a surrogate pair, which is no text')


def _bad(name, row, what):
  return Refused(422, f'Column {name!r}, row {row}: the value {what}.')
