r"""Crosses of features, as columns beside an encoded data set.

A **cross** is an id of its own for each pair of values of two features: a vocabulary by frequency,
or a hash of the pair. A **statistic** tells how often a pair of values was clicked in the past:
`lift`, the log-odds of the smoothed click rate above that of all samples, and `seen`, log(1 + how
often), both of the sample's history alone (see `ctr_jax.data.history`).

What is made lies in a folder of its own; nothing of the data set is written again. `beside.join`
reads both as one:

  added = crosses.add(source, 'crossed', [Cross('user', 'item')], [Statistic('user', 'item')],
                      History(clock='day'))
  source = beside.join(source, added)

  <out>/vocabulary/<cross>.parquet   value 'u,v' (row numbers of the two tables), count
  <out>/lookup/<statistic>.parquet   u, v, lift, seen: of all of train, what serving would look up
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_jax.data import additions, columns, engine, pair_queries, pairs, storage, vocabulary
from ctr_jax.data import history as history_lib
from ctr_jax.data import schema as schema_lib

# Of a lookup's entry in memory: two int32 row numbers, and an int32 id or two float32 numbers.
_ID_BYTES, _STATISTIC_BYTES = 12, 16


@dataclasses.dataclass(frozen=True)
class Cross:
  """An id for each pair of values.

  Attributes:
    first: feature.
    second: feature.
    min_count: pairs seen in train fewer times have no row of their own.
    buckets: hash pairs into so many rows and keep no vocabulary; 0 = keep one.
  """

  first: str
  second: str
  min_count: int = 2
  buckets: int = 0

  @property
  def feature(self) -> schema_lib.Feature:
    name = f'{self.first}-{self.second}'
    if self.buckets:
      return schema_lib.Feature(f'{name}.hash', 'hash', buckets=self.buckets)
    return schema_lib.Feature(name, min_count=self.min_count)


@dataclasses.dataclass(frozen=True)
class Statistic:
  """The click rate of each pair of values in the past.

  Attributes:
    first: feature.
    second: feature.
    strength: samples that the click rate of all counts for.
  """

  first: str
  second: str
  strength: float = 20.0

  def __post_init__(self):
    if self.first == self.second:
      raise ValueError(f'A statistic is of two features, and {self.first!r} is given twice.')

  @property
  def name(self) -> str:
    return f'{self.first}-{self.second}'

  @property
  def features(self) -> tuple[schema_lib.Feature, schema_lib.Feature]:
    return tuple(schema_lib.Feature(f'{self.name}.{x}', 'numeric') for x in ('lift', 'seen'))


class _Job(NamedTuple):
  """What every step needs."""

  samples: pair_queries.Samples
  counts: dict[str, int]
  folder: pathlib.Path


def add(
  source: columns.Source,
  out,
  crosses: Sequence[Cross] = (),
  statistics: Sequence[Statistic] = (),
  history: history_lib.History | None = None,
  *,
  engine_name: str = 'duckdb',
  memory: str = '1GB',
) -> columns.Columns:
  """Makes columns of crosses and statistics, or opens what an equal call has made.

  Args:
    source: whose features are crossed.
    out: folder to make. It appears only when it is complete.
    crosses: ids to make.
    statistics: click rates to make; two columns each.
    history: what a statistic may know; out of fold where it is not given.
    engine_name: 'duckdb' or 'spark'.
    memory: limit of DuckDB.

  Returns:
    The new columns alone, for `beside.join`.

  Raises:
    ValueError: a feature that cannot be crossed, or a clock that is none.
    FileExistsError: `out` holds something else.
  """
  history = history or history_lib.History()
  features = [cross.feature for cross in crosses]
  features += [feature for statistic in statistics for feature in statistic.features]
  made_of = {
    'crosses': [dataclasses.asdict(x) for x in crosses],
    'statistics': [dataclasses.asdict(x) for x in statistics],
    'history': dataclasses.asdict(history),
  }
  names = [name for x in (*crosses, *statistics) for name in (x.first, x.second)]

  def fill(folder, counts):
    scratch = folder / 'engine'
    scratch.mkdir()
    with engine.quiet(), engine.opened(engine_name, scratch, memory) as con:
      periods = history_lib.Periods(source, history)
      samples = pair_queries.load(con, source, names, periods, scratch)
      made = _fill(_Job(samples, counts, folder), crosses, statistics)
    shutil.rmtree(scratch)
    return made

  return additions.make(source, out, features, made_of, fill)


class Known(NamedTuple):
  """What samples of one period may know of pairs.

  Attributes:
    period: of the samples; None for what is served, which is all of train.
    rate: click rate of the history.
    pairs: the statistics of each pair of features.
  """

  period: int | None
  rate: float
  pairs: tuple[pairs.Pairs, ...]


def known(
  source: columns.Source,
  chosen: Sequence[tuple[str, str]],
  history: history_lib.History,
  *,
  engine_name: str = 'duckdb',
  memory: str = '1GB',
) -> Iterator[Known]:
  """The statistics of pairs of features by period, for whoever learns from them; served ones last.

  Args:
    source: of the samples.
    chosen: pairs of features.
    history: out of fold, or with a clock and slices of it.
    engine_name: 'duckdb' or 'spark'.
    memory: limit of DuckDB.
  """
  names = [name for pair in chosen for name in pair]
  periods = history_lib.Periods(source, history)
  with (
    tempfile.TemporaryDirectory() as folder,
    engine.quiet(),
    engine.opened(engine_name, folder, memory) as con,
  ):
    samples = pair_queries.load(con, source, names, periods, folder)
    for period in (*periods.known, None):
      found = tuple(pair_queries.totals(samples, *pair, period) for pair in chosen)
      yield Known(period, pair_queries.rate(samples, period), found)


def _fill(job, crosses, statistics):
  made = additions.Made({}, {}, {})
  for number, cross in enumerate(crosses):
    feature = cross.feature
    made.tables[feature.table], nbytes, written = _cross(job, cross, f'pairs_{number}')
    made.lookups[feature.name] = {'bytes': nbytes, 'features': [feature.name]}
    made.arrays.update(written)
  rates = pair_queries.rates(job.samples) if statistics else None
  for statistic in statistics:
    nbytes, written = _statistic(job, statistic, rates)
    names = [feature.name for feature in statistic.features]
    made.lookups[f'{statistic.name} statistic'] = {'bytes': nbytes, 'features': names}
    made.tables.update({f.table: {'rows': 2, 'kind': 'numeric'} for f in statistic.features})
    made.arrays.update(written)
  return made


def _cross(job, cross, ranks):
  """(its table's part of the manifest, bytes of its lookup, its arrays)."""
  feature, con = cross.feature, job.samples.con
  samples, words = pair_queries.texts(job.samples, cross.first, cross.second), None
  if feature.kind == 'id':
    path = job.folder / 'vocabulary' / f'{feature.table}.parquet'
    words = vocabulary.build(con, feature.table, [(feature, 'pair')], samples, ranks, path)
  encoded = vocabulary.encode(con, feature, 'pair', samples, words, 0)
  written = storage.write_splits(job.folder, feature.name, job.counts, encoded, 'int32')
  if words is None:
    return {'rows': cross.buckets + 1, 'kind': 'hash'}, 0, written
  engine.drop(con, ranks)
  entry = {'rows': words.rows, 'kept': words.kept, 'cut': words.cut, 'coverage': words.coverage}
  return {**entry, 'kind': 'id'}, _ID_BYTES * words.kept, written


def _statistic(job, statistic, rates):
  """(bytes of its lookup, its arrays)."""
  names = (statistic.first, statistic.second)
  found = zip(*pair_queries.statistics(job.samples, names), strict=True)
  part, clicks, count = map(np.concatenate, found)
  made = (pairs.lift(clicks, count, rates, statistic.strength), _seen(count))
  arrays = {}
  for feature, column in zip(statistic.features, made, strict=True):
    batches = [(part, column)]
    arrays |= storage.write_splits(job.folder, feature.name, job.counts, batches, 'float32')
  served = pair_queries.totals(job.samples, *names)
  rate = pair_queries.rate(job.samples)
  lookup = {
    'u': served.u,
    'v': served.v,
    'lift': pairs.lift(served.clicks, served.count, rate, statistic.strength),
    'seen': _seen(served.count),
  }
  path = job.folder / 'lookup' / f'{statistic.name}.parquet'
  pq.write_table(pa.table(lookup), path, compression='zstd')
  return _STATISTIC_BYTES * len(served.u), arrays


def _seen(count):
  return np.log1p(count).astype(np.float32)
