"""Where the rows of a column lie that grew."""

import random

import pytest

from ctr_jax.data import segments


def grown(sizes, chunk):
  """A column's part of the manifest, appended to as many times, and where each row lies."""
  entry, places, total = None, [], 0
  for number, size in enumerate(sizes):
    lead = total % chunk
    array = {'dtype': 'int32', 'shape': [size], 'sha256': f'{number}', 'files': {}}
    entry = segments.joined('train/x', entry, f'changes/{number}/train/x', lead, array)
    kept = sum(1 for s in segments.of('train/x', entry)) - 1
    places += [(kept, *divmod(lead + i, chunk)) for i in range(size)]
    total += size
  return entry, places


@pytest.mark.parametrize(
  'sizes', [(5,), (16,), (3, 1, 9), (8, 8), (7, 30, 2, 16), (0, 5), (0, 8, 0)]
)
def test_rows_are_where_they_were_written(sizes):
  chunk, rng = 8, random.Random(0)
  entry, places = grown(sizes, chunk)
  found = segments.of('train/x', entry)
  assert entry['shape'] == [sum(sizes)] == [sum(segment.rows for segment in found)]
  for _ in range(50):
    start = rng.randint(0, sum(sizes))
    stop = rng.randint(start, sum(sizes))
    pieces = list(segments.pieces(found, chunk, start, stop))
    rows = [(p.segment, p.chunk, i) for p in pieces for i in range(p.start, p.stop)]
    assert rows == places[start:stop]
  # Whole chunks of rows are one file each, but where segments meet.
  for start in range(0, sum(sizes), chunk):
    stop = min(start + chunk, sum(sizes))
    inside = sum(start < segment.first < stop for segment in found)
    assert len(list(segments.pieces(found, chunk, start, stop))) == 1 + inside


def test_as_encoded():
  entry = {'dtype': 'int32', 'shape': [5, 2], 'sha256': 'x', 'files': {'c/0/0': [1, 'y']}}
  (segment,) = segments.of('train/x', entry)
  assert segment == segments.Segment('train/x', 0, 5, 0, 'x', {'c/0/0': [1, 'y']})
  assert segments.array(entry, segment)['shape'] == [5, 2]
  manifest = {'files': {'vocabulary/x.parquet': [2, 'z']}, 'arrays': {'train/x': entry}}
  assert segments.files(manifest) == {'vocabulary/x.parquet': [2, 'z'], 'train/x/c/0/0': [1, 'y']}
  assert segments.combined(['x']) == 'x' != segments.combined(['x', 'y'])
