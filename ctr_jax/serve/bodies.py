"""Bodies of requests → columns of raw values, strictly; and probabilities → bodies of answers.

A body is JSON, `{"columns": {name: [value, ...]}}` or `{"rows": [{name: value}, ...]}`, or an Arrow
IPC stream. Whatever is not exactly that is refused in a sentence: 400 if it cannot be read, 422 if
it can and does not fit the model, 413 if it is too large, 415 if it is of another type.
"""

import re
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from ctr_jax.serve import arrow_bodies, checks, json_bodies
from ctr_jax.serve.limits import Limits, Refused

JSON = 'application/json'
ARROW = 'application/vnd.apache.arrow.stream'


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
    limits: for the number of rows, and what they may have together.

  Returns:
    Values that are str, None, lists of str or int, finite floats, and integers of 64 bits.

  Raises:
    Refused: with a status of 4xx, if the body is anything else.
  """
  if not body:
    raise Refused(400, 'The body is empty.')
  if kind == ARROW:
    columns, rows = arrow_bodies.parse(body, names, limits)
    odd_text = False
  else:
    columns, rows, odd_text = json_bodies.parse(body, names, limits.max_request_rows)
  for name, values in columns.items():
    checks.check_values(name, values, odd_text)
  return Parsed(columns, rows)


def warm_up() -> None:
  """Does beforehand what the first Arrow body would wait for.

  Arrow imports pandas, where that is installed, when it makes its first array: half a second in
  which the service would answer nobody.
  """
  answer(ARROW, np.zeros(1, np.float32), '')


def answer(kind: str, probabilities: np.ndarray, version: str) -> bytes:
  """The body of an answer, of the kind of its request."""
  made = arrow_bodies if kind == ARROW else json_bodies
  return made.answer(probabilities, version)
