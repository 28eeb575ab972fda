"""The samples of a source by day: for training day by day, each day scored before it is learned.

A stream is a source whose samples, of all its splits, are put in the order of time and cut into
days. A window of it is again a Source: some days are its 'train', a later one its 'valid' and
'test'.

  stream = days.by_column(source)                 # the source says the day of each sample
  stream = days.slices(source, 'clock', 10)       # as many samples in each of 10 days
  source = stream.window(0, 3, scored=4)          # learn from days 0 to 3, score day 4
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ctr_jax.data import columns
from ctr_jax.data import schema as schema_lib


class Stream(NamedTuple):
  """Samples by day; made by `by_column` and `slices`.

  Attributes:
    source: whose samples they are.
    order: int64 [samples], the numbers of the samples (over train, valid and test) in order of
      time; those of a day are in the source's order.
    starts: int64 [days + 1], where each day starts in `order`, and where the last one ends.
  """

  source: columns.Source
  order: np.ndarray
  starts: np.ndarray

  @property
  def days(self) -> int:
    return len(self.starts) - 1

  def samples(self, first: int, last: int) -> int:
    """In days `first` to `last`, both included."""
    return int(self.starts[last + 1] - self.starts[first])

  def window(self, first: int, last: int, scored: int | None = None) -> 'Window':
    """A source of which days `first` to `last`, both included, are 'train'.

    Args:
      first: a day, from 0.
      last: a day.
      scored: the day that is 'valid' and 'test'; without it they are the last of the days.

    Raises:
      ValueError: there is no such day.
    """
    scored = last if scored is None else scored
    if not (0 <= first <= last < self.days and 0 <= scored < self.days):
      raise ValueError(
        f'Days {first} to {last}, scored on {scored}: there are 0 to {self.days - 1}.'
      )
    return Window(self, first, last, scored)


class Window:
  """Some days of a stream; a Source. Made by `Stream.window`.

  Attributes (beyond a Source's):
    title: of the source.
  """

  def __init__(self, stream: Stream, first: int, last: int, scored: int):
    source = stream.source
    self.schema, self.rows, self.extras = source.schema, source.rows, source.extras
    self.title = getattr(source, 'title', source.schema.name)
    learned = stream.order[stream.starts[first] : stream.starts[last + 1]]
    held = stream.order[stream.starts[scored] : stream.starts[scored + 1]]
    digest = hashlib.sha256(f'{source.checksum} {len(learned)} {len(held)} '.encode())
    for numbers in (learned, held):
      digest.update(np.ascontiguousarray(numbers, np.int64))
    self.checksum = digest.hexdigest()
    self._order = {'train': learned, 'valid': held, 'test': held}
    self._source = source

  def num_samples(self, split: str) -> int:
    """Samples of 'train', 'valid' or 'test'."""
    if split not in self._order:
      raise ValueError(f'There is no split {split!r}; there are {", ".join(schema_lib.SPLITS)}.')
    return len(self._order[split])

  def read(self, split: str, names: Sequence[str], start: int, stop: int) -> dict[str, np.ndarray]:
    """Samples start..stop of a split; see `columns.Source.read`."""
    if not 0 <= start <= stop <= self.num_samples(split):
      raise ValueError(
        f'Samples {start}..{stop} of {split} were asked for; it has {self.num_samples(split)}.'
      )
    return gather(self._source, self._order[split][start:stop], names)


def gather(source: columns.Source, numbers: np.ndarray, names: Sequence[str]):
  """Samples by their numbers over train, valid and test: name → array, in the numbers' order.

  Of each split, everything between its first and its last wanted sample is read.
  """
  found: dict[str, np.ndarray] = {}
  before = 0
  for split in schema_lib.SPLITS:
    here = np.flatnonzero((numbers >= before) & (numbers < before + source.num_samples(split)))
    if len(here) or (split == 'test' and not found):  # Of nothing too, types are told.
      own = numbers[here] - before
      low = int(own.min()) if len(own) else 0
      read = source.read(split, names, low, int(own.max()) + 1 if len(own) else 0)
      for name, column in read.items():
        if name not in found:
          found[name] = np.empty((len(numbers), *column.shape[1:]), column.dtype)
        found[name][here] = column[own - low]
    before += source.num_samples(split)
  return found


def by_column(source: columns.Source, name: str = 'day') -> Stream:
  """The days that a column of whole numbers says, from its smallest to its largest.

  Raises:
    ValueError: a day is no whole number, or one has no samples; or it is the row of a table.
  """
  day = _clock(source, name)
  if not np.array_equal(day, np.floor(day)):
    raise ValueError(f'Column {name!r} of {source.schema.name!r}: a day is a whole number.')
  day = day.astype(np.int64)
  there, counts = np.unique(day, return_counts=True)
  gap = np.flatnonzero(np.diff(there) > 1)
  if len(gap):
    raise ValueError(
      f'Day {there[gap[0]] + 1} of {source.schema.name!r} has no samples: number its days without '
      'a gap.'
    )
  return Stream(source, np.argsort(day, kind='stable'), np.concatenate([[0], np.cumsum(counts)]))


def slices(source: columns.Source, clock: str, count: int) -> Stream:
  """`count` days of equally many samples (but for one), in the order of a clock; ties in the
  source's order.

  Raises:
    ValueError: more days than samples; a clock that is not finite, or is the row of a table.
  """
  time = _clock(source, clock)
  if not 1 <= count <= len(time) or not np.isfinite(time).all():
    raise ValueError(
      f'{count} days of {len(time)} samples by {clock!r}: each has at least one sample, and the '
      'clock is a number in every sample.'
    )
  starts = np.arange(count + 1) * len(time) // count
  return Stream(source, np.argsort(time, kind='stable'), starts)


def _clock(source, name):
  """A column of numbers that follow each other in time."""
  kinds = {f.name: f.kind for f in source.schema.features}
  if kinds.get(name, 'numeric') != 'numeric':
    raise ValueError(
      f'{name!r} of {source.schema.name!r} is of kind {kinds[name]!r}: its numbers are rows of a '
      "table and tell no time. Encode the column with kind = 'numeric' too, under another name."
    )
  return _read(source, name)


class Held:
  """A source in memory, for streams that are read again and again; a Source. Made by `held`."""

  def __init__(self, source: columns.Source, found: dict[str, dict[str, np.ndarray]]):
    self.schema, self.rows, self.extras = source.schema, dict(source.rows), source.extras
    self.checksum, self.title = source.checksum, getattr(source, 'title', source.schema.name)
    self._found = found

  def num_samples(self, split: str) -> int:
    """Samples of 'train', 'valid' or 'test'."""
    return len(self._found[split]['label'])

  def read(self, split: str, names: Sequence[str], start: int, stop: int) -> dict[str, np.ndarray]:
    """Samples start..stop of a split; see `columns.Source.read`."""
    return {name: self._found[split][name][start:stop] for name in names}


def held(source: columns.Source, extras: Sequence[str] = ()) -> Held:
  """All features, labels and some extras of a source, read once and kept."""
  names = (*source.schema.names, 'label', *extras)
  read = {s: source.read(s, names, 0, source.num_samples(s)) for s in schema_lib.SPLITS}
  return Held(source, read)


def _read(source, name):
  """A column over train, valid and test."""
  splits = [(split, source.num_samples(split)) for split in schema_lib.SPLITS]
  return np.concatenate([source.read(s, (name,), 0, n)[name] for s, n in splits])


class Mapped:
  """A source whose ids are turned into other rows; a Source.

  Attributes: as the source's, but for `rows` of the tables that are mapped.
  """

  def __init__(self, source: columns.Source, tables: Mapping):
    """
    Args:
      source: any; ids are what its tables' rows are.
      tables: table → what has `capacity` and turns values into rows (`admission.Table`).
    """
    self.schema, self.extras, self.checksum = source.schema, source.extras, source.checksum
    self.title = getattr(source, 'title', source.schema.name)
    self.rows = dict(source.rows) | {t: x.capacity + 1 for t, x in tables.items()}
    self._source, self._tables = source, tables

  def num_samples(self, split: str) -> int:
    """Samples of 'train', 'valid' or 'test'."""
    return self._source.num_samples(split)

  def read(self, split: str, names: Sequence[str], start: int, stop: int) -> dict[str, np.ndarray]:
    """Samples start..stop of a split, by the rows that values have now."""
    found = dict(self._source.read(split, names, start, stop))
    for feature in self.schema.features:
      if feature.name in found and feature.table in self._tables:
        column = found[feature.name]
        rows = self._tables[feature.table].rows(column)
        found[feature.name] = np.where(column < 0, column, rows)  # Padding stays.
    return found
