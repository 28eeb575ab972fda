"""Value <-> row number: counts, frequency ranks and cut-offs.

Row 0 of a table is for missing and unseen values. Rows 1, 2, ... are the values that train has at
least `min_count` times, the most frequent first; ties are in the order of the values' UTF-8 bytes.
Each element of an `ids` cell counts; features that share a table are counted together.
"""

import collections
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_jax.data import engine, values

_FEW = 1 << 20


class Vocabulary(NamedTuple):
  """A table's values.

  Attributes:
    name: of the table.
    kept: values with a row of their own.
    cut: values of train with too few occurrences.
    coverage: the share of train's non-missing occurrences that have a row of their own.
    ranks: the engine's table of value, count and row.
  """

  name: str
  kept: int
  cut: int
  coverage: float
  ranks: Any

  @property
  def rows(self) -> int:
    """Rows of the table, with row 0."""
    return self.kept + 1


def build(con, name: str, columns: Sequence, samples, engine_table: str, path) -> Vocabulary:
  """Counts the values of one table in train, ranks them, and stores them as Parquet.

  Args:
    con: the engine.
    name: of the embedding table.
    columns: (feature, column of `samples`) of every feature that reads it.
    samples: the rows, with `part`.
    engine_table: what to call the ranks in the engine.
    path: Parquet file to write: value, count; row number = place + 1.
  """
  feature = columns[0][0]
  counts = count(con, columns, samples, f'{engine_table}_counts')
  kept = counts.filter(counts['count'] >= feature.min_count)
  order = [ibis.desc('count'), ibis.asc('value')]
  ranked = kept.mutate(row=(ibis.row_number().over(order_by=order) + 1).cast('int32'))
  ranks = engine.store(con, engine_table, ranked)
  result = _summary(con, name, counts, feature.min_count, ranks)
  _store(con, ranks, path)
  engine.drop(con, f'{engine_table}_counts')
  return result


def count(con, columns: Sequence, samples, engine_table: str) -> Any:
  """The engine's table of each value in train and its count; arguments as of `build`."""
  train = samples.filter(samples.part == 0)
  if columns[0][0].kind == 'bucket':
    return engine.store(con, engine_table, _count_buckets(con, columns, train))
  elements = [_elements(con, f, train.select(value=train[column])) for f, column in columns]
  found = elements[0] if len(elements) == 1 else ibis.union(*elements)
  found = found.filter(found.value.notnull())
  return engine.store(con, engine_table, found.group_by('value').agg(count=found.count()))


def _summary(con, name, counts, min_count, ranks):
  kept = counts['count'] >= min_count
  sums = counts.agg(
    values=counts.count(),
    kept=kept.sum(),
    rows=counts['count'].sum(),
    covered=counts['count'].sum(where=kept),
    most=counts['count'].max(),
  )
  found = {k: int(v or 0) for k, v in engine.rows(con, sums)[0].items()}
  if found['values'] and not found['kept']:
    raise ValueError(
      f'Table {name!r}: min_count={min_count} leaves none of its {found["values"]} values; the '
      f'most frequent is seen {found["most"]} times in train. Lower min_count, or leave the '
      'feature out.'
    )
  if found['kept'] >= 2**31 - 1:
    raise ValueError(
      f'Table {name!r} has {found["kept"]} values, more than 32-bit rows can number.'
    )
  coverage = float(found['covered'] / found['rows']) if found['rows'] else 1.0
  return Vocabulary(name, found['kept'], found['values'] - found['kept'], coverage, ranks)


def _store(con, ranks, path):
  kinds = pa.schema([('value', pa.string()), ('count', pa.int64())])
  ordered = ranks.order_by('row').select('value', 'count')
  with pq.ParquetWriter(path, kinds, compression='zstd') as writer:
    for batch in equal_parts(engine.stream(con, ordered)):
      writer.write_batch(batch.cast(kinds))


def equal_parts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
  """As many rows in each batch, whatever the engine gives at once: a batch is a group of rows in
  the file, which is then the same bytes."""
  held, rows = [], 0
  for batch in batches:
    while rows + len(batch) >= engine.BATCH:
      take = engine.BATCH - rows
      yield pa.concat_batches([*held, batch.slice(0, take)])
      batch, held, rows = batch.slice(take), [], 0
    held, rows = [*held, batch], rows + len(batch)
  if rows:
    yield pa.concat_batches(held)


def _elements(con, feature, table):
  """Every non-empty element of `ids` cells as a row; other kinds as they are."""
  if feature.kind != 'ids':
    return table
  split = engine.split(con, table.value, feature.separator)
  return table.select(value=split.unnest()).filter(lambda t: t.value != '')


def _count_buckets(con, columns, train):
  """Counts in NumPy, by the same function that serving will use; buckets are few."""
  totals = collections.Counter()
  for feature, column in columns:
    for batch in engine.stream(con, train.select(train[column]).drop_null()):
      found = values.buckets(feature, _numbers(batch.column(0)))
      low = int(found.min())
      if int(found.max()) - low < _FEW:
        counts = np.bincount(found - low)
        found = np.flatnonzero(counts)
        counts, found = counts[found], found + low
      else:
        found, counts = np.unique(found, return_counts=True)
      totals.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
  table = {'value': list(map(str, totals)), 'count': list(totals.values())}
  return pa.table(table, schema=pa.schema([('value', pa.string()), ('count', pa.int64())]))


