"""The model that serves, and how another takes its place.

A new artifact is opened and tried beside the old one, in a thread, and takes its place in one
assignment; requests that are under way keep the model they came to. One that cannot be opened is
refused, and the old one goes on.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np

from ctr_jax import serve

_LOG = logging.getLogger(__name__)


class Holder:
  """Holds the current model.

  Attributes:
    current: the scorer that new requests get; None until the first is loaded.
  """

  def __init__(
    self,
    open_scorer: Callable[[], serve.Scorer],
    loaded: Callable[[serve.Scorer | None], None] = lambda scorer: None,
    tried_rows: Sequence[int] = (1,),
  ):
    """Holds nothing yet.

    Args:
      open_scorer: opens the artifact where it lies now; may take long, and may raise.
      loaded: is told of each new model, and of each that was refused (None).
      tried_rows: sizes of the batches that a model must score before it serves; those that it
        compiles programs for, so that no request waits for it.
    """
    self._open = open_scorer
    self._loaded = loaded
    self._tried_rows = tried_rows
    self._loading = asyncio.Lock()
    self._asked = 0
    self.current: serve.Scorer | None = None

  async def load(self) -> bool:
    """Opens the artifact anew and serves it; False if it was refused.

    Loads run one after another. Those that were asked for while others waited are one: the last to
    start sees the newest folder.
    """
    self._asked += 1
    mine = self._asked
    async with self._loading:
      if mine < self._asked:
        return True  # One that was asked for later runs next, and sees what this one would.
      try:
        scorer = await _in_daemon(self._try)
      except Exception as e:
        serving = f'model {self.current.version} goes on' if self.current else 'no model serves'
        foreseen = isinstance(e, (ValueError, OSError, ImportError))
        _LOG.error('The artifact is refused, and %s: %s', serving, e, exc_info=not foreseen)
        self._loaded(None)
        return False
      self.current = scorer
      self._loaded(scorer)
      _LOG.info('Serving model %s (%d bytes).', scorer.version, scorer.nbytes)
      return True

  def _try(self):
    """Opens the artifact and scores samples without values; closes it if it cannot."""
    scorer = self._open()
    try:
      self._score_nothing(scorer)
    except BaseException:
      if hasattr(scorer, 'close'):  # It has a process, see `worker.Remote`.
        scorer.close()
      raise
    return scorer

  def _score_nothing(self, scorer):
    for rows in self._tried_rows:
      try:
        probabilities = scorer.predict({name: [None] * rows for name in scorer.columns})
      except serve.BadInput:
        return  # It wants a value somewhere, and says so in words.
      if probabilities.shape != (rows,) or not np.isfinite(probabilities).all():
        raise ValueError('The model gives no probability for a sample without values.')


async def _in_daemon(call):
  """Runs `call` in a thread that the process does not wait for when it ends."""
  loop = asyncio.get_running_loop()
  done = loop.create_future()

  def settle(setter, value):
    if not done.done():
      setter(value)

  def run():
    try:
      setter, value = done.set_result, call()
    except BaseException as e:
      setter, value = done.set_exception, e
    if not loop.is_closed():
      loop.call_soon_threadsafe(settle, setter, value)

  threading.Thread(target=run, name='load', daemon=True).start()
  return await done
