"""Raw values → the columns that a model reads, exactly as `ctr_jax.data.encode` makes them.

The transforms are the same functions (`data.values`); what the ETL engine does there, parsing and
joining, is done here in Python and NumPy, and a test compares the two on raw rows.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ctr_jax.data import schema as schema_lib
from ctr_jax.data import values
from ctr_jax.serve import float32

_LARGEST = 3.4028234e38  # float32's, of `data.raw`.
_NUMBER = re.compile(r'\s*[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?\s*|\s*[+-]?nan\s*', re.I | re.A)
_LONGEST_NUMBER = 400  # Characters; a double has 17 digits and at most 324 zeros.


class BadInput(ValueError):
  """Raw values that cannot be scored; the message names the column, the row and the remedy."""


def kinds(features: Sequence[schema_lib.Feature]) -> dict[str, str]:
  """Raw column → kind of the (first) feature that reads it."""
  found: dict[str, str] = {}
  for feature in features:
    found.setdefault(feature.column, feature.kind)
  return found


def known(schema: schema_lib.Schema) -> set[str]:
  """Every raw column that the schema knows, read or not."""
  clock = {schema.split.column} if schema.split.column else set()
  return {f.column for f in schema.features} | {schema.label, *schema.ignore} | clock


def check(columns: Mapping[str, Sequence[Any]], needed: Sequence[str], allowed: set[str]) -> int:
  """Rows of the columns, if all that are needed are there, none is unknown, and lengths agree.

  Raises:
    BadInput: they do not.
  """
  if not isinstance(columns, Mapping):
    raise BadInput(f'Columns are a mapping of name → values, got {type(columns).__name__}.')
  unknown = sorted(str(name) for name in columns if name not in allowed)
  if unknown:
    raise BadInput(
      f'Column {unknown[0]!r} is unknown; the model reads {", ".join(needed)}. Leave it out.'
    )
  lengths = {}
  for name in needed:
    if name not in columns:
      raise BadInput(
        f'Column {name!r} is missing; give a value for each row, None where there is none.'
      )
    if isinstance(columns[name], (str, bytes)) or not hasattr(columns[name], '__len__'):
      raise BadInput(
        f'Column {name!r} is a {type(columns[name]).__name__}, not a list of values, one for each '
        'row.'
      )
    lengths[name] = len(columns[name])
  first = needed[0]
  for name, length in lengths.items():
    if length != lengths[first]:
      raise BadInput(
        f'Column {name!r} has {length} rows and column {first!r} has {lengths[first]}: every '
        'column needs a value for each row.'
      )
  return lengths[first]


def encode(
  feature: schema_lib.Feature,
  column: Sequence[Any],
  width: int,
  find: Callable[[Any], np.ndarray] | None,
) -> np.ndarray:
  """One feature's raw values as its column.

  Args:
    feature: says how.
    column: str, int, float, bool or None; of kind 'ids' lists of these too.
    width: elements kept of an `ids` feature.
    find: values → rows, see `vocabulary`; none for hash and numeric.

  Returns:
    As `columns.Source.read`: int32 [n]; ids int32 [n, width], padded with -1; numeric float32 [n].

  Raises:
    BadInput: a value is of a wrong type, or is not the number that it should be.
  """
  if feature.kind in ('id', 'hash'):
    words = _texts(column, feature.column, range(len(column)))
    return find(words) if feature.kind == 'id' else values.hash_rows(feature, words)
  if feature.kind == 'ids':
    return _lists(feature, column, width, find)
  found = _numbers(column, feature)
  if feature.kind == 'numeric':
    return found.astype(np.float32)
  encoded = np.zeros(len(found), np.int32)
  there = np.flatnonzero(~np.isnan(found))
  if len(there):
    encoded[there] = find(values.buckets(feature, found[there]))
  return encoded


def _texts(values, column, rows):
  """What cells say as texts of type str; rows[i] is where values[i] stands."""
  words = ['' if x is None else x for x in values]
  if set(map(type, words)) <= {str}:
    try:
      ''.join(words).encode()  # All at once: what is no Unicode text is looked for one by one.
      return words
    except UnicodeEncodeError:
      pass
  return [_text(x, column, row) for x, row in zip(float32.plain(words), rows, strict=True)]


def _text(value, column, row):
  """What a cell says as text; an empty one is missing, and so is NaN."""
  if value is None:
    return ''
  if isinstance(value, str):
    if not value.isascii():
      _refuse_surrogates(value, column, row)
    return str.__str__(value)  # Of a subclass too, which may compare and hash as it likes.
  if isinstance(value, (bool, np.bool_)):
    return str(int(value))
  if isinstance(value, numbers.Integral):
    return str(int(value))
  if isinstance(value, (float, np.floating)):
    return '' if value != value else repr(float(value))
  raise BadInput(
    f'Column {column!r}, row {row}: {_shown(value)} is a {type(value).__name__}; give a text, a '
    'number, or None where there is none.'
  )


def _refuse_surrogates(value, column, row):
  try:
    value.encode()
  except UnicodeEncodeError:
    raise BadInput(f'Column {column!r}, row {row}: {value!a} is not Unicode text.') from None


def _shown(value):
  text = repr(value[:50] if isinstance(value, str) else value)
  return text if len(text) <= 40 else f'{text[:40]}...'


def _lists(feature, column, width, find):
  cells = [x if _has_parts(x) else (x,) for x in column]
  counts = np.array([len(cell) for cell in cells], np.int64)
  texts = [part for cell in cells for part in cell]
  texts = _texts(texts, feature.column, np.repeat(np.arange(len(cells)), counts))
  parts = {text: [x for x in text.split(feature.separator) if x] for text in set(texts)}
  if any(found != [text] for text, found in parts.items()):
    of_text = np.array([len(parts[text]) for text in texts], np.int64)
    ends = np.concatenate([[0], np.cumsum(of_text)])[np.concatenate([[0], np.cumsum(counts)])]
    counts, texts = np.diff(ends), [word for text in texts for word in parts[text]]
  place = np.arange(len(texts)) - np.repeat(np.cumsum(counts) - counts, counts)
  kept = np.flatnonzero(place < width)
  padded = np.full((len(cells), width), -1, np.int32)
  padded[counts == 0, 0] = 0  # An empty cell has one element, which is missing.
  cell = np.repeat(np.arange(len(cells)), counts)[kept]
  words = texts if len(kept) == len(texts) else [texts[i] for i in kept.tolist()]
  padded[cell, place[kept]] = find(words)
  return padded


def _has_parts(cell):
  return isinstance(cell, (list, tuple)) or (isinstance(cell, np.ndarray) and cell.ndim > 0)


def _numbers(column, feature):
  """float64 [n], NaN = missing, each checked as the encoder checks it."""
  if set(map(type, column)) <= {float, type(None)}:
    found = [math.nan if x is None else x for x in column]
  else:
    found = [_number(x, feature.column, row) for row, x in enumerate(float32.plain(column))]
  found = np.array(found, np.float64)
  bad = np.flatnonzero(np.abs(found) > _LARGEST)
  if len(bad):
    raise BadInput(
      f'Column {feature.column!r}, row {bad[0]}: {found[bad[0]]} is larger than a float32 can be.'
    )
  if feature.kind == 'bucket' and feature.transform in ('hour', 'weekday', 'weekend'):
    bad = np.flatnonzero(~np.isnan(found) & ~values.is_time(found))
    if len(bad):
      raise BadInput(
        f'Column {feature.column!r}, row {bad[0]}: {found[bad[0]]:.17g} is not a time YYMMDDHH.'
      )
  return found


def _number(value, column, row):
  if value is None:
    return math.nan
  try:
    if isinstance(value, str):
      if not value:
        return math.nan
      if len(value) > _LONGEST_NUMBER:
        raise BadInput(
          f'Column {column!r}, row {row}: {_shown(value)} has {len(value)} characters; a number '
          f'has at most {_LONGEST_NUMBER}.'
        )
      if _NUMBER.fullmatch(value):
        return float(value)
    elif isinstance(value, (numbers.Real, np.number, np.bool_)):
      return float(value)
  except (OverflowError, TypeError):
    pass
  raise BadInput(
    f'Column {column!r}, row {row}: {_shown(value)} is not a number; give a number, a text of one, '
    'or None where there is none.'
  )
