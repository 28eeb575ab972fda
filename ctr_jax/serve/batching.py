"""Requests that wait are scored together, in a thread; those that would wait too long are refused.

The queue is bounded by rows and, more tightly, by time: a request is admitted only if what waits
before it, at the pace of the last batches, leaves it enough of its time. So a server that is asked
for more than it can do goes on doing what it can, in time, and refuses the rest at once.
"""

import asyncio
import collections
import concurrent.futures
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ctr_jax import serve
from ctr_jax.serve import pace
from ctr_jax.serve import scorer as scorer_lib
from ctr_jax.serve.limits import Limits, Refused

_CERTAIN = 0.5
"""The part of a request's time that its expected wait may fill.

The expectation is a mean: of those admitted at its very edge, every second one would be late, and
scored in vain. And a machine with other work is at times half as fast.
"""

_WAY_BACK = 0.1
"""The part of a request's time that is kept for its answer to be written and sent."""

_LOG = logging.getLogger(__name__)


class Answer(NamedTuple):
  """Probabilities, float32 [rows], and the version of the model that they are of."""

  probabilities: np.ndarray
  version: str


class Observer(Protocol):
  """Who is told of batches; see `ctr_jax.serve.metrics`."""

  def queue(self, rows: int) -> None:
    """So many rows wait."""

  def batch(self, rows: int, seconds: float) -> None:
    """A batch was scored."""


@dataclasses.dataclass(eq=False)
class _Waiting:
  """A request in the queue."""

  scorer: serve.Scorer
  columns: Mapping[str, Sequence]
  rows: int
  since: float
  answer: asyncio.Future
  queued: bool = True


