"""The queue: what is scored together, what is refused, and that one's fault is nobody else's."""

import asyncio
import time

import numpy as np
import pytest

pytest.importorskip('prometheus_client', reason='the extra `serve` is not installed')

from ctr_jax.serve import batching, limits, metrics, pace
from tests.serve import standin


def columns(names, price=1.0):
  return {
    'user': list(names),
    'tags': [None] * len(names),
    'price': [price] * len(names),
  }


def run(work, **bounds):
  """Runs `work(batcher)` beside the batcher."""

  async def both():
    bounds_ = limits.Limits(**{'max_latency_s': 20.0} | bounds).check()
    batcher = batching.Batcher(bounds_, metrics.Metrics())
    scoring = asyncio.create_task(batcher.run())
    try:
      return await work(batcher)
    finally:
      scoring.cancel()
      await asyncio.gather(scoring, return_exceptions=True)

  return asyncio.run(both())


def score(batcher, scorer, names, price=1.0, within=None):
  return batcher.score(scorer, columns(names, price), len(names), batcher.deadline(within))


def together(scorer, requests, **bounds):
  """Scores requests, given as (names, price), that come at the same time."""

  async def work(batcher):
    sent = [score(batcher, scorer, names, price) for names, price in requests]
    return await asyncio.gather(*sent, return_exceptions=True)

  return run(work, **bounds)


def want(names, price=1.0, version='one'):
  return [standin.expected((name, None, price), version) for name in names]


def test_who_waits_is_scored_together_and_gets_its_own():
  scorer = standin.Standin()
  requests = [([f'{i}.{j}' for j in range(1 + i % 3)], 1.0) for i in range(10)]
  answers = together(scorer, requests, max_wait_s=0.05)
  assert scorer.batches == [sum(len(names) for names, _ in requests)]
  for (names, _), answer in zip(requests, answers, strict=True):
    np.testing.assert_array_equal(answer.probabilities, want(names))
    assert answer.version == 'one'


def test_a_full_batch_does_not_wait():
  scorer = standin.Standin()
  requests = [(['a', 'b'], 1.0)] * 7
  together(scorer, requests, max_wait_s=0.2, max_batch_rows=4)
  assert scorer.batches == [4, 4, 4, 2]


def test_a_request_larger_than_a_batch_is_scored_alone():
  scorer = standin.Standin()
  together(scorer, [(['a'], 1.0), (['b'] * 9, 1.0), (['c'], 1.0)], max_batch_rows=4)
  assert scorer.batches == [1, 9, 1]


def test_one_that_cannot_be_read_spoils_no_other():
  scorer = standin.Standin()
  requests = [([f'{i}.0', f'{i}.1'], 'cheap' if i in (3, 11) else 1.0) for i in range(16)]
  answers = together(scorer, requests, max_wait_s=0.05)
  for i, ((names, _), answer) in enumerate(zip(requests, answers, strict=True)):
    if i in (3, 11):
      assert isinstance(answer, limits.Refused)
      assert (answer.status, str(answer)) == (422, "Column price, row 0: 'cheap' is not a number.")
    else:
      np.testing.assert_array_equal(answer.probabilities, want(names))


class _Fragile(standin.Standin):
  """Gives no probability where a number is too large, and fails at one user."""

  def predict(self, columns):
    if 'broken' in columns['user']:
      raise RuntimeError('broken')
    found = super().predict(columns)
    found[[x is not None and x > 1e15 for x in columns['price']]] = np.nan
    return found


def test_a_number_that_is_too_large_spoils_no_other():
  scorer = _Fragile()
  answers = together(scorer, [(['a'], 1.0), (['b', 'c'], 1e20), (['d'], 1.0)], max_wait_s=0.05)
  assert (answers[1].status, str(answers[1])) == (
    422,
    "Column 'price', row 0: 1e+20 is too large a number for this model, which gives no probability "
    'then.',
  )
  for i, name in ((0, 'a'), (2, 'd')):
    np.testing.assert_array_equal(answers[i].probabilities, want([name]))
  assert scorer.batches == [4, 2]


def test_one_that_the_model_fails_at_spoils_no_other():
  names = ['a', 'b', 'broken', 'c', 'd']
  answers = together(_Fragile(), [([name], 1.0) for name in names], max_wait_s=0.05)
  for name, answer in zip(names, answers, strict=True):
    if name == 'broken':
      assert (answer.status, str(answer)) == (500, 'The model failed; the log says how.')
    else:
      np.testing.assert_array_equal(answer.probabilities, want([name]))


def test_a_batch_that_nobody_waits_for_is_not_halved():
  scorer = standin.Standin()
  scorer.predict = lambda columns: [time.sleep(0.2), scorer.batches.append(0)]
  together(scorer, [(['a'], 1.0)] * 40, max_latency_s=0.1, max_wait_s=0.01)
  assert len(scorer.batches) < 5


