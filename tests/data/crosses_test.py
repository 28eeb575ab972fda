"""Crosses and statistics against loops over samples, and what they must not know."""

import collections
import math
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from ctr_jax.data import beside, crosses, datasets, history, synthetic, values

SPLITS = ('train', 'valid', 'test')
CROSSES = (crosses.Cross('user', 'hour', min_count=2), crosses.Cross('user', 'hour', buckets=50))
STATISTICS = (crosses.Statistic('user', 'hour'), crosses.Statistic('item', 'category', 5.0))
BY_DAY = history.History(clock='day')
SLICED = history.History(clock='day', slices=3)
OUT_OF_FOLD = history.History(folds=4)


def small(seed=0):
  return synthetic.Synthetic(synthetic.small(seed, samples=(1500, 300, 300)))


class Changed:
  """A source with some labels flipped."""

  def __init__(self, base, split, flip):
    self._base, self._split, self._flip = base, split, flip
    for name in ('schema', 'rows', 'extras', 'title', 'num_samples'):
      setattr(self, name, getattr(base, name))
    self.checksum = f'{base.checksum} flipped in {split}'

  def read(self, split, names, start, stop):
    found = self._base.read(split, names, start, stop)
    if 'label' in found and split == self._split:
      label = found['label'].copy()
      label[self._flip(np.arange(start, stop))] = 1 - label[self._flip(np.arange(start, stop))]
      found['label'] = label
    return found


def whole(source, names):
  """All samples, with their part and their number."""
  parts = [source.read(s, names, 0, source.num_samples(s)) for s in SPLITS]
  found = {name: np.concatenate([p[name] for p in parts]) for name in names}
  counts = [source.num_samples(s) for s in SPLITS]
  return found | {'part': np.repeat(np.arange(3), counts)}


def periods(source, how):
  made = history.Periods(source, how)
  return np.concatenate([made.read(s, 0, source.num_samples(s)) for s in SPLITS])


def brute_statistic(samples, period, ordered, statistic):
  """(lift, seen) by a loop over the samples' past."""
  u, v = samples[statistic.first], samples[statistic.second]
  train, label = samples['part'] == 0, samples['label'].astype(int)
  clicks = collections.defaultdict(collections.Counter)
  count = collections.defaultdict(collections.Counter)
  for i in np.flatnonzero(train):
    for key in ('all', (u[i], v[i])):
      clicks[key][period[i]] += label[i]
      count[key][period[i]] += 1

  def past(key, now):
    known = [p for p in count[key] if (p < now if ordered else p != now)]
    return sum(clicks[key][p] for p in known), sum(count[key][p] for p in known)

  lifts, seen = [], []
  for i in range(len(u)):
    total = past('all', period[i])
    prior = (total[0] + 0.5) / (total[1] + 1)
    k, n = past((u[i], v[i]), period[i]) if u[i] > 0 and v[i] > 0 else (0, 0)
    rate = (k + statistic.strength * prior) / (n + statistic.strength)
    lifts.append(math.log(rate / (1 - rate)) - math.log(prior / (1 - prior)) if n else 0.0)
    seen.append(math.log1p(n))
  return np.array(lifts), np.array(seen)


def brute_cross(samples, cross):
  """Ids by frequency in train, ties by the text 'u,v'; 0 = rarer, unseen, or one is missing."""
  texts = [
    f'{a},{b}' if a > 0 and b > 0 else ''
    for a, b in zip(samples[cross.first], samples[cross.second], strict=True)
  ]
  counts = collections.Counter(
    t for t, p in zip(texts, samples['part'], strict=True) if p == 0 and t
  )
  kept = sorted(
    (t for t, n in counts.items() if n >= cross.min_count), key=lambda t: (-counts[t], t)
  )
  row = {t: i + 1 for i, t in enumerate(kept)}
  return np.array([row.get(t, 0) for t in texts]), kept


