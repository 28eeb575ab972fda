"""Batches over a source in memory whose rows carry their own numbers."""

import threading
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from ctr_jax.data import batches, schema


class Rows:
  """A source of `samples` numbered rows, which notes what is read."""

  def __init__(self, samples):
    self.schema = schema.Schema('rows', (schema.Feature('row'), schema.Feature('pair', 'ids')))
    self.rows, self.checksum, self.extras = {'row': samples, 'pair': samples}, 'rows', ('day',)
    self.samples, self.reads = samples, []

  def num_samples(self, split):
    return self.samples if split == 'train' else 0

  def read(self, split, names, start, stop):
    assert split == 'train'
    assert 0 <= start < stop <= self.samples
    self.reads.append((start, stop))
    row = np.arange(start, stop, dtype=np.int32)
    label = (row % 2).astype(np.float32)
    columns = {'row': row, 'pair': np.stack([row, -row], 1), 'label': label, 'day': row}
    return {name: columns[name] for name in names}


def make(samples, batch_size, **kwargs):
  return batches.Batches(Rows(samples), 'train', ['row'], batch_size, **kwargs)


def numbers(stream):
  return [batch['row'].tolist() for batch in stream]


def joined(stream):
  return [row for batch in numbers(stream) for row in batch]


sizes = st.fixed_dictionaries(
  {
    'samples': st.integers(1, 300),
    'size': st.integers(1, 20),
    'hosts': st.integers(1, 4),
    'window': st.integers(1, 400),
    'block': st.integers(1, 50),
    'seed': st.integers(0, 2**31),
  }
)


def hosts_of(case, **kwargs):
  hypothesis.assume(case['samples'] >= case['size'] * case['hosts'])
  return [
    make(
      case['samples'], case['size'] * case['hosts'], host=host, hosts=case['hosts'],
      window=case['window'], block=case['block'], seed=case['seed'], **kwargs,
    )
    for host in range(case['hosts'])
  ]  # fmt: skip


@hypothesis.settings(max_examples=100)
@hypothesis.given(case=sizes, epoch=st.integers(0, 5))
def test_an_epoch_has_every_row_once_but_the_remainder(case, epoch):
  hosts = hosts_of(case)
  total = case['size'] * case['hosts']
  steps = case['samples'] // total
  seen = []
  for host in hosts:
    found = numbers(host.epoch(epoch))
    assert host.steps_per_epoch == len(found) == steps
    assert {len(batch) for batch in found} == {case['size']}
    seen += [row for batch in found for row in batch]
  assert len(seen) == len(set(seen)) == steps * total
  assert set(seen) <= set(range(case['samples']))


@hypothesis.settings(max_examples=100)
@hypothesis.given(case=sizes, data=st.data())
def test_starting_at_a_step_is_the_rest_of_the_epoch(case, data):
  for host in hosts_of(case):
    whole = numbers(host.epoch(3))
    start = data.draw(st.integers(0, len(whole)))
    assert numbers(host.epoch(3, start)) == whole[start:]


@hypothesis.given(case=sizes)
def test_evaluation_is_every_row_in_order_and_weights_mark_padding(case):
  hosts = [
    make(
      case['samples'], case['size'] * case['hosts'], host=host, hosts=case['hosts'],
      block=case['block'], shuffle=False,
    )
    for host in range(case['hosts'])
  ]  # fmt: skip
  seen, start = [], case['samples'] // (case['size'] * case['hosts']) // 2
  for host in hosts:
    found = list(host.epoch(0))
    assert len(found) == host.steps_per_epoch == hosts[0].steps_per_epoch
    for batch in found:
      assert batch['row'].shape == batch['weight'].shape == (case['size'],)
      assert batch['weight'].dtype == np.float32
      kept = int(batch['weight'].sum())
      assert batch['weight'].tolist() == [1] * kept + [0] * (case['size'] - kept)
      if kept:
        assert set(batch['row'][kept:]) <= {batch['row'][0]}
      seen += batch['row'][:kept].tolist()
    for one, other in zip(found[start:], host.epoch(0, start), strict=True):
      np.testing.assert_array_equal(one['row'], other['row'])
      np.testing.assert_array_equal(one['weight'], other['weight'])
  assert seen == list(range(case['samples']))


