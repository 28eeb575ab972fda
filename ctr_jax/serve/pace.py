"""How long the next batch will take, by those before it, and how late the event loop is."""

import asyncio
import time

_KEPT = 0.9
"""What an old batch still counts after each new one."""

_SURPRISE = 4.0
"""So many times what was expected is the most that one batch is believed."""

_PERIOD_S = 0.01


class Pace:
  """Seconds of a batch of n rows as a + b·n, fitted by least squares to the last batches."""

  def __init__(self):
    self._weight = self._n = self._t = self._nn = self._nt = 0.0

  def observe(self, rows: int, seconds: float) -> None:
    """Learns from a batch."""
    if self._weight > 3:
      # A machine that was away for a moment says little of the next batch; if it is slower for
      # good, the next ones say so again.
      seconds = min(seconds, _SURPRISE * self.seconds(rows))
    self._weight = self._weight * _KEPT + 1
    self._n = self._n * _KEPT + rows
    self._t = self._t * _KEPT + seconds
    self._nn = self._nn * _KEPT + rows * rows
    self._nt = self._nt * _KEPT + rows * seconds

  def seconds(self, rows: int, batches: int = 1) -> float:
    """What `batches` batches of together `rows` rows take; 0 before the first was seen."""
    if not self._weight:
      return 0.0
    n, t = self._n / self._weight, self._t / self._weight
    variance = self._nn / self._weight - n * n
    # Batches of one size tell nothing of a: then all is put down to the rows, which is pessimistic
    # of larger batches, but lets them come about, and they teach better.
    per_row = t / n
    if variance > 1e-3 * n * n:
      per_row = min(max((self._nt / self._weight - n * t) / variance, 0.0), per_row)
    return batches * (t - per_row * n) + rows * per_row


class Lag:
  """How late the event loop runs what is due: so long has a request waited before it is seen."""

  def __init__(self):
    self.seconds = 0.0

  async def watch(self) -> None:
    """Measures for ever."""
    while True:
      due = time.monotonic() + _PERIOD_S
      await asyncio.sleep(_PERIOD_S)
      self.seconds = max(time.monotonic() - due, 0.5 * self.seconds)
