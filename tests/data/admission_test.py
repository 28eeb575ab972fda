"""Admission and eviction against dicts and lists that do one thing after the other."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from ctr_jax.data import admission


class Reference:
  """The rules of the module, one value at a time."""

  def __init__(self, capacity, waiting, threshold, decay):
    self.capacity, self.waiting, self.threshold, self.decay = capacity, waiting, threshold, decay
    self.row, self.count, self.last, self.day = {}, {}, {}, None

  def observe(self, values, day):
    for value in self.count:
      self.count[value] *= self.decay ** (day - self.day)
    self.day = day
    today = {}
    for value in values:
      if value > 0:
        today[value] = today.get(value, 0) + 1
    for value, times in today.items():
      self.count[value] = self.count.get(value, 0.0) + times
      self.last[value] = day
    given, refused = set(), 0
    evicted = set()
    ready = [v for v, c in self.count.items() if v not in self.row and c >= self.threshold]
    for value in sorted(ready, key=lambda v: (-self.count[v], v)):
      free = sorted(set(range(1, self.capacity + 1)) - set(self.row.values()))
      if free:
        row = free[0]
      else:
        stale = min(self.row, key=lambda v: (self.count[v], self.last[v], self.row[v]))
        if self.count[stale] >= self.count[value]:
          refused += 1
          continue
        row = self.row.pop(stale)
        evicted.add(row)
      self.row[value] = row
      given.add(row)
    waits = sorted((v for v in self.count if v not in self.row), key=lambda v: (-self.count[v], v))
    for value in waits[self.waiting :]:
      del self.count[value], self.last[value]
    return sorted(given), len(evicted), len(waits[self.waiting :]), refused


DAYS = st.lists(
  st.tuples(st.integers(1, 3), st.lists(st.integers(-1, 14), max_size=40)), min_size=1, max_size=8
)


@hypothesis.given(
  days=DAYS,
  capacity=st.integers(1, 8),
  waiting=st.integers(1, 6),
  threshold=st.sampled_from([0.5, 1.0, 2.0, 3.5]),
  decay=st.sampled_from([0.5, 0.7, 1.0]),
)
@hypothesis.settings(max_examples=60)
def test_as_the_reference(days, capacity, waiting, threshold, decay):
  table = admission.Table(capacity, waiting, threshold, decay)
  reference, day, nbytes = Reference(capacity, waiting, threshold, decay), 0, table.nbytes
  everything = np.arange(-1, 16)
  for gap, values in days:
    before = table.owners()
    found = table.observe(np.array(values, np.int32).reshape(-1, 1), day)
    given, evicted, forgotten, refused = reference.observe(values, day)
    assert (found.given.tolist(), found.evicted) == (given, evicted)
    assert (found.forgotten, found.refused) == (forgotten, refused)
    rows = table.rows(everything)
    assert rows.dtype == np.int32
    assert rows.tolist() == [reference.row.get(v, 0) for v in everything.tolist()]
    # Whoever trains is told of every row whose owner changed, and of no other.
    np.testing.assert_array_equal(np.flatnonzero(table.owners() != before), found.given)
    assert table.used == len(reference.row) and table.nbytes == nbytes
    day += gap


def test_values_may_be_large():
  table = admission.Table(3, 3, threshold=1)
  large = 2**62 + np.array([1, 2, 3])
  table.observe(np.repeat(large, 2), 0)
  assert table.rows(large).tolist() == [1, 2, 3] and table.rows(large - 2**62).tolist() == [0, 0, 0]


def test_a_stream_of_new_values_stays_under_the_cap():
  rng = np.random.default_rng(0)
  cap, row_bytes = 40_000, 36
  sizes = admission.capacities({'a': 300, 'b': 100}, cap, row_bytes)
  assert sizes['a'] == pytest.approx(3 * sizes['b'], abs=3)
  tables = {t: admission.Table(n, int(0.5 * n), 2) for t, n in sizes.items()}
  for day in range(10):
    for table in tables.values():
      table.observe(rng.integers(200 * day, 200 * day + 1000, 3000), day)
    kept = sum(t.nbytes + (t.capacity + 1) * row_bytes for t in tables.values())
    assert kept == sum(
      admission.nbytes(t.capacity, t.waiting) + (t.capacity + 1) * row_bytes
      for t in tables.values()
    )
    assert 0.98 * cap < kept <= cap
    assert all(t.used == t.capacity for t in tables.values())


def test_what_cannot_be_is_refused():
  table = admission.Table(3, 3)
  table.observe(np.array([1]), 4)
  with pytest.raises(ValueError, match='days only go on'):
    table.observe(np.array([1]), 4)
  with pytest.raises(ValueError, match='at least 1'):
    admission.Table(0, 3)
  with pytest.raises(ValueError, match='in \\(0, 1\\]'):
    admission.Table(3, 3, decay=0.0)
  with pytest.raises(ValueError, match='without any row'):
    admission.capacities({'a': 3}, 100, 36, rest=90)
