"""Which values have a row: a vocabulary that grows and forgets, in a table of fixed capacity.

Each value that is known has a count, which decays by a factor each day. A day's values are observed
together (`Table.observe`):

  1. Counts decay; each value's occurrences on the day are added, whether it has a row or waits.
  2. Waiting values whose count reaches the threshold are admitted, the largest counts first (ties:
     the smaller value), to free rows from row 1 up.
  3. When no row is free, an admitted value takes the row of the stalest one: that of the smallest
     count (ties: unseen for longest, then the smaller row), if its own count is larger. The other
     one waits again, with its count.
  4. Of those that wait as many are kept as there are places, of the largest counts (ties: the
     smaller value).

Row 0 is missing-or-unseen; value 0 is missing. Everything has its size from the start, so that
bytes are what `nbytes` says, on the first day and on the last, and nothing is compiled again. Rows
that were given to a value are returned: who trains makes them anew (`train.days.anew`).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ctr_jax.data import columns

# Of a row: value, count, last day, place in the order of values. Of a value that waits: the first
# three.
ROW_BYTES = 8 + 8 + 4 + 4
WAITING_BYTES = 8 + 8 + 4


class Observed(NamedTuple):
  """What a day changed.

  Attributes:
    given: int32, rows that now belong to another value than before, ascending.
    evicted: how many of these belonged to a value.
    forgotten: values that waited, and were dropped for want of a place.
    refused: values that reached the threshold and found every row taken by a larger count.
  """

  given: np.ndarray
  evicted: int
  forgotten: int
  refused: int


class Table:
  """value → row, in 1..capacity; 0 for values that have none.

  Attributes:
    capacity: rows beside row 0.
    waiting: places for values that may be admitted.
    threshold: decayed count from which a value is admitted.
    decay: factor of all counts from one day to the next.
    day: the last one that was observed; -1 before the first.
  """

  def __init__(self, capacity: int, waiting: int, threshold: float = 2.0, decay: float = 0.7):
    if not 1 <= capacity < 2**31 - 1 or waiting < 1:
      raise ValueError(f'A capacity of {capacity} rows and {waiting} waiting: each is at least 1.')
    if threshold <= 0 or not 0 < decay <= 1:
      raise ValueError(f'threshold={threshold} must be above 0 and decay={decay} in (0, 1].')
    self.capacity, self.waiting = capacity, waiting
    self.threshold, self.decay, self.day = threshold, decay, -1
    # By row; value 0 = free. Row 0 stays so.
    self._value = np.zeros(capacity + 1, np.int64)
    self._count = np.zeros(capacity + 1, np.float64)
    self._last = np.zeros(capacity + 1, np.int32)
    self._order = np.arange(capacity + 1, dtype=np.int32)  # Rows in the order of their values.
    # Those that wait, in the order of their values; the first `_held` places are taken.
    self._held = 0
    self._waiting = np.zeros(waiting, np.int64)
    self._waited = np.zeros(waiting, np.float64)
    self._waited_last = np.zeros(waiting, np.int32)

  @property
  def nbytes(self) -> int:
    """Of everything that is kept: the same on every day."""
    arrays = (self._value, self._count, self._last, self._order)
    return sum(x.nbytes for x in (*arrays, self._waiting, self._waited, self._waited_last))

  @property
  def used(self) -> int:
    """Rows that belong to a value."""
    return int(np.count_nonzero(self._value))

  def owners(self) -> np.ndarray:
    """The value of each row, int64 [capacity + 1]; 0 = none."""
    return self._value.copy()

  def rows(self, values: np.ndarray) -> np.ndarray:
    """int32 rows of values, of their shape; 0 for those that have none, as for 0 and below."""
    values = np.asarray(values)
    place = np.searchsorted(self._value, values, sorter=self._order)
    found = self._order[np.minimum(place, self.capacity)]
    return np.where((self._value[found] == values) & (values > 0), found, 0).astype(np.int32)

  def observe(self, values: np.ndarray, day: int) -> Observed:
    """Counts a day's values, and admits and evicts; see the module.

    Args:
      values: integers of any shape, each an occurrence; 0 and below are none.
      day: greater than those before.

    Raises:
      ValueError: the day is not after the last one.
    """
    if day <= self.day:
      raise ValueError(f'Day {day} was observed after day {self.day}: days only go on.')
    faded = self.decay ** (day - self.day) if self.day >= 0 else 1.0
    self._count *= faded
    self._waited *= faded
    self.day = day
    values = np.asarray(values).reshape(-1)
    found, times = np.unique(values[values > 0].astype(np.int64), return_counts=True)
    row = self.rows(found)
    known = row > 0
    self._count[row[known]] += times[known]
    self._last[row[known]] = day
    waits = self._joined(found[~known], times[~known])
    given, evicted, refused, waits = self._admit(*waits)
    return Observed(np.sort(given), evicted, self._keep(*waits), refused)

  def _joined(self, found, times):
    """(values, counts, last days) of those that wait and of new ones, ascending by value."""
    n = self._held
    values = np.union1d(self._waiting[:n], found)
    count, last = np.zeros(len(values)), np.zeros(len(values), np.int32)
    old, new = (np.searchsorted(values, x) for x in (self._waiting[:n], found))
    count[old], last[old] = self._waited[:n], self._waited_last[:n]
    count[new] += times
    last[new] = self.day
    return values, count, last

  def _admit(self, values, count, last):
    """Gives rows; returns (rows given, evictions, refused, those that wait now)."""
    ready = np.flatnonzero(count >= self.threshold)
    ready = ready[np.lexsort((values[ready], -count[ready]))]
    free = 1 + np.flatnonzero(self._value[1:] == 0)[: len(ready)]
    late = ready[len(free) :]
    taken = np.setdiff1d(np.arange(1, self.capacity + 1), free)
    taken = taken[np.lexsort((taken, self._last[taken], self._count[taken]))][: len(late)]
    # Newcomers fall and rows rise in count, so that the first that does not fit is the last word.
    wins = count[late[: len(taken)]] > self._count[taken]
    evict = taken[: int(np.argmin(wins)) if not wins.all() else len(wins)]
    given = np.concatenate([free, evict]).astype(np.int32)
    chosen = ready[: len(given)]
    out = (self._value[evict], self._count[evict], self._last[evict])
    self._value[given], self._count[given] = values[chosen], count[chosen]
    self._last[given] = last[chosen]
    self._order = np.argsort(self._value, kind='stable').astype(np.int32)
    left = np.delete(np.arange(len(values)), chosen)
    own = (values[left], count[left], last[left])
    waits = tuple(np.concatenate(x) for x in zip(own, out, strict=True))
    return given, len(evict), len(ready) - len(given), waits

  def _keep(self, values, count, last):
    """Keeps those of the largest counts; returns how many are forgotten."""
    best = np.lexsort((values, -count))[: self.waiting]
    best = best[np.argsort(values[best])]
    self._held = n = len(best)
    self._waiting[:n], self._waited[:n] = values[best], count[best]
    self._waited_last[:n] = last[best]
    return len(values) - n


def nbytes(capacity: int, waiting: int) -> int:
  """What a `Table` of this size keeps on the host; its vectors are the model's."""
  return ROW_BYTES * (capacity + 1) + WAITING_BYTES * waiting


