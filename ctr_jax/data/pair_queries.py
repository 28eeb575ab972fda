"""Samples in the engine, and what is asked of pairs of features there; the same on every engine.

The engine's table has one line for each sample of all splits, in order:

  row: its number, over all splits    part: 0 train, 1 valid, 2 test    label: 0 or 1
  period: see `ctr_jax.data.history`  k0, k1, ...: row numbers of the features that are paired
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_jax.data import columns, engine, pairs
from ctr_jax.data import history as history_lib
from ctr_jax.data import schema as schema_lib


class Samples(NamedTuple):
  """The samples in the engine.

  Attributes:
    con: the engine.
    table: of the samples.
    key: feature -> its column there.
    periods: of the samples.
  """

  con: Any
  table: Any
  key: dict[str, str]
  periods: history_lib.Periods


def load(
  con, source: columns.Source, names: Sequence[str], periods: history_lib.Periods, folder
) -> Samples:
  """Hands the named features of a source to the engine, by way of a Parquet file in `folder`."""
  names = tuple(dict.fromkeys(names))
  for name in names:
    feature = source.schema.feature(name)
    if feature.kind not in ('id', 'bucket', 'hash'):
      raise ValueError(
        f'Feature {name!r} is of kind {feature.kind!r} and cannot be crossed: a cross is of one id '
        'and another. Bucket a number first; several ids make no one pair.'
      )
  key = {name: f'k{i}' for i, name in enumerate(names)}
  kinds = [('row', pa.int64()), ('part', pa.int8()), ('label', pa.int8()), ('period', pa.int64())]
  path = pathlib.Path(folder) / 'samples' / 'all.parquet'
  path.parent.mkdir()
  with pq.ParquetWriter(path, pa.schema([*kinds, *((k, pa.int32()) for k in key.values())])) as out:
    first = 0
    for part, split in enumerate(schema_lib.SPLITS):
      total = source.num_samples(split)
      for start in range(0, total, history_lib.BLOCK):
        stop = min(start + history_lib.BLOCK, total)
        out.write_table(_block(source, key, periods, part, start, stop, first, out.schema))
      first += total
  return Samples(con, engine.read_parquet(con, 'samples', path.parent), key, periods)


def _block(source, key, periods, part, start, stop, first, kinds):
  split = schema_lib.SPLITS[part]
  read = source.read(split, (*key, 'label'), start, stop)
  block = {
    'row': np.arange(first + start, first + stop),
    'part': np.full(stop - start, part, np.int8),
    'label': read['label'].astype(np.int8),
    'period': periods.read(split, start, stop),
    **{column: read[name] for name, column in key.items()},
  }
  return pa.table(block, schema=kinds)


def _there(samples, names):
  """The samples in which none of the features is missing or unseen (row 0)."""
  table = samples.table
  return table.filter([table[samples.key[name]] > 0 for name in names]) if names else table


def _past(samples, names: Sequence[str]):
  """names..., period -> clicks and count of the history of a sample of that period.

  Groups of valid and of test count nothing, but are there: each asks for its history.
  """
  keys = [samples.key[name] for name in names]
  table = _there(samples, names)
  train = table.part == 0
  grouped = table.group_by([*keys, 'period']).agg(
    own_clicks=ibis.ifelse(train, table.label, 0).sum(),
    own_count=train.cast('int8').sum(),
  )

  def past(own):
    if samples.periods.history.ordered:
      before = ibis.window(group_by=keys, order_by='period', preceding=(None, 1))
      return own.sum().over(before).fill_null(0)
    return own.sum().over(ibis.window(group_by=keys)) - own

  return grouped.select(
    *keys, 'period', clicks=past(grouped.own_clicks), count=past(grouped.own_count)
  )


def statistics(samples: Samples, names: Sequence[str]) -> Iterator[tuple[np.ndarray, ...]]:
  """(part, clicks, count) of each sample's values of the features, in its history, in order.

  Args:
    samples: in the engine.
    names: one or two features, or none: then of all samples of the history.

  Yields:
    int8, int64 and int64 [some consecutive samples]; count is 0 where a feature is missing.
  """
  keys = [samples.key[name] for name in names]
  table, past = samples.table, _past(samples, names)
  on = [table[key] == past[key] for key in [*keys, 'period']]
  joined = table.left_join(past, on)
  ordered = joined.select(
    'row', 'part', clicks=past.clicks.fill_null(0), count=past['count'].fill_null(0)
  ).order_by('row')
  for batch in engine.stream(samples.con, ordered):
    yield tuple(_integers(batch.column(i)) for i in (1, 2, 3))


def _integers(column) -> np.ndarray:
  """As int64: engines sum in types of their own, DuckDB in 128 bits."""
  return column.cast(pa.int64()).to_numpy()


def _history(samples, table, period):
  """The samples of train that a sample of a period may know; all of them where that is None."""
  table = table.filter(table.part == 0)
  if period is None or period == -1:
    return table
  earlier = samples.periods.history.ordered
  return table.filter(table.period < period if earlier else table.period != period)


def totals(samples: Samples, first: str, second: str, period: int | None = None) -> pairs.Pairs:
  """The pairs of two features in the history of a period; without one, in all of train."""
  table = _history(samples, _there(samples, (first, second)), period)
  keys = [samples.key[first], samples.key[second]]
  clicks = table.label.sum()
  found = table.group_by(keys).agg(clicks=clicks, count=table.count()).order_by(keys)
  read = [[_integers(c) for c in batch.columns] for batch in engine.stream(samples.con, found)]
  nothing = [np.zeros(0, np.int64)] * 4
  u, v, clicks, count = (np.concatenate(x) for x in zip(*(read or [nothing]), strict=True))
  return pairs.Pairs(first, second, u.astype(np.int32), v.astype(np.int32), clicks, count)


def texts(samples: Samples, first: str, second: str):
  """The samples with the text 'u,v' of a pair of row numbers, null where a feature is missing."""
  u, v = (samples.table[samples.key[name]] for name in (first, second))
  text = u.cast('string') + ',' + v.cast('string')
  pair = ibis.ifelse((u > 0) & (v > 0), text, ibis.null('string'))
  return samples.table.select('row', 'part', pair=pair)


def rates(samples: Samples) -> np.ndarray:
  """The click rate of each sample's history, float64 [samples]: what its pairs are held against.

  Counted from one half of a click in one sample, so that it is a probability from the first on.
  """
  return np.concatenate([(clicks + 0.5) / (n + 1) for _, clicks, n in statistics(samples, ())])


def rate(samples: Samples, period: int | None = None) -> float:
  """As `rates`, of the history of one period; without one, of all of train."""
  table = _history(samples, samples.table, period)
  found = table.agg(clicks=table.label.sum(), count=table.count())
  (entry,) = engine.rows(samples.con, found)
  return (int(entry['clicks'] or 0) + 0.5) / (int(entry['count']) + 1)
