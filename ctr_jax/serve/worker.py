"""A scorer in a process of its own, so that it and the event loop do not wait for each other.

In one process both need Python's interpreter, and hand it to each other several times a request; on
a busy machine each time costs milliseconds, and a server spends its time on that instead. Here a
batch goes through a pipe and comes back. A scoring process that dies is started anew, and one that
does not answer is ended.

  python -m ctr_jax.serve.worker FOLDER SCORER   # what `Remote` starts

Either side sends messages of a length (8 bytes, little-endian) and a body: columns as a JSON
object, answers as a JSON pair (what happened, its value), after 'scored' float32 probabilities.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
import weakref

import numpy as np

from ctr_jax import serve

COMMAND = (sys.executable, '-m', 'ctr_jax.serve.worker')

_LENGTH = struct.Struct('<Q')
_PROCESSES: set[subprocess.Popen] = set()
# Of the libraries that multiply matrices; read when they are loaded.
_THREADS = ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS')


class Remote:
  """A `serve.Scorer` whose work is done by another process, which ends with it."""

  def __init__(
    self,
    folder: str | pathlib.Path,
    scorer: str = 'numpy',
    threads: int = 1,
    patience_s: float = 60.0,
  ):
    """Opens an artifact.

    Args:
      folder: a link is followed now: a process that is started anew opens the same artifact.
      scorer: see `serve.open`.
      threads: of a product of matrices.
      patience_s: a process that works longer on a batch than about this is ended.

    Raises:
      ValueError: the artifact cannot be opened, in the words of `serve.open`.
    """
    self._arguments = [str(pathlib.Path(folder).resolve()), scorer]
    self._environment = os.environ | {name: str(threads) for name in _THREADS}
    self._one_at_a_time = threading.Lock()
    self._patience_s = patience_s
    self._asked_at: float | None = None
    self.columns, self.version, self.nbytes = self._start()
    watched = weakref.ref(self)
    threading.Thread(target=_watch, args=(watched,), name='watch', daemon=True).start()

  def predict(self, columns) -> np.ndarray:
    """See `serve.Scorer.unchecked`; values are plain Python ones, as bodies have them.

    A batch during which the process dies is scored once more.

    Raises:
      BadInput: a value cannot be read.
      RuntimeError: the model failed, was replaced meanwhile, or did not answer in time.
    """
    asked = json.dumps(columns).encode()
    with self._one_at_a_time:
      if self._end.alive:
        try:
          return self._ask(asked)
        except (EOFError, OSError):
          self._end()
      if self._start()[1] != self.version:
        self._end()
        raise RuntimeError(f'{self._arguments[0]} holds another model than {self.version} now.')
      return self._ask(asked)

  def close(self) -> None:
    """Ends the process; the scorer is of no use then."""
    self._end()

  def _start(self):
    """Starts the process; returns the columns, version and bytes of its model."""
    self._process = subprocess.Popen(
      [*COMMAND, *self._arguments],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env=self._environment,
    )
    _PROCESSES.add(self._process)
    self._end = weakref.finalize(self, _end, self._process)
    try:
      return self._answer()
    except EOFError as e:
      self._end()
      raise ValueError(
        f'The scoring process ended while it opened {self._arguments[0]}; its log says why.'
      ) from e
    except ValueError:
      self._end()
      raise

  def _ask(self, asked):
    self._asked_at = time.monotonic()
    try:
      _send(self._process.stdin, asked)
      return self._answer()
    except (EOFError, OSError):
      if self._stuck():
        self._end()
        raise RuntimeError(
          f'The scoring process was ended: it worked on a batch for over {self._patience_s:g} s.'
        ) from None
      raise
    finally:
      self._asked_at = None

  def _stuck(self):
    asked_at = self._asked_at
    return asked_at is not None and time.monotonic() - asked_at > self._patience_s

  def _answer(self):
    kind, value = json.loads(_receive(self._process.stdout))
    if kind == 'scored':
      return np.frombuffer(_receive(self._process.stdout), '<f4')
    if kind == 'bad input':
      raise serve.BadInput(value)
    if kind == 'cannot open':
      raise ValueError(value)
    if kind == 'failed':
      raise RuntimeError(f'In the scoring process:\n{value}')
    return value


def _watch(watched: weakref.ref) -> None:
  """Ends the process of a `Remote` that does not answer; itself once nobody has the `Remote`."""
  while (remote := watched()) is not None:
    process = remote._process
    if remote._stuck():
      process.kill()  # Who waits for it finds that it has ended.
    pause_s = remote._patience_s / 4
    del remote, process
    time.sleep(pause_s)


def _send(stream, body: bytes) -> None:
  stream.write(_LENGTH.pack(len(body)))
  stream.write(body)
  stream.flush()


def _receive(stream) -> bytes:
  """The next message; EOFError where the other side ended before it was whole."""
  head = stream.read(_LENGTH.size)
  body = stream.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b''
  if len(head) < _LENGTH.size or len(body) < _LENGTH.unpack(head)[0]:
    raise EOFError('The other process ended in the middle of a message.')
  return body


def _end(process):
  """Ends a process that nobody waits for any more; it has nothing to lose."""
  _PROCESSES.discard(process)
  process.kill()
  with contextlib.suppress(OSError):
    process.stdin.close()
  process.stdout.close()
  process.wait()


def end_all() -> None:
  """Ends every scoring process, in the middle of a batch too."""
  for process in list(_PROCESSES):
    process.kill()


def main(folder: str, scorer: str) -> None:
  """Scores what comes by stdin until it ends."""
  # They are for the server, which ends this process by closing the pipe when all is answered.
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
  asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), 'wb')
  os.dup2(2, 1)  # What libraries print must not come between.

  def say(kind, value=None):
    _send(answers, json.dumps((kind, value)).encode())

  try:
    model = serve.open(folder, scorer)
  except (ValueError, OSError, ImportError) as e:
    say('cannot open', str(e))
    return
  with contextlib.suppress(EOFError, BrokenPipeError):
    say('opened', (dict(model.columns), model.version, model.nbytes))
    while True:
      columns = json.loads(_receive(asked))
      try:
        probabilities = np.asarray(model.unchecked(columns), '<f4')
      except serve.BadInput as e:
        say('bad input', str(e))
      except Exception:
        say('failed', traceback.format_exc())
      else:
        say('scored')
        _send(answers, probabilities.tobytes())
  os._exit(0)  # What is left in the buffer of a broken pipe cannot be flushed.


if __name__ == '__main__':
  main(*sys.argv[1:])
