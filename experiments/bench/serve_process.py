"""A server as a process: started, asked, and ended."""

import http.client
import json
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

_PROJECT = pathlib.Path(__file__).resolve().parent.parent.parent


class Process:
  """The server in a process of its own.

  Attributes:
    process: see subprocess.
    port: that it listens on; None if it ended before.
    log: its lines so far.
  """

  def __init__(self, command: Sequence[str]):
    """Starts a module with its flags, and waits until it is ready, or has ended."""
    self.process = subprocess.Popen(
      [sys.executable, '-m', *command], cwd=_PROJECT, stderr=subprocess.PIPE, text=True
    )
    self.log = []
    self.port = None
    for line in self.process.stderr:
      self.log.append(line)
      if found := re.search(r'Listening on http://.*:(\d+)', line):
        self.port = int(found[1])
        break
    self._reader = threading.Thread(target=self._read)
    self._reader.start()
    if self.port:
      self.until(lambda: self.get('/readyz')[0] == 200 or self.process.poll() is not None)

  def _read(self):
    with self.process.stderr:
      self.log.extend(self.process.stderr)

  def ended(self) -> int:
    """Waits for the end of the process and of its log; returns the exit status."""
    status = self.process.wait(30)
    self._reader.join()
    return status

  def get(self, path: str, body: str | None = None, **headers: str) -> tuple[int, Any]:
    """Status and decoded answer of a request on a connection of its own."""
    connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=30)
    try:
      connection.request('POST' if body else 'GET', path, body, headers)
      answer = connection.getresponse()
      text = answer.read().decode()
      kind = answer.getheader('content-type', '')
      return answer.status, json.loads(text) if kind == 'application/json' else text
    finally:
      connection.close()

  def until(self, true: Callable[[], bool], seconds: float = 30) -> None:
    """Waits until `true()`, or the process has ended; refused connections are not minded."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
      try:
        if true():
          return
      except OSError:
        if self.process.poll() is not None:
          return
      time.sleep(0.02)
    raise TimeoutError(''.join(self.log))

  def stop(self, number: int = signal.SIGTERM) -> int:
    """Sends a signal and waits; returns the exit status."""
    self.process.send_signal(number)
    return self.ended()
