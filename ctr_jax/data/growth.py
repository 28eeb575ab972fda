"""Rows of features encoded into a draft: as new columns, or as rows after those that there are.

Values that a table does not know get row numbers after its own, the most frequent first; what it
knows keeps its number. The vocabulary's file stays as it is: a second one tells what came to it,
  row, value, count     of a new value, or of one that there was: then `value` is null, and `count`
                        is added to its count.
Counts are of train alone. A value that was seen too seldom is not remembered: the next change
begins to count it anew.
"""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_jax.data import columns, engine, segments, storage, versions, vocabulary
from ctr_jax.data import schema as schema_lib


class Job(NamedTuple):
  """What every step of one change needs.

  Attributes:
    con: DuckDB.
    draft: what is written to.
    samples: the engine's table of the rows: row, part, and a column for each feature.
    counts: split -> rows.
    leads: as `storage.write_splits` takes them; None = new columns.
    min_count: of new values of tables that there are; 0 = as the features say.
    step: told which column is done.
  """

  con: Any
  draft: versions.Draft
  samples: Any
  counts: dict[str, int]
  leads: dict[str, int] | None
  min_count: int
  step: Any


def leads(manifest: dict[str, Any]) -> dict[str, int]:
  """Where in a chunk the next row of each split lies."""
  return {split: count % manifest['chunk'] for split, count in manifest['samples'].items()}


def table(job: Job, name: str, features: Iterable[tuple[schema_lib.Feature, str]]):
  """Encodes features that share a table, and adds to its vocabulary.

  Args:
    job: of the change.
    name: of the table.
    features: each with its column of the samples.
  """
  features = list(features)
  kind, words = features[0][0].kind, None
  if kind in columns.COUNTED:
    known = job.draft.manifest['tables'].get(name)
    words = _new(job, name, features) if known is None else _grown(job, name, features)
  elif name not in job.draft.manifest['tables']:
    rows = 2 if kind == 'numeric' else features[0][0].buckets + 1
    job.draft.manifest['tables'][name] = {'rows': rows, 'kind': kind}
  for feature, column in features:
    width = _width(job, feature, column) if feature.kind == 'ids' else 0
    encoded = vocabulary.encode(job.con, feature, column, job.samples, words, width)
    dtype = 'float32' if feature.kind == 'numeric' else 'int32'
    write(job, feature.name, encoded, dtype, width)
  if words is not None:
    engine.drop(job.con, f'ranks of {name}')


def write(job: Job, name: str, batches, dtype: str, width: int = 0):
  """Writes the rows of a column; `batches` as of `storage.write_splits`."""
  arrays, chunk = job.draft.manifest['arrays'], job.draft.manifest['chunk']
  made = storage.write_splits(
    job.draft.folder, name, job.counts, batches, dtype, width, chunk=chunk, leads=job.leads
  )
  for key, entry in made.items():
    lead = 0 if job.leads is None else job.leads[key.partition('/')[0]]
    old = None if job.leads is None else arrays[key]
    arrays[key] = segments.joined(key, old, job.draft.at(key), lead, entry)
  job.step(name)


def _width(job, feature, column):
  if job.leads is None:
    longest = vocabulary.longest(job.con, feature, column, job.samples)
    return feature.width or max(1, min(longest, schema_lib.MAX_WIDTH))
  width = job.draft.manifest['arrays'][f'train/{feature.name}']['shape'][1]
  cut = vocabulary.longer(job.con, feature, column, job.samples, width)
  if cut:
    job.draft.said.append(f'{feature.name}: {cut:,} cells have more than {width} elements: cut')
  return width


def _new(job, name, features):
  file, ranks = _file(job, name), f'ranks of {name}'
  words = vocabulary.build(job.con, name, features, job.samples, ranks, job.draft.folder / file)
  entry = {'rows': words.rows, 'kept': words.kept, 'cut': words.cut, 'coverage': words.coverage}
  entry |= {'kind': features[0][0].kind, 'words': []}
  job.draft.manifest['tables'][name] = entry
  _record(job, name, file)
  return words


