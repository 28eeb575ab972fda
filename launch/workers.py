"""Processes, several at a time: started in order, waited for, and stopped so that they can save."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import NamedTuple


class Ended(NamedTuple):
  """How something went: 'done', 'failed', 'stopped', 'skipped' or 'not begun'; exit status."""

  state: str
  seconds: float = 0.0
  status: int = 0

  def cause(self) -> str:
    """The exit status in words."""
    if self.status < 0:
      return f'killed by {signal.Signals(-self.status).name}'
    return f'exit status {self.status}'


class Workers:
  """Runs rows (anything with a `series`) as processes, one in each slot.

  Rows of the same series never run at the same time. The first SIGINT, SIGTERM or SIGHUP is passed
  on to all processes as SIGTERM, and nothing more is started; a second one kills them.
  """

  def __init__(self, slots: list[dict[str, str]]):
    """Each slot is what the environment of its process has besides."""
    self._slots = slots
    self._running: dict[int, tuple] = {}
    self.stopped_by = 0

  def run(self, rows, start, finished) -> None:
    """Calls start(row, environment) → process and finished(row, Ended) until all rows ended."""
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # As `nohup` makes it.
      signals.append(signal.SIGHUP)
    before = {number: signal.signal(number, self._stop) for number in signals}
    waiting = list(rows)
    try:
      while self._running or (waiting and not self.stopped_by):
        self._fill(waiting, start)
        self._reap(finished)
        time.sleep(0.05)
    finally:
      for _, process, _ in self._running.values():  # None, unless one could not be started.
        process.terminate()
      for number, handler in before.items():
        signal.signal(number, handler)

  def _fill(self, waiting, start):
    for slot, extra in enumerate(self._slots):
      busy = {row.series for row, _, _ in self._running.values()}
      row = next((row for row in waiting if row.series not in busy), None)
      if slot in self._running or row is None or self.stopped_by:
        continue
      waiting.remove(row)
      self._running[slot] = (row, start(row, os.environ | extra), time.monotonic())
      if self.stopped_by:  # The signal came in between: this one was not told.
        self._running[slot][1].terminate()

  def _reap(self, finished):
    for slot, (row, process, began) in list(self._running.items()):
      status = process.poll()
      if status is not None:
        del self._running[slot]
        wrong = 'stopped' if self.stopped_by else 'failed'
        finished(row, Ended(wrong if status else 'done', time.monotonic() - began, status))

  def _stop(self, number, frame):
    del frame
    again, self.stopped_by = self.stopped_by, number
    running = list(self._running.values())
    for _, process, _ in running:
      (process.kill if again else process.terminate)()
    what = 'killed' if again else 'told to save and end; another signal kills them'
    # Not `print`, which must not be called inside of a `print` that the signal has interrupted.
    os.write(sys.stderr.fileno(), f'{len(running)} processes are {what}.\n'.encode())