def check(source, added, made_crosses, made_statistics, how):
  joined = beside.join(source, added)
  names = {n for x in (*made_crosses, *made_statistics) for n in (x.first, x.second)}
  samples = whole(joined, [*names, 'label', *added.schema.names])
  period = periods(source, how)
  for cross in made_crosses:
    want, kept = brute_cross(samples, cross)
    if cross.buckets:
      texts = [
        f'{a},{b}' if a > 0 and b > 0 else None
        for a, b in zip(samples[cross.first], samples[cross.second], strict=True)
      ]
      want = values.hash_rows(cross.feature, texts)
    else:
      assert added.vocabulary(cross.feature.table)[0] == kept
      assert joined.rows[cross.feature.table] == len(kept) + 1
      assert joined.lookup_bytes([cross.feature.name]) == 12 * len(kept)
    np.testing.assert_array_equal(samples[cross.feature.name], want)
  for statistic in made_statistics:
    lift, seen = brute_statistic(samples, period, how.ordered, statistic)
    np.testing.assert_allclose(samples[f'{statistic.name}.lift'], lift, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(samples[f'{statistic.name}.seen'], seen, rtol=1e-6)
    assert np.abs(lift).max() > 0.01


@pytest.mark.parametrize('how', [BY_DAY, SLICED, OUT_OF_FOLD], ids=['day', 'sliced', 'fold'])
def test_columns_are_those_of_a_loop(tmp_path, how):
  source = small()
  added = crosses.add(source, tmp_path / 'x', CROSSES, STATISTICS, how)
  check(source, added, CROSSES, STATISTICS, how)


@pytest.mark.skipif(
  not (datasets._PROJECT.parent / 'shared/data/ml1m_partial').is_dir(), reason='no ml1m_partial'
)
def test_of_real_data(tmp_path):
  """ml1m_partial, all of its samples, out of fold."""
  source = datasets.open_or_encode('ml1m_partial', cache_dir=tmp_path / 'encoded', progress=False)
  made = (crosses.Cross('user_id', 'year'),), (crosses.Statistic('gender', 'year'),)
  how = history.History()
  added = crosses.add(source, tmp_path / 'x', *made, how)
  check(source, added, *made, how)


@pytest.mark.filterwarnings('ignore')  # PySpark's, of the pandas it was installed with.
def test_spark_makes_the_same(tmp_path):
  pytest.importorskip('pyspark', reason='pyspark is not installed')
  if not shutil.which('java'):
    pytest.skip('Spark needs a Java runtime, and there is none')
  source = small()
  for name in ('duckdb', 'spark'):
    crosses.add(source, tmp_path / name, CROSSES, STATISTICS, BY_DAY, engine_name=name)
  one, other = (crosses.columns.open_columns(tmp_path / name) for name in ('duckdb', 'spark'))
  assert one.checksum == other.checksum


@pytest.mark.parametrize('how', [BY_DAY, SLICED, OUT_OF_FOLD], ids=['day', 'sliced', 'fold'])
@pytest.mark.parametrize('split', ['valid', 'test'])
def test_labels_of_valid_and_test_change_nothing(tmp_path, split, how):
  source = small()
  other = Changed(source, split, lambda i: i % 2 == 0)
  made = [
    crosses.add(x, tmp_path / str(i), CROSSES, STATISTICS, how)
    for i, x in enumerate([source, other])
  ]
  assert made[0].checksum == made[1].checksum


@pytest.mark.parametrize('how', [BY_DAY, SLICED, OUT_OF_FOLD], ids=['day', 'sliced', 'fold'])
def test_no_sample_knows_its_own_label(tmp_path, how):
  """A flipped label may change the statistics of others; its own stay as they are to the bit."""
  source, at = small(), 700
  other = Changed(source, 'train', lambda i: i == at)
  made = [
    crosses.add(x, tmp_path / str(i), (), STATISTICS, how) for i, x in enumerate([source, other])
  ]
  names = made[0].schema.names
  own = [x.read('train', names, at, at + 1) for x in made]
  everybody = [x.read('train', names, 0, 1500) for x in made]
  for name in names:
    np.testing.assert_array_equal(own[0][name], own[1][name])
  lifts = [name for name in names if name.endswith('.lift')]
  assert any((everybody[0][n] != everybody[1][n]).any() for n in lifts)


def test_no_sample_knows_the_future(tmp_path):
  """Labels of day 6 and later change no statistic of a sample before day 7."""
  source = small()
  day = source.read('train', ('day',), 0, 1500)['day']
  first = int(np.argmax(day == 6))
  other = Changed(source, 'train', lambda i: i >= first)
  made = [
    crosses.add(x, tmp_path / str(i), (), STATISTICS, BY_DAY) for i, x in enumerate([source, other])
  ]
  until = int(np.argmax(day == 7))
  for name in made[0].schema.names:
    one, two = (x.read('train', (name,), 0, 1500)[name] for x in made)
    np.testing.assert_array_equal(one[:until], two[:until])
    if name.endswith('.lift'):
      assert (one[until:] != two[until:]).any()


def test_lookup_is_what_a_new_sample_would_see(tmp_path):
  """Out of fold, samples of test know all of train, and so does the lookup that is served."""
  source = small()
  added = crosses.add(source, tmp_path / 'x', (), STATISTICS[:1], OUT_OF_FOLD)
  found = pq.read_table(tmp_path / 'x' / 'lookup' / 'user-hour.parquet').to_pydict()
  table = {
    (u, v): (lift, seen)
    for u, v, lift, seen in zip(*(found[k] for k in ('u', 'v', 'lift', 'seen')), strict=True)
  }
  test = beside.join(source, added).read(
    'test', ('user', 'hour', 'user-hour.lift', 'user-hour.seen'), 0, 300
  )
  for u, v, lift, seen in zip(*test.values(), strict=True):
    assert table.get((u, v), (0.0, 0.0)) == (lift, seen)
  assert beside.join(source, added).lookup_bytes(['user-hour.lift']) == 16 * len(table)


def test_made_once_and_only_of_its_data(tmp_path):
  source = small()
  first = crosses.add(source, tmp_path / 'x', CROSSES)
  stamp = (tmp_path / 'x' / 'manifest.json').stat().st_mtime_ns
  assert crosses.add(source, tmp_path / 'x', CROSSES).checksum == first.checksum
  assert (tmp_path / 'x' / 'manifest.json').stat().st_mtime_ns == stamp
  with pytest.raises(FileExistsError, match='another data set or otherwise'):
    crosses.add(source, tmp_path / 'x', CROSSES[:1])
  with pytest.raises(FileExistsError, match='another data set or otherwise'):
    crosses.add(small(1), tmp_path / 'x', CROSSES)
  with pytest.raises(ValueError, match='made of another data set'):
    beside.join(small(1), first)
  with pytest.raises(ValueError, match='samples'):
    beside.join(synthetic.Synthetic(synthetic.small()), first)
  with pytest.raises(ValueError, match='has too'):
    beside.join(beside.join(source, first), first)


def test_whoever_is_second_opens_what_the_first_made(tmp_path, monkeypatch):
  source, whole = small(), crosses._fill
  (tmp_path / 'x').mkdir()  # Empty: it may be there.

  def slower(*args):
    monkeypatch.setattr(crosses, '_fill', whole)
    crosses.add(source, tmp_path / 'x', CROSSES[1:])
    return whole(*args)

  monkeypatch.setattr(crosses, '_fill', slower)
  assert crosses.add(source, tmp_path / 'x', CROSSES[1:]).num_samples('train') == 1500
  assert [path.name for path in tmp_path.iterdir()] == ['x']


def test_what_cannot_be_crossed_is_refused(tmp_path):
  with pytest.raises(ValueError, match="is of two features, and 'user' is given twice"):
    crosses.Statistic('user', 'user')
  with pytest.raises(ValueError, match=r"'tags' is of kind 'ids' and cannot be crossed"):
    crosses.add(small(), tmp_path / 'x', [crosses.Cross('tags', 'user')])
  with pytest.raises(ValueError, match="clock 'hours' is no column"):
    crosses.add(small(), tmp_path / 'x', CROSSES, (), history.History(clock='hours'))
  with pytest.raises(ValueError, match='a clock is a whole number'):
    statistics = [crosses.Statistic('user', 'hour')]
    crosses.add(small(), tmp_path / 'x', (), statistics, history.History(clock='price'))
  # Numbers of an id are by frequency: samples would know the future.
  with pytest.raises(ValueError, match=r"clock 'hour' is of kind 'id', .* of kind 'numeric'"):
    statistics = [crosses.Statistic('user', 'hour')]
    crosses.add(small(), tmp_path / 'x', (), statistics, history.History(clock='hour', slices=2))
  assert not (tmp_path / 'x').exists()
