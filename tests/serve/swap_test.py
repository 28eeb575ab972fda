"""Another model takes the place of the first, or is refused."""

import asyncio
import threading

import numpy as np
import pytest

from ctr_jax import serve
from ctr_jax.serve import swap
from tests.serve import standin


def test_the_first_and_the_next():
  versions = iter(('one', 'two'))
  told = []
  holder = swap.Holder(lambda: standin.Standin(next(versions)), told.append)
  assert holder.current is None
  for version in ('one', 'two'):
    assert asyncio.run(holder.load())
    assert holder.current.version == version
  assert [scorer.version for scorer in told] == ['one', 'two']


def test_whoever_cannot_be_opened_or_tried_is_refused(caplog):
  good = standin.Standin()
  wrong_shape = standin.Standin()
  wrong_shape.predict = lambda columns: np.zeros((1, 1), np.float32)
  not_finite = standin.Standin()
  not_finite.predict = lambda columns: np.full(1, np.nan, np.float32)
  candidates = [good, standin.Standin(fails=True), wrong_shape, not_finite, ValueError('damaged')]
  found = iter(candidates)

  def open_scorer():
    scorer = next(found)
    if isinstance(scorer, Exception):
      raise scorer
    return scorer

  told = []
  holder = swap.Holder(open_scorer, told.append)
  assert asyncio.run(holder.load())
  for _ in candidates[1:]:
    assert not asyncio.run(holder.load())
    assert holder.current is good
  assert told == [good, None, None, None, None]
  assert 'model one goes on: damaged' in caplog.text


def test_whoever_is_refused_after_it_was_opened_is_closed():
  closed = []
  wrong, good = standin.Standin(fails=True), standin.Standin()
  for scorer in (wrong, good):
    scorer.close = lambda scorer=scorer: closed.append(scorer)
  assert not asyncio.run(swap.Holder(lambda: wrong).load())
  assert asyncio.run(swap.Holder(lambda: good).load())
  assert closed == [wrong]


def test_it_is_tried_with_batches_of_the_sizes_asked_for():
  scorer = standin.Standin()
  assert asyncio.run(swap.Holder(lambda: scorer, tried_rows=(1, 2, 4)).load())
  assert scorer.batches == [1, 2, 4]


def test_a_model_that_wants_values_is_served():
  scorer = standin.Standin()

  def predict(columns):
    raise serve.BadInput('Column user, row 0: a value is needed.')

  scorer.predict = predict
  holder = swap.Holder(lambda: scorer)
  assert asyncio.run(holder.load())


@pytest.mark.parametrize('asked', [2, 5])
def test_those_asked_for_while_one_runs_are_one(asked):
  opened, go = [], threading.Event()

  def open_scorer():
    go.wait(10)
    opened.append(standin.Standin(f'number {len(opened)}'))
    return opened[-1]

  async def work():
    holder = swap.Holder(open_scorer)
    loads = [asyncio.create_task(holder.load()) for _ in range(asked)]
    await asyncio.sleep(0.05)
    go.set()
    assert all(await asyncio.gather(*loads))
    return holder

  holder = asyncio.run(work())
  assert len(opened) == 2
  assert holder.current is opened[-1]