def test_each_is_scored_by_the_model_it_came_to():
  one, two = standin.Standin('one'), standin.Standin('two')

  async def work(batcher):
    sent = [score(batcher, two if i % 3 else one, [str(i)]) for i in range(9)]
    return await asyncio.gather(*sent)

  for i, answer in enumerate(run(work)):
    version = 'two' if i % 3 else 'one'
    assert answer.version == version
    np.testing.assert_array_equal(answer.probabilities, want([str(i)], version=version))


@pytest.mark.parametrize('fault', ['fails', 'shape', 'nan'])
def test_a_model_that_fails_is_a_500_and_the_next_request_is_scored(fault):
  scorer = standin.Standin(fails=fault == 'fails')
  if fault == 'shape':
    scorer.predict = lambda columns: np.zeros(1, np.float32)
  if fault == 'nan':
    scorer.predict = lambda columns: np.full(len(columns['user']), np.nan, np.float32)

  async def work(batcher):
    with pytest.raises(limits.Refused, match='The model failed') as refused:
      await score(batcher, scorer, ['a', 'b'])
    assert refused.value.status == 500
    return await score(batcher, standin.Standin(), ['a'])

  np.testing.assert_array_equal(run(work).probabilities, want(['a']))


def test_the_queue_is_bounded_by_rows():
  scorer = standin.Standin(seconds_per_row=0.02)
  bounds = {'max_queue_rows': 12, 'max_request_rows': 10, 'max_batch_rows': 4}
  answers = together(scorer, [(['a', 'b', 'c'], 1.0)] * 10, **bounds)
  refused = [x for x in answers if isinstance(x, limits.Refused)]
  assert len(refused) == 6
  assert {(x.status, x.reason) for x in refused} == {(503, 'queue')}
  assert sum(scorer.batches) == 12


def test_who_would_wait_too_long_is_refused_at_once():
  scorer = standin.Standin(seconds_per_row=0.01)

  async def work(batcher):
    await score(batcher, scorer, ['a'] * 5)  # It learns the pace.
    sent = [score(batcher, scorer, ['a'] * 5) for _ in range(40)]
    return await asyncio.gather(*sent, return_exceptions=True)

  answers = run(work, max_latency_s=0.6, max_batch_rows=10)
  refused = [x for x in answers if isinstance(x, limits.Refused)]
  assert 20 < len(refused) < 40
  assert {x.reason for x in refused} <= {'latency', 'deadline'}
  assert all(x.status == 503 and x.retry_after_s >= 1 for x in refused)


def test_a_deadline_that_passes_frees_the_queue():
  scorer = standin.Standin(seconds_per_row=0.2)

  async def work(batcher):
    first = asyncio.create_task(score(batcher, scorer, ['a']))
    await asyncio.sleep(0.05)
    with pytest.raises(limits.Refused) as refused:
      await score(batcher, scorer, ['b'] * 7, within=0.05)
    assert refused.value.reason == 'deadline'
    assert batcher._rows == 0
    await first

  run(work, max_wait_s=0.0)
  assert scorer.batches == [1]


def test_a_pace_that_was_bad_is_forgotten():
  scorer = standin.Standin()

  async def work(batcher):
    batcher._pace.observe(1, 100.0)
    for _ in range(3):
      await score(batcher, scorer, ['a'])  # Whoever comes to an idle server is served.

  run(work, max_latency_s=1.0)


def test_pace_is_a_line_through_the_last_batches():
  found = pace.Pace()
  assert found.seconds(100) == 0
  for rows in (10, 200, 40, 500):
    found.observe(rows, 9.0)
  for _ in range(40):
    for rows in (10, 200, 40, 500):
      found.observe(rows, 0.01 + 0.001 * rows)
  np.testing.assert_allclose(found.seconds(1000), 1.01, rtol=0.02)
  np.testing.assert_allclose(found.seconds(1000, batches=10), 1.1, rtol=0.02)


def test_pace_of_batches_of_one_size():
  found = pace.Pace()
  for _ in range(5):
    found.observe(10, 0.1)
  np.testing.assert_allclose(found.seconds(10), 0.1)
  np.testing.assert_allclose(found.seconds(30), 0.3)


def test_pace_believes_a_hiccup_only_in_part_and_a_slower_machine_soon():
  found = pace.Pace()
  for _ in range(20):
    found.observe(10, 0.1)
  found.observe(10, 100.0)
  assert found.seconds(10) < 0.2
  for _ in range(15):
    found.observe(10, 1.0)
  assert found.seconds(10) > 0.6