def _numbers(column) -> np.ndarray:
  """An Arrow column of numbers as float64, null as NaN."""
  return column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)


def longer(con, feature, column: str, samples, width: int) -> int:
  """How many `ids` cells have more than `width` non-empty elements, in all splits."""
  lengths = samples.select(length=_split(con, feature, samples[column]).length())
  return int(engine.rows(con, lengths.agg(cells=(lengths.length > width).sum()))[0]['cells'] or 0)


def longest(con, feature, column: str, samples) -> int:
  """Non-empty elements of the longest `ids` cell of train."""
  train = samples.filter(samples.part == 0)
  lengths = train.select(length=_split(con, feature, train[column]).length())
  return int(engine.rows(con, lengths.agg(longest=lengths.length.max()))[0]['longest'] or 0)


def _split(con, feature, column):
  return engine.split(con, column, feature.separator).filter(lambda element: element != '')


def encode(
  con, feature, column: str, samples, vocabulary: Vocabulary | None, width: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (parts, encoded values) of consecutive samples, in the files' order."""
  table = samples.select('row', 'part', value=samples[column])
  if feature.kind == 'id':
    return _encode_ids(con, table, vocabulary.ranks)
  if feature.kind == 'ids':
    return _encode_lists(con, feature, table, vocabulary.ranks, width)
  return _encode_plain(con, feature, table, vocabulary)


def _encode_ids(con, table, ranks):
  joined = table.left_join(ranks, table.value == ranks.value)
  # A join leaves no order behind.
  rows = joined.select('row', 'part', encoded=ranks.row.fill_null(0)).order_by('row')
  for batch in engine.stream(con, rows.select('part', 'encoded')):
    yield batch.column(0).to_numpy(), batch.column(1).to_numpy().astype(np.int32, copy=False)


def _encode_lists(con, feature, table, ranks, width):
  """One line per element; the first of each sample (place 0) says where a new sample begins."""
  elements = _split(con, feature, table.value)[:width]
  # An empty cell has one element, which is missing.
  nothing = ibis.array([ibis.null('string')])
  elements = ibis.ifelse(elements.length().fill_null(0) == 0, nothing, elements)
  cells = table.select('row', 'part', elements=elements)
  lines = engine.lines(con, cells, 'elements').rename(value='elements')
  joined = lines.left_join(ranks, lines.value == ranks.value)
  rows = joined.select('row', 'part', 'place', encoded=ranks.row.fill_null(0))
  rows = rows.order_by('row', 'place').select('part', 'place', 'encoded')
  rest = None
  for batch in engine.stream(con, rows):
    lines = np.stack([column.to_numpy().astype(np.int32) for column in batch.columns])
    lines = lines if rest is None else np.concatenate([rest, lines], 1)
    # The last sample may go on in the next batch.
    last = np.flatnonzero(lines[1] == 0)[-1]
    lines, rest = lines[:, :last], lines[:, last:]
    if last:
      yield _pad(lines, width)
  if rest is not None:
    yield _pad(rest, width)


def _pad(lines, width):
  parts, places, encoded = lines
  first = places == 0
  padded = np.full((int(first.sum()), width), -1, np.int32)
  padded[np.cumsum(first) - 1, places] = encoded
  return parts[first], padded


def _encode_plain(con, feature, table, vocabulary):
  """Kinds that need no join: hash, bucket, numeric."""
  keys = _bucket_keys(con, vocabulary) if feature.kind == 'bucket' else None
  for batch in engine.stream_in_order(con, table):
    parts, column = batch.column(1).to_numpy(), batch.column(2)
    if feature.kind == 'hash':
      yield parts, _hash(feature, column)
    elif feature.kind == 'numeric':
      yield parts, _numbers(column).astype(np.float32)
    else:
      yield parts, _rank_buckets(feature, _numbers(column), *keys)


def _bucket_keys(con, vocabulary):
  """(buckets in ascending order, their rows)."""
  pairs = sorted((int(e['value']), e['row']) for e in engine.rows(con, vocabulary.ranks))
  keys, ranks = np.array(pairs, np.int64).reshape(-1, 2).T
  return keys, ranks.astype(np.int32)


def _hash(feature, column):
  column = column.fill_null('')
  _, offsets, data = column.cast(pa.large_string()).buffers()
  offsets = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
  # A batch of nothing but empty texts has no bytes at all.
  data = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
  return values.reduce_hash(feature, data, offsets)


def _rank_buckets(feature, numbers, keys, ranks):
  encoded = np.zeros(len(numbers), np.int32)
  there = np.flatnonzero(~np.isnan(numbers))
  if len(keys) and len(there):
    found = values.buckets(feature, numbers[there])
    place = np.minimum(np.searchsorted(keys, found), len(keys) - 1)
    encoded[there] = np.where(keys[place] == found, ranks[place], 0)
  return encoded