class Batcher:
  """The queue, and the thread that empties it."""

  def __init__(self, limits: Limits, observer: Observer):
    self._limits = limits
    self._observer = observer
    self._pace = pace.Pace()
    self._lag = pace.Lag()
    self._queue: collections.deque[_Waiting] = collections.deque()
    self._rows = 0  # In the queue.
    self._running = 0  # Rows that are being scored.
    self._began = 0.0
    self._filled = asyncio.Event()
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'score')

  def deadline(self, wanted_s: float | None = None) -> float:
    """When a request that is seen now must be answered, by time.monotonic().

    Args:
      wanted_s: what its client asked for; never later than the limit.
    """
    allowed = self._limits.max_latency_s
    if wanted_s is not None:
      allowed = min(allowed, wanted_s)
    return time.monotonic() - self._lag.seconds + (1 - _WAY_BACK) * allowed

  def admit(self, rows: int, deadline: float) -> None:
    """Refuses a request of so many rows if it could not be answered by then."""
    idle = not self._queue and not self._running
    if idle:
      return  # Whatever the pace was: only a batch can teach that it has changed.
    expected = self._expected_s(rows)
    if self._rows + rows > self._limits.max_queue_rows:
      raise _overloaded('queue', f'{self._rows} rows are waiting already', expected)
    if expected > _CERTAIN * (deadline - time.monotonic()):
      raise _overloaded('latency', 'the answer would come too late', expected)

  async def score(
    self, scorer: serve.Scorer, columns: Mapping[str, Sequence], rows: int, deadline: float
  ) -> Answer:
    """Probabilities of a request.

    Args:
      scorer: the model that its columns were checked against; it is scored by no other.
      columns: raw values, `rows` of each.
      rows: at least 1.
      deadline: by when, by time.monotonic().

    Raises:
      Refused: the queue is full or the time is up (503), the model cannot read a value (422), or
        fails (500).
    """
    self.admit(rows, deadline)
    future = asyncio.get_running_loop().create_future()
    waiting = _Waiting(scorer, columns, rows, time.monotonic(), future)
    self._queue.append(waiting)
    self._changed(rows)
    try:
      async with asyncio.timeout(deadline - time.monotonic()):
        return await waiting.answer
    except TimeoutError as e:
      raise _overloaded('deadline', 'its time is up', self._expected_s(rows)) from e
    finally:
      if waiting.queued:  # Its time was up, or its client is gone.
        self._queue.remove(waiting)
        self._changed(-rows)

  async def run(self) -> None:
    """Scores batch after batch, for ever."""
    lag = asyncio.create_task(self._lag.watch())
    try:
      while True:
        await self._enough()
        await self._score_next()
    finally:
      lag.cancel()
      self._thread.shutdown(wait=False, cancel_futures=True)

  async def _enough(self):
    """Waits until a batch is worth scoring: it is full, or its oldest request has waited enough."""
    while not self._queue:
      await self._change()
    due = self._queue[0].since + self._limits.max_wait_s
    while self._queue and self._rows < self._limits.max_batch_rows and time.monotonic() < due:
      try:
        async with asyncio.timeout(due - time.monotonic()):
          await self._change()
      except TimeoutError:
        return

  async def _change(self):
    self._filled.clear()
    await self._filled.wait()

  def _changed(self, rows):
    """So many rows came to the queue, or left it."""
    self._rows += rows
    self._observer.queue(self._rows)
    if rows > 0:
      self._filled.set()

  def _take(self):
    """The oldest requests that fit into a batch, and belong to one model."""
    batch, rows = [], 0
    while self._queue:
      first = self._queue[0]
      if batch and rows + first.rows > self._limits.max_batch_rows:
        break
      if batch and first.scorer is not batch[0].scorer:
        break
      batch.append(self._queue.popleft())
      first.queued = False
      rows += first.rows
    self._changed(-rows)
    return batch, rows

  async def _score_next(self):
    batch, rows = self._take()
    if not batch:
      return
    loop = asyncio.get_running_loop()
    self._running, self._began = rows, time.monotonic()
    try:
      outcomes = await loop.run_in_executor(self._thread, _score, batch)
    finally:
      self._running = 0
    seconds = time.monotonic() - self._began
    self._pace.observe(rows, seconds)
    self._observer.batch(rows, seconds)
    for waiting, outcome in zip(batch, outcomes, strict=True):
      if waiting.answer.done():
        continue  # Its time was up.
      if isinstance(outcome, Exception):
        waiting.answer.set_exception(outcome)
      else:
        waiting.answer.set_result(outcome)

  def _expected_s(self, rows):
    """How long a request of so many rows would wait for its answer."""
    ahead = self._rows + rows
    batches = -(-ahead // self._limits.max_batch_rows)
    left = 0.0
    if self._running:
      elapsed = time.monotonic() - self._began
      left = max(self._pace.seconds(self._running) - elapsed, 0.0)
    return left + self._pace.seconds(ahead, batches)


def _score(batch):
  """An Answer or a Refused for each request; None where nobody waits. Runs in the thread.

  What one request does wrong must not spoil the others: a batch that cannot be scored is halved
  until the request is alone that cannot, or nobody waits for the answers any more.
  """
  if all(waiting.answer.done() for waiting in batch):
    return [None] * len(batch)
  try:
    columns = batch[0].columns
    if len(batch) > 1:
      columns = {
        name: [value for waiting in batch for value in waiting.columns[name]] for name in columns
      }
    probabilities = batch[0].scorer.predict(columns)
    rows = sum(waiting.rows for waiting in batch)
    if probabilities.shape != (rows,):
      raise ValueError(f'The model gave the shape {probabilities.shape} for {rows} rows.')
  except Exception as e:
    if len(batch) > 1:
      half = len(batch) // 2
      return _score(batch[:half]) + _score(batch[half:])
    return [_refusal(batch[0], e)]
  ends = np.cumsum([waiting.rows for waiting in batch])[:-1]
  return [_judged(*pair) for pair in zip(batch, np.split(probabilities, ends), strict=True)]


def _refusal(waiting, error):
  """What a request is told that cannot be scored."""
  if isinstance(error, serve.BadInput):
    return Refused(422, str(error), 'input')
  _LOG.error('The model %s failed.', waiting.scorer.version, exc_info=error)
  return Refused(500, 'The model failed; the log says how.', 'model')


def _judged(waiting, probabilities):
  """The answer; where a probability is not a number, whose fault that is."""
  model = waiting.scorer
  if np.isfinite(probabilities).all():
    return Answer(probabilities, model.version)
  try:
    error = scorer_lib.fault(model.predict, model.columns, waiting.columns, probabilities)
  except Exception as e:
    error = e
  return _refusal(waiting, error)


def _overloaded(reason, why, expected_s):
  return Refused(503, f'Overloaded: {why}; try again later.', reason, max(expected_s, 1.0))