def capacities(
  values: Mapping[str, int], cap: int, row_bytes: int, waiting: float = 0.5, rest: int = 0
) -> dict[str, int]:
  """Rows of each table, in proportion to `values`, so that all bytes stay under a cap.

  Args:
    values: table → how many values it is expected to need: shares of the cap.
    cap: bytes of vectors, optimizer slots and `Table`s together, row 0 included.
    row_bytes: of a row's vector and slots.
    waiting: places to wait in for each row.
    rest: bytes of everything else that counts.

  Raises:
    ValueError: the cap leaves no table a single row.
  """
  left = cap - rest - (row_bytes + ROW_BYTES) * len(values)  # Row 0 of each.
  each = row_bytes + ROW_BYTES + waiting * WAITING_BYTES
  total = sum(values.values())
  found = {t: int(left * n / total // each) for t, n in values.items()}
  if left <= 0 or min(found.values()) < 1:
    raise ValueError(
      f'A cap of {cap:,} bytes leaves a table without any row; {rest:,} are those of other tables.'
    )
  return found


def observed(source: columns.Source, table: str) -> np.ndarray:
  """Every occurrence of a table's values in 'train', for `Table.observe`."""
  names = [f.name for f in source.schema.features if f.table == table and f.kind != 'numeric']
  total = source.num_samples('train')
  read = source.read('train', names, 0, total)
  return np.concatenate([read[name].reshape(-1) for name in names])
