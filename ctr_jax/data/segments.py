"""A column as the manifest describes it: one array, or several whose rows follow each other.

A data set as it was encoded has one array for each split and column, `<split>/<column>`. Columns
and rows that came later lie elsewhere, so their part of the manifest says where:

  {'dtype', 'shape', 'sha256', 'segments': [{'at', 'rows', 'lead', 'sha256', 'files'}, ...]}

`at` is a folder of the data set, `lead` the rows of padding before the segment's own. The lead is
as long as what the segments before leave over of whole chunks, so row r of a column lies in a chunk
that begins at a multiple of the chunk's length, whatever the segment; a chunk in which one segment
ends and another begins is two files.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple


class Segment(NamedTuple):
  """One array of a column.

  Attributes:
    at: its folder in the data set.
    first: the column's row that is its first.
    rows: how many it has.
    lead: rows of padding before them.
    sha256: of its content.
    files: name in the folder -> [bytes, SHA-256].
  """

  at: str
  first: int
  rows: int
  lead: int
  sha256: str
  files: dict[str, list]


class Piece(NamedTuple):
  """Rows start..stop of a chunk's array: what one file adds to a range of rows."""

  segment: int
  chunk: int
  start: int
  stop: int


def of(key: str, entry: dict[str, Any]) -> list[Segment]:
  """The segments of a column, from its part of the manifest."""
  if 'segments' not in entry:
    return [Segment(key, 0, entry['shape'][0], 0, entry['sha256'], entry['files'])]
  found, first = [], 0
  for part in entry['segments']:
    found.append(Segment(first=first, **part))
    first += part['rows']
  return found


def array(entry: dict[str, Any], segment: Segment) -> dict[str, Any]:
  """A segment as if it were a column: what `storage.Reader` is told."""
  shape = [segment.lead + segment.rows, *entry['shape'][1:]]
  return {'dtype': entry['dtype'], 'shape': shape, 'files': segment.files}


def joined(key: str, old: dict[str, Any] | None, at: str, lead: int, new: dict[str, Any]):
  """A column's part of the manifest with an array that goes on where it stops.

  Args:
    key: of the column.
    old: its part of the manifest; None = it has no rows yet.
    at: folder of the array.
    lead: of the array.
    new: the array's part, as `storage.Writer` gives it.
  """
  kept = [] if old is None else [s for s in of(key, old) if s.rows or not new['shape'][0]]
  parts = [{k: v for k, v in s._asdict().items() if k != 'first'} for s in kept]
  parts.append({'at': at, 'rows': new['shape'][0], 'lead': lead} | _content(new))
  shape = [sum(part['rows'] for part in parts), *new['shape'][1:]]
  sums = [part['sha256'] for part in parts]
  return {'dtype': new['dtype'], 'shape': shape, 'sha256': combined(sums), 'segments': parts}


def _content(entry):
  return {'sha256': entry['sha256'], 'files': entry['files']}


def combined(sums: list[str]) -> str:
  """The checksum of a column from those of its segments; of one segment, its own."""
  return sums[0] if len(sums) == 1 else hashlib.sha256(' '.join(sums).encode()).hexdigest()


def pieces(found: list[Segment], chunk: int, start: int, stop: int) -> Iterator[Piece]:
  """Where rows start..stop of a column lie, in order."""
  for number, segment in enumerate(found):
    first, last = max(start, segment.first), min(stop, segment.first + segment.rows)
    if first >= last:
      continue
    zero = (segment.first - segment.lead) // chunk
    for place in range(first // chunk, -(-last // chunk)):
      base = place * chunk
      yield Piece(number, place - zero, max(first - base, 0), min(last - base, chunk))


def files(manifest: dict[str, Any]) -> dict[str, list]:
  """Every file that a manifest names, within the data set -> [bytes, SHA-256]."""
  named = dict(manifest['files'])
  for key, entry in manifest['arrays'].items():
    for segment in of(key, entry):
      named |= {f'{segment.at}/{name}': value for name, value in segment.files.items()}
  return named