def test_evaluation_may_be_larger_than_the_split():
  (batch,) = make(5, 8, shuffle=False).epoch(0)
  assert batch['row'].tolist() == [0, 1, 2, 3, 4, 0, 0, 0]
  assert batch['weight'].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize('window', [1000, 200])
def test_epochs_and_seeds_shuffle_differently_and_repeatably(window):
  one = make(1000, 10, window=window, block=20)
  assert joined(one.epoch(0)) == joined(make(1000, 10, window=window, block=20).epoch(0))
  orders = [joined(one.epoch(epoch)) for epoch in range(3)]
  orders.append(joined(make(1000, 10, window=window, block=20, seed=1).epoch(0)))
  for i, order in enumerate(orders):
    assert sorted(order) == list(range(1000))
    for other in orders[:i]:
      # Two independent permutations agree at one place in the mean.
      assert sum(a == b for a, b in zip(order, other, strict=True)) < 10


def test_what_fits_the_window_is_a_uniform_permutation():
  orders = [joined(make(50, 1, seed=seed).epoch(0)) for seed in range(2000)]
  # Means over 2000 draws of a uniform 0..49, with standard error 0.32.
  np.testing.assert_allclose(np.mean(orders, axis=0), 24.5, atol=1.5)


def test_a_window_mixes_blocks_from_far_apart():
  # 100 blocks, 10 to a window: rows of a batch come from all over the split.
  order = np.reshape(joined(make(10_000, 50, window=2000, block=100).epoch(0)), (-1, 50))
  spread = np.ptp(order, axis=1) / 10_000
  assert spread.mean() > 0.6
  assert np.mean([len(np.unique(batch // 100)) for batch in order]) > 8


def test_reads_are_contiguous_blocks_and_bounded_by_the_window():
  one = make(1000, 10, window=200, block=20)
  joined(one.epoch(0))
  reads = one._source.reads
  assert sorted(reads) == [(start, start + 20) for start in range(0, 1000, 20)]
  sizes = []
  for columns, rows in one._in_windows(0, 0):
    assert len(columns['row']) == len(rows)
    sizes.append(len(rows))
  assert sizes == [100] * 10


def test_what_fits_the_window_is_read_once():
  one = make(1000, 10, window=1000)
  for epoch in range(3):
    joined(one.epoch(epoch))
  assert one._source.reads == [(0, 1000)]


def test_other_seeds_share_rows_that_are_read_once():
  source = Rows(100)
  first, other = (batches.Batches(source, 'train', ['row'], 8, seed=seed) for seed in (0, 1))
  other.share(first)
  found = [numbers(x.epoch(0)) for x in (other, first)]
  assert found == [numbers(make(100, 8, seed=seed).epoch(0)) for seed in (1, 0)]
  assert source.reads == [(0, 100)]
  with pytest.raises(ValueError, match='same columns and rows'):
    make(100, 8).share(make(99, 8))


def test_skipped_windows_are_not_read():
  one = make(1000, 10, window=200, block=20)
  whole = numbers(one.epoch(0))
  one._source.reads.clear()
  assert numbers(one.epoch(0, 75)) == whole[75:]
  assert sum(stop - start for start, stop in one._source.reads) == 300


def test_a_host_reads_only_its_own_rows():
  for host in range(4):
    one = make(1003, 40, host=host, hosts=4, window=100, block=20)
    joined(one.epoch(0))
    start, stop = host * 1003 // 4, (host + 1) * 1003 // 4
    assert sorted(one._source.reads)[0][0] == start
    assert sorted(one._source.reads)[-1][1] == stop
    # Blocks keep to the source's chunks, whatever the host's range is.
    assert all(first % 20 == 0 or first == start for first, _ in one._source.reads)


@pytest.mark.parametrize('shuffle', [True, False])
def test_columns_stay_together_and_keep_their_shapes(shuffle):
  names = ['pair', 'label', 'row', 'day', 'row']
  one = batches.Batches(Rows(100), 'train', names, 8, shuffle=shuffle, window=40, block=10)
  for batch in one.epoch(0):
    assert [*batch] == ['pair', 'label', 'row', 'day'] + ([] if shuffle else ['weight'])
    assert batch['pair'].shape == (8, 2)
    np.testing.assert_array_equal(batch['pair'], np.stack([batch['row'], -batch['row']], 1))
    np.testing.assert_array_equal(batch['label'], batch['row'] % 2)
    np.testing.assert_array_equal(batch['day'], batch['row'])
    assert batch['label'].dtype == np.float32


def test_an_error_while_reading_reaches_the_consumer():
  one = make(1000, 10, window=200, block=20)
  one._source.samples = 500  # Rows beyond now fail to be read.
  with pytest.raises(AssertionError):
    joined(one.epoch(0))


def test_errors_say_what_is_wrong():
  with pytest.raises(ValueError, match='7 cannot be shared out to host 0 of 2'):
    make(100, 7, hosts=2)
  with pytest.raises(ValueError, match='host 2 of 2'):
    make(100, 8, host=2, hosts=2)
  with pytest.raises(ValueError, match='5 samples, less than one batch of 8; use smaller'):
    make(5, 8)
  with pytest.raises(ValueError, match=r"no \['user'\]; it has \['row', 'pair', 'label', 'day'\]"):
    batches.Batches(Rows(10), 'train', ['user'], 2)
  with pytest.raises(ValueError, match='has 0 samples'):
    batches.Batches(Rows(10), 'valid', ['row'], 2, shuffle=False)
  with pytest.raises(ValueError, match='at least one row, got 0'):
    make(10, 2, window=0)
  with pytest.raises(ValueError, match='Step 6 is not in an epoch of 5 steps'):
    make(10, 2).epoch(0, 6)


def gathering():
  return [t for t in threading.enumerate() if t.name.startswith(('prefetch', 'window'))]


@hypothesis.given(items=st.lists(st.integers()), depth=st.integers(1, 5))
def test_prefetch_is_map(items, depth):
  assert list(batches.prefetch(iter(items), depth=depth)) == items
  assert list(batches.prefetch(items, lambda x: x + 1, depth)) == [x + 1 for x in items]
  assert not gathering()


def test_prefetch_runs_ahead_by_its_depth_and_no_further():
  made = []
  stream = batches.prefetch((made.append(i) or i for i in range(100)), depth=3)
  assert next(stream) == 0
  deadline = time.monotonic() + 10
  while len(made) < 5 and time.monotonic() < deadline:
    time.sleep(0.001)
  time.sleep(0.05)
  # One handed out, three ready, one waiting for room.
  assert made == [0, 1, 2, 3, 4]
  stream.close()
  assert not gathering()


@pytest.mark.parametrize('where', ['iterator', 'fn'])
def test_prefetch_raises_where_the_item_would_have_come(where):
  def items():
    yield from range(3)
    if where == 'iterator':
      raise OSError('disk is gone')
    yield 3

  def fn(x):
    if x == 3:
      raise OSError('disk is gone')
    return x

  stream = batches.prefetch(items(), fn)
  assert [next(stream) for _ in range(3)] == [0, 1, 2]
  with pytest.raises(OSError, match='disk is gone'):
    next(stream)
  assert not gathering()


def test_closing_prefetch_stops_its_threads_and_closes_the_iterator():
  one = make(1000, 10, window=200, block=20)
  stream = batches.prefetch(one.epoch(0))
  next(stream)
  assert gathering()
  stream.close()
  assert not gathering()
  closed = []

  def endless():
    try:
      while True:
        yield 1
    finally:
      closed.append(True)

  with pytest.raises(KeyError):  # As does an exception in the loop over it.
    for _ in batches.prefetch(endless()):
      raise KeyError
  assert closed == [True]
  assert not gathering()


def test_prefetch_needs_a_depth():
  with pytest.raises(ValueError, match='at least 1, got 0'):
    next(batches.prefetch([1], depth=0))


def test_gathering_is_fast():
  # 4096 rows of 10 columns in well under a millisecond; wide, since the machine may be busy.
  columns = {str(i): np.zeros(500_000, np.int32) for i in range(10)}
  rows = np.random.default_rng(0).permutation(500_000)
  best = np.inf
  for first in range(0, 400_000, 4096):
    start = time.perf_counter()
    batches._gather(columns, rows[first : first + 4096])
    best = min(best, time.perf_counter() - start)
  assert best < 1e-3
