"""Bodies of requests → columns of raw values, strictly; and probabilities → bodies of answers.

A body is JSON, `{"columns": {name: [value, ...]}}` or `{"rows": [{name: value}, ...]}`, or an Arrow
IPC stream. Whatever is not exactly that is refused in a sentence: 400 if it cannot be read, 422 if
it can and does not fit the model, 413 if it is too large, 415 if it is of another type.
"""

import json
import math
import re
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from ctr_jax.serve import arrow_bodies
from ctr_jax.serve.limits import Limits, Refused

JSON = 'application/json'
ARROW = 'application/vnd.apache.arrow.stream'

_INT64 = range(-(1 << 63), 1 << 63)
_TYPES = frozenset((str, int, float, type(None), list))
# Half of a character outside the basic plane; a string with only one half is not text.
_SURROGATE = re.compile('[\ud800-\udfff]')
_ESCAPED_SURROGATE = re.compile(r'\\u[dD][89a-fA-F]')


class Parsed(NamedTuple):
  """A request's raw values: one list per column, all of `rows` values."""

  columns: dict[str, list]
  rows: int


def media_type(content_type: str | None, content_encoding: str | None = None) -> str:
  """JSON or ARROW; refuses other types, charsets and encodings."""
  if content_encoding and content_encoding.strip().lower() != 'identity':
    raise Refused(415, f'Content-Encoding {content_encoding!r} is not understood: send it plain.')
  kind, _, parameters = (content_type or '').partition(';')
  kind = kind.strip().lower()
  if kind not in (JSON, ARROW):
    found = f'is {kind!r}' if kind else 'is missing'
    raise Refused(415, f'The Content-Type {found}; send {JSON} or {ARROW}.')
  charset = re.search(r'charset\s*=\s*"?([^";\s]+)', parameters, re.IGNORECASE)
  if charset and charset[1].lower() not in ('utf-8', 'utf8'):
    raise Refused(415, f'The charset {charset[1]!r} is not understood; send UTF-8.')
  return kind


def parse(kind: str, body: bytes, names: Collection[str], limits: Limits) -> Parsed:
  """Columns of a body.

  Args:
    kind: JSON or ARROW.
    body: as it came.
    names: the columns that the model reads; a request has each of them and no other.
    limits: for the number of rows.

  Returns:
    Values that are str, None, lists of str, finite floats, and integers of 64 bits.

  Raises:
    Refused: with a status of 4xx, if the body is anything else.
  """
  if not body:
    raise Refused(400, 'The body is empty.')
  if kind == ARROW:
    columns, rows = arrow_bodies.parse(body, names, limits.max_request_rows)
    odd_text = False
  else:
    text, value = _json(body)
    columns, rows = _columns(value, names, limits.max_request_rows)
    odd_text = _ESCAPED_SURROGATE.search(text) is not None
  for name, values in columns.items():
    _check_values(name, values, odd_text)
  return Parsed(columns, rows)


def answer(kind: str, probabilities: np.ndarray, version: str) -> bytes:
  """The body of an answer, of the kind of its request."""
  if kind == ARROW:
    return arrow_bodies.answer(probabilities, version)
  return json.dumps({'version': version, 'probabilities': probabilities.tolist()}).encode()


def error(sentence: str) -> bytes:
  """The body of a refusal."""
  return json.dumps({'error': sentence}).encode()


def _json(body):
  try:
    text = body.decode()
  except UnicodeDecodeError as e:
    raise Refused(400, f'The body is not UTF-8: byte {e.start} cannot be read.') from e
  try:
    return text, json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
  except json.JSONDecodeError as e:
    raise Refused(400, f'The body is not JSON: {e}.') from e
  except RecursionError as e:
    raise Refused(400, 'The body is nested too deeply.') from e
  except ValueError as e:  # An integer of thousands of digits.
    raise Refused(400, 'The body has an integer of too many digits.') from e


def _unique(pairs):
  found = dict(pairs)
  if len(found) < len(pairs):
    seen = set()
    twice = next(name for name, _ in pairs if name in seen or seen.add(name))
    raise Refused(400, f'The key {shown(twice)} stands twice in one object.')
  return found


def _no_constant(name):
  raise Refused(400, f'{name} is not JSON; send null for a missing number.')


def _columns(value, names, max_rows):
  """Columns of either layout."""
  if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {'columns', 'rows'}:
    raise Refused(
      422, 'The body must be an object with one key: "columns" (lists by name) or "rows" (objects).'
    )
  ((layout, found),) = value.items()
  if layout == 'rows':
    return _transposed(found, names, max_rows)
  if not isinstance(found, dict):
    raise Refused(422, '"columns" must be an object of lists by column name.')
  check_names(found, names)
  for name, values in found.items():
    if not isinstance(values, list):
      raise Refused(422, f'Column {shown(name)} must be a list.')
  lengths = {name: len(values) for name, values in found.items()}
  rows = next(iter(lengths.values()), 0)
  for name, length in lengths.items():
    if length != rows:
      first = next(iter(lengths))
      raise Refused(
        422, f'Column {shown(name)} has {length} values, and {shown(first)} has {rows}.'
      )
  check_rows(rows, max_rows)
  return found, rows


def _transposed(rows, names, max_rows):
  if not isinstance(rows, list):
    raise Refused(422, '"rows" must be a list of objects.')
  check_rows(len(rows), max_rows)
  names = list(names)
  known = set(names)
  for number, row in enumerate(rows):
    if not isinstance(row, dict):
      raise Refused(422, f'Row {number} must be an object of values by column name.')
    if row.keys() != known:
      check_names(row, names, f' in row {number}')
  return {name: [row[name] for row in rows] for name in names}, len(rows)


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


def _check_values(name, values, odd_text):
  """Refuses values that are no raw values; by the set of types, so that most cost next to nothing."""
  types = set(map(type, values))
  if not types <= _TYPES:
    row = next(i for i, value in enumerate(values) if type(value) not in _TYPES)
    raise _bad(name, row, 'must be a string, a number, null or a list of strings')
  if int in types:
    for row, value in enumerate(values):
      if type(value) is int and value not in _INT64:
        raise _bad(name, row, 'is an integer of more than 64 bits; send a string')
  if float in types:
    for row, value in enumerate(values):
      if type(value) is float and not math.isfinite(value):
        raise _bad(name, row, 'is not a finite number; send null for a missing one')
  if list in types:
    for row, value in enumerate(values):
      if type(value) is list and not set(map(type, value)) <= {str}:
        raise _bad(name, row, 'is a list of something other than strings')
  if odd_text:
    for row, value in enumerate(values):
      texts = value if type(value) is list else [value] if type(value) is str else []
      if any(map(_SURROGATE.search, texts)):
        raise _bad(name, row, 'has half of a surrogate pair, which is no text')


def _bad(name, row, what):
  return Refused(422, f'Column {name!r}, row {row}: the value {what}.')
