"""Samples by day: windows hold the samples of their days, in any source."""

import numpy as np
import pytest

from ctr_jax.data import admission, batches, days, drift, synthetic

SOURCE = drift.Drift(drift.small(day=50))


@pytest.fixture(scope='module')
def whole():
  names = (*SOURCE.schema.names, 'label', 'day')
  parts = [SOURCE.read(s, names, 0, SOURCE.num_samples(s)) for s in ('train', 'valid', 'test')]
  return {name: np.concatenate([part[name] for part in parts]) for name in names}


def test_a_window_over_splits(whole):
  window = days.by_column(SOURCE).window(2, 4, scored=5)
  assert window.num_samples('train') == 150 and window.num_samples('valid') == 50
  read = window.read('train', ('user', 'day', 'label'), 20, 140)  # Days 2 to 4: train and valid.
  here = np.flatnonzero((whole['day'] >= 2) & (whole['day'] <= 4))[20:140]
  for name, column in read.items():
    np.testing.assert_array_equal(column, whole[name][here])
  assert set(window.read('test', ('day',), 0, 50)['day']) == {5}


def test_what_is_held_reads_as_the_source():
  held = days.held(SOURCE, ('day',))
  assert held.checksum == SOURCE.checksum and held.rows == SOURCE.rows
  for split in ('train', 'valid'):
    names = ('user', 'day', 'label')
    one, other = (x.read(split, names, 7, 41) for x in (held, SOURCE))
    assert [*one] == [*other]
    for name in names:
      np.testing.assert_array_equal(one[name], other[name])


def test_slices_of_a_clock_of_an_unordered_source():
  source = synthetic.Synthetic(synthetic.small(samples=(70, 20, 13)))
  names = ('probability', 'user', 'tags', 'price')
  parts = [source.read(s, names, 0, source.num_samples(s)) for s in ('train', 'valid', 'test')]
  whole = {name: np.concatenate([part[name] for part in parts]) for name in names}
  stream = days.slices(source, 'probability', 4)
  order = np.argsort(whole['probability'], kind='stable')
  assert [stream.samples(d, d) for d in range(4)] == [25, 26, 26, 26]
  read = stream.window(1, 2).read('train', names, 0, 52)
  for name in names:
    np.testing.assert_array_equal(read[name], whole[name][order[25:77]])
  assert stream.window(0, 0).read('valid', names, 3, 3)['tags'].shape == (0, 3)


def test_windows_have_checksums_of_their_own():
  stream = days.by_column(SOURCE)
  assert len({stream.window(*x).checksum for x in ((0, 1), (0, 2), (1, 2), (1, 2, 3))}) == 4


def test_windows_of_other_orders_have_other_checksums():
  source = synthetic.Synthetic(synthetic.small(samples=(70, 20, 13)))
  one, other = (days.slices(source, name, 4).window(0, 1) for name in ('probability', 'label'))
  assert one.checksum != other.checksum
  assert one.checksum == days.slices(source, 'probability', 4).window(0, 1).checksum
  first, second = (batches.Batches(x, 'train', ('user',), 5) for x in (one, other))
  with pytest.raises(ValueError, match='of one source can share'):
    second.share(first)


class _Dated:
  """Samples of these days."""

  schema = SOURCE.schema

  def __init__(self, *days_of):
    self._days = np.array(days_of, np.int64)

  def num_samples(self, split):
    return len(self._days) * (split == 'train')

  def read(self, split, names, start, stop):
    return dict.fromkeys(names, self._days[start:stop])


def test_a_day_without_samples_is_named_as_in_the_data():
  with pytest.raises(ValueError, match=r"^Day 20260103 of '.*' has no samples"):
    days.by_column(_Dated(20260102, 20260106))
  assert days.by_column(_Dated(20260103, 20260102)).days == 2


def test_days_far_apart_take_no_memory():
  with pytest.raises(ValueError, match=r'^Day 1001 of .* has no samples'):
    days.by_column(_Dated(10**15, 1000))


def test_what_cannot_be_is_refused():
  stream = days.by_column(SOURCE)
  with pytest.raises(ValueError, match='there are 0 to 5'):
    stream.window(0, 6)
  with pytest.raises(ValueError, match='has 50'):
    stream.window(0, 1).read('valid', ('label',), 0, 51)
  with pytest.raises(ValueError, match='whole number'):
    days.by_column(SOURCE, 'probability')
  with pytest.raises(ValueError, match='without a gap'):
    days.by_column(_Dated(1, 3))
  with pytest.raises(ValueError, match='clock is a number'):
    days.slices(SOURCE, 'price', 3)  # Some are missing.


def test_rows_of_a_table_are_no_clock():
  for make in (days.by_column, lambda source, name: days.slices(source, name, 3)):
    with pytest.raises(ValueError, match=r"'user' of .* is of kind 'id': .* tell no time"):
      make(SOURCE, 'user')


def test_mapped_values_read_the_rows_that_they_have_now():
  source = synthetic.Synthetic(synthetic.small(samples=(300, 10, 10)))
  table = admission.Table(capacity=5, waiting=4, threshold=1)
  mapped = days.Mapped(source, {'tags': table})
  assert mapped.rows['tags'] == 6 and mapped.rows['user'] == source.rows['user']
  assert mapped.read('train', ('tags',), 0, 300)['tags'].max() == 0
  table.observe(admission.observed(source, 'tags'), 0)
  raw = source.read('train', ('tags', 'user'), 0, 300)
  read = mapped.read('train', ('tags', 'user'), 0, 300)
  row = {value: row for row, value in enumerate(table.owners()) if value}
  expected = [[-1 if v < 0 else row.get(v, 0) for v in line] for line in raw['tags'].tolist()]
  assert len(row) == 5 and read['tags'].dtype == np.int32
  np.testing.assert_array_equal(read['tags'], expected)
  np.testing.assert_array_equal(read['user'], raw['user'])
