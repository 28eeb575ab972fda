"""JSON bodies → columns of raw values, and probabilities → a body; stricter than JSON's own rules.

A key that stands twice, NaN and Infinity are refused: the one hides a value, the others are not
JSON.
"""

import json
import re
from collections.abc import Collection

import numpy as np

from ctr_jax.serve import checks
from ctr_jax.serve.limits import Refused

_ESCAPED_SURROGATE = re.compile(r'\\u[dD][89a-fA-F]')


def parse(body: bytes, names: Collection[str], max_rows: int) -> tuple[dict[str, list], int, bool]:
  """Columns of a body, how many rows they have, and whether a text may be half a surrogate pair."""
  text, value = _read(body)
  columns, rows = _columns(value, names, max_rows)
  return columns, rows, _ESCAPED_SURROGATE.search(text) is not None


def answer(probabilities: np.ndarray, version: str) -> bytes:
  """`{"version": ..., "probabilities": [...]}`."""
  return json.dumps({'version': version, 'probabilities': probabilities.tolist()}).encode()


def error(sentence: str) -> bytes:
  """`{"error": ...}`, the body of every refusal."""
  return json.dumps({'error': sentence}).encode()


def _read(body):
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
    raise Refused(400, f'The key {checks.shown(twice)} stands twice in one object.')
  return found


def _no_constant(name):
  raise Refused(400, f'The body has {name}, which is not JSON; send null for a missing number.')


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
  checks.check_names(found, names)
  for name, values in found.items():
    if not isinstance(values, list):
      raise Refused(422, f'Column {checks.shown(name)} must be a list.')
  lengths = {name: len(values) for name, values in found.items()}
  rows = next(iter(lengths.values()), 0)
  for name, length in lengths.items():
    if length != rows:
      first = next(iter(lengths))
      raise Refused(
        422,
        f'Column {checks.shown(name)} has {length} values, and {checks.shown(first)} has {rows}.',
      )
  checks.check_rows(rows, max_rows)
  return found, rows


def _transposed(rows, names, max_rows):
  if not isinstance(rows, list):
    raise Refused(422, '"rows" must be a list of objects.')
  checks.check_rows(len(rows), max_rows)
  names = list(names)
  known = set(names)
  for number, row in enumerate(rows):
    if not isinstance(row, dict):
      raise Refused(422, f'Row {number} must be an object of values by column name.')
    if row.keys() != known:
      checks.check_names(row, names, f' in row {number}')
  return {name: [row[name] for row in rows] for name in names}, len(rows)
