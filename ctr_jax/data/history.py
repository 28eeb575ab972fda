"""Which samples a statistic of a sample may be made of: its history.

A statistic of clicks that knows the click of its own sample is a leak: a model that sees it looks
good in training and is not. So every sample has a period, and its history is

  where there is time      samples of train in earlier periods; a period is a value of the clock, or
                           one of a few slices of it;
  where there is none      out of fold: for train, samples of train in other folds; for valid and
                           test, all of train.

Samples of valid and test are nobody's history.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ctr_jax.data import columns, draws

BLOCK = 1 << 17


@dataclasses.dataclass(frozen=True)
class History:
  """How samples are told from their history.

  Attributes:
    clock: numeric column (or extra) with whole numbers that grow with time; '' = none, out of fold.
      Columns are float32, in which Unix seconds within 128 of each other are one time: count hours
      or days.
    slices: of the clock, with equally many samples of train; 0 = each of its values is a period.
    folds: of train, where there is no clock.
    seed: of the folds.
  """

  clock: str = ''
  slices: int = 0
  folds: int = 5
  seed: int = 0

  def __post_init__(self):
    if not self.clock and self.folds < 2:
      raise ValueError(f'Out of fold needs at least 2 folds, got {self.folds}.')
    if self.slices < 0 or (self.slices and not self.clock):
      raise ValueError(f'{self.slices} slices need a clock to be slices of.')

  @property
  def ordered(self) -> bool:
    """Whether a period's history is what is earlier, or what is other."""
    return bool(self.clock)


class Periods:
  """The period of every sample of a source.

  Attributes:
    history: by which they are told.
    cuts: first clock of slices 1, 2, ..., the last of which comes after all of train; empty where
      each value of the clock is a period.
  """

  def __init__(self, source: columns.Source, history: History):
    self._source, self.history = source, history
    self.cuts = np.zeros(0, np.int64)
    if history.slices:
      clock = np.concatenate(list(self._clocks('train')))
      parts = np.arange(1, history.slices) / history.slices
      cuts = np.quantile(clock, parts, method='inverted_cdf')
      self.cuts = np.unique([*cuts[cuts > clock.min()], clock.max() + 1])

  def read(self, split: str, start: int, stop: int) -> np.ndarray:
    """The periods of samples start..stop of a split, int64 [stop - start]."""
    if self.history.clock:
      clock = self._clock(split, start, stop)
      return np.searchsorted(self.cuts, clock, 'right') if self.history.slices else clock
    if split != 'train':
      return np.full(stop - start, -1, np.int64)
    key = draws.key(self.history.seed, 'fold', '')
    bits = draws.hashed(key, np.arange(start, stop, dtype=np.uint64))
    return (draws.uniform(bits) * self.history.folds).astype(np.int64)

  @property
  def known(self) -> tuple[int, ...]:
    """The periods whose history is a part of train; of all others it is all of train.

    Raises:
      ValueError: each value of the clock is a period.
    """
    if self.history.slices:
      return tuple(range(len(self.cuts)))
    if self.history.clock:
      raise ValueError('Give a history with a clock a number of slices, to go through its periods.')
    return tuple(range(self.history.folds))

  def _clocks(self, split) -> Iterator[np.ndarray]:
    total = self._source.num_samples(split)
    for start in range(0, total, BLOCK):
      yield self._clock(split, start, min(start + BLOCK, total))

  def _clock(self, split, start, stop):
    name = self.history.clock
    known = (*self._source.schema.names, *self._source.extras)
    if name not in known:
      raise ValueError(f'The clock {name!r} is no column; there are {", ".join(known)}.')
    kinds = {feature.name: feature.kind for feature in self._source.schema.features}
    if kinds.get(name, 'numeric') != 'numeric':
      raise ValueError(
        f'The clock {name!r} is of kind {kinds[name]!r}, whose numbers are not in the order of '
        "time: make a feature of kind 'numeric' of that raw column."
      )
    clock = self._source.read(split, (name,), start, stop)[name]
    whole = np.isfinite(clock) & (np.floor(clock) == clock)
    if not whole.all():
      at = start + int(np.argmin(whole))
      raise ValueError(
        f'The clock {name!r} of sample {at} of {split} is {clock[at - start]}: a clock is a whole '
        'number. Give every sample one, or leave the clock out (statistics are then out of fold).'
      )
    return clock.astype(np.int64)
