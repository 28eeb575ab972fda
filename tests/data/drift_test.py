"""A stream that drifts: values come and go as its spec says, and its truth is the truth."""

import dataclasses

import numpy as np
import pytest

from ctr_jax.data import drift
from ctr_jax.evaluate import metrics

SOURCE = drift.Drift(drift.small(day=4000))
EVERYTHING = (*SOURCE.schema.names, 'label', *SOURCE.extras)


@pytest.fixture(scope='module')
def found():
  parts = [SOURCE.read(s, EVERYTHING, 0, SOURCE.num_samples(s)) for s in ('train', 'valid', 'test')]
  return {name: np.concatenate([part[name] for part in parts]) for name in EVERYTHING}


def test_the_rows_of_a_spec_never_change():
  # A checksum names these rows in published results; another value needs another VERSION.
  read = SOURCE.read('valid', ['user', 'item', 'badge', 'label'], 10, 16)
  assert {k: v.tolist() for k, v in read.items()} == {
    'user': [121, 102, 102, 189, 111, 109],
    'item': [124, 168, 126, 167, 91, 97],
    'badge': [3, 1, 7, 8, 10, 4],
    'label': [0.0, 0.0, 0.0, 1.0, 0.0, 1.0],
  }


def test_any_range_is_a_slice_of_the_whole(found):
  read = SOURCE.read('train', EVERYTHING, 3_990, 4_013)
  for name in EVERYTHING:
    assert read[name].dtype == found[name].dtype
    np.testing.assert_array_equal(read[name], found[name][3_990:4_013])


def test_days_are_equally_long_and_ids_are_rows(found):
  np.testing.assert_array_equal(np.bincount(found['day']), np.full(6, 4000))
  for name in ('user', 'item', 'category', 'badge'):
    assert found[name].min() >= 0 and found[name].max() < SOURCE.rows[name]


@pytest.mark.parametrize('name, places, turnover', [('user', 100, 0.2), ('item', 60, 0.3)])
def test_values_arrive_and_go_for_good(found, name, places, turnover):
  column, day = found[name], found['day']
  place, number = (column - 1) % places, (column - 1) // places
  for p in np.unique(place[column > 0]):
    here = (place == p) & (column > 0)
    low = np.array([number[here & (day == d)].min(initial=9) for d in range(6)])
    high = np.array([number[here & (day == d)].max(initial=0) for d in range(6)])
    # A value that is gone by a day does not come back: a sample is at most a day ahead.
    assert (low[1:] >= high[:-1] - 1).all() and high[5] <= np.ceil(turnover * 6)
  # Of the places that are read on a day, so many hold a value that was not there two days before.
  fresh = [np.isin(column[day == d], column[day <= d - 2]).mean() for d in (3, 4, 5)]
  assert 1 - np.mean(fresh) == pytest.approx(2 * turnover - turnover / 2, abs=0.12)


def test_a_late_field_is_missing_before_its_day_and_tells_of_nothing(found):
  assert not found['badge'][found['day'] < 3].any()
  assert (found['badge'][found['day'] >= 3] > 0).mean() > 0.99
  terms = SOURCE.terms('train', 0, SOURCE.num_samples('train'))['main', 'badge']
  day = found['day'][: len(terms)]
  assert not terms[day < 3].any() and terms[day >= 3].std() > 0.4


def test_weights_turn(found):
  one = (found['item'] == np.bincount(found['item'][found['item'] > 0]).argmax())[:16_000]
  drift_term = SOURCE.terms('train', 0, 16_000)['drift', 'item']
  by_day = [drift_term[one & (found['day'][:16_000] == d)] for d in range(4)]
  by_day = [x for x in by_day if len(x)]
  assert len(by_day) > 1 and all(np.ptp(x) == 0 for x in by_day)
  assert len({x[0] for x in by_day}) == len(by_day)


def test_the_best_of_each_day_is_the_auc_of_the_truth(found):
  best = drift.best_by_day(SOURCE)
  assert len(best) == 6
  for day, one in enumerate(best):
    here = found['day'] == day
    expected = metrics.auc(found['label'][here], found['probability'][here])
    assert one['auc'] == pytest.approx(expected)


def test_labels_follow_the_probability(found):
  p, n = found['probability'], len(found['label'])
  assert abs(found['label'].mean() - p.mean()) < 4 * np.sqrt(p.mean() / n)


@pytest.mark.parametrize(
  'change, words',
  [
    ({'arriving': (('category', 0.1),)}, 'arriving field'),
    ({'arriving': (('user', 60.0),)}, 'at least 361 values'),
    ({'late': (('item', 2),)}, 'without drift'),
    ({'late': (('user', 2),)}, 'no pair or cross'),
  ],
)
def test_a_spec_that_cannot_be_is_refused(change, words):
  with pytest.raises(ValueError, match=words):
    dataclasses.replace(drift.small(), **change)
