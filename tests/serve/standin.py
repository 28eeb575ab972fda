r"""A model whose answers, speed and faults are known, and the server with it in place of artifacts.

  python -m tests.serve.standin --artifact=FOLDER --port=0

serves FOLDER, in which `model.json` holds the arguments of `Standin`.
"""

import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import zlib

import numpy as np

from ctr_jax import serve

PROJECT = pathlib.Path(__file__).parent.parent.parent


class Standin(serve.Scorer):
  """The probability of a sample depends on each of its values, and on the version."""

  def __init__(self, version='one', seconds_per_row=0.0, fails=False, columns=None):
    self.columns = columns or {'user': 'id', 'tags': 'ids', 'price': 'numeric'}
    self.version = version
    self.nbytes = 123
    self.seconds_per_row = seconds_per_row
    self.fails = fails
    self.batches = []

  def predict(self, columns):
    """See `serve.Scorer`."""
    prices = columns.get('price', ())
    for row, value in enumerate(prices):
      if isinstance(value, (str, list)):
        raise serve.BadInput(f'Column price, row {row}: {value!r} is not a number.')
    rows = list(zip(*(columns[name] for name in self.columns), strict=True))
    self.batches.append(len(rows))
    if self.fails:
      raise RuntimeError('broken')
    time.sleep(self.seconds_per_row * len(rows))
    return np.array([expected(row, self.version) for row in rows], np.float32)


def expected(row, version='one'):
  """The probability of a row, given as its values in the order of the columns."""
  return np.float32(zlib.crc32(repr((version, row)).encode()) / 2**32)


def write(folder, **arguments):
  """Writes an artifact, or replaces it, at once."""
  folder.mkdir(exist_ok=True)
  (folder / 'new.json').write_text(json.dumps(arguments))
  (folder / 'new.json').rename(folder / 'model.json')


def open_standin(folder, scorer='numpy'):
  """Opens such an artifact."""
  del scorer
  return Standin(**json.loads((pathlib.Path(folder) / 'model.json').read_text()))


class Process:
  """The server in a process of its own."""

  def __init__(self, folder, *more):
    command = [sys.executable, '-m', 'tests.serve.standin', f'--artifact={folder}', '--port=0']
    self.process = subprocess.Popen(
      [*command, *more], cwd=PROJECT, stderr=subprocess.PIPE, text=True, env=os.environ.copy()
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
    self.log.extend(self.process.stderr)

  def get(self, path, body=None, **headers):
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

  def until(self, true, seconds=30):
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

  def stop(self, number=signal.SIGTERM):
    """Sends a signal and waits; returns the exit status."""
    self.process.send_signal(number)
    status = self.process.wait(30)
    self._reader.join()
    self.process.stderr.close()
    return status


if __name__ == '__main__':
  from absl import app

  from ctr_jax.serve import server

  serve.open = open_standin
  app.run(server.main)