def _grown(job, name, features):
  """A vocabulary and what the samples add to it."""
  con, entry = job.con, job.draft.manifest['tables'][name]
  words, counts = job.draft.columns().words(name)
  rows = np.arange(1, len(words) + 1, dtype=np.int32)
  known = engine.store(con, f'words of {name}', pa.table({'value': words, 'row': rows}))
  found = vocabulary.count(con, features, job.samples, f'counts of {name}')
  joined = found.left_join(known, found.value == known.value)
  joined = joined.select(value=found.value, count=found['count'], row=known.row)
  joined = engine.store(con, f'found of {name}', joined)
  enough = joined['count'] >= (job.min_count or features[0][0].min_count)
  fresh = joined.filter(joined.row.isnull() & enough)
  order = [ibis.desc('count'), ibis.asc('value')]
  place = ibis.row_number().over(order_by=order) + 1 + len(words)
  fresh = engine.store(con, f'new of {name}', fresh.mutate(row=place.cast('int32')))
  ranks = ibis.union(known.select('value', 'row'), fresh.select('value', 'row'))
  ranks = engine.store(con, f'ranks of {name}', ranks)
  sums = joined.agg(
    values=joined.row.isnull().sum(),
    seen=joined['count'].sum(),
    missed=joined['count'].sum(where=joined.row.isnull() & ~enough),
  )
  sums = {k: int(v or 0) for k, v in engine.rows(con, sums)[0].items()}
  new = engine.rows(con, fresh.agg(new=fresh.count()))[0]['new']
  if len(words) + new >= 2**31 - 1:
    raise ValueError(f'Table {name!r} would have more values than 32-bit rows can number.')
  if sums['seen'] > sums['missed']:
    old = joined.filter(joined.row.notnull()).select('row', 'count')
    old = old.mutate(value=ibis.null('string')).select('row', 'value', 'count')
    both = ibis.union(old, fresh.select('row', 'value', 'count')).order_by('row')
    file = _file(job, name)
    _write(con, both, job.draft.folder / file)
    _record(job, name, file)
  for what in ('words', 'counts', 'found', 'new'):
    engine.drop(con, f'{what} of {name}')
  covered = int(counts.sum())
  # Where the ratio is 0 of nothing, nothing was seen.
  seen = entry.get('seen', round(covered / entry['coverage']) if entry['coverage'] else 0)
  seen, covered = seen + sums['seen'], covered + sums['seen'] - sums['missed']
  entry |= {'rows': len(words) + new + 1, 'kept': len(words) + new, 'seen': seen}
  entry['cut'] += sums['values'] - new
  entry['coverage'] = covered / seen if seen else 1.0
  job.draft.said.append(
    f'{name}: {new:,} new values, {sums["values"] - new:,} seen too seldom, '
    f'{len(words) + new:,} in all'
  )
  return vocabulary.Vocabulary(name, entry['kept'], entry['cut'], entry['coverage'], ranks)


def _write(con, table, path):
  kinds = pa.schema([('row', pa.int32()), ('value', pa.string()), ('count', pa.int64())])
  with pq.ParquetWriter(path, kinds, compression='zstd') as writer:
    for batch in vocabulary.equal_parts(engine.stream(con, table)):
      writer.write_batch(batch.cast(kinds))


def _file(job, name) -> str:
  """A new file of the draft for words of a table, which one change may add to twice."""
  (job.draft.folder / 'vocabulary').mkdir(parents=True, exist_ok=True)
  tries = (f'vocabulary/{name}{"+" * n}.parquet' for n in itertools.count())
  return next(file for file in tries if job.draft.at(file) not in job.draft.manifest['files'])


def _record(job, name, file):
  """Names a file of words in the manifest."""
  manifest, at = job.draft.manifest, job.draft.at(file)
  manifest['tables'][name]['words'] = [*columns.words_of(manifest, name), at]
  manifest['files'][at] = storage.digest(job.draft.folder, file)
