r"""A model whose answers, speed and faults are known, and the server with it in place of artifacts.

  python -m tests.serve.standin --artifact=FOLDER --port=0

serves FOLDER, in which `model.json` holds the arguments of `Standin`.
"""

import json
import pathlib
import sys
import time
import zlib

import numpy as np

from ctr_jax import serve
from experiments.bench import serve_process


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

  def unchecked(self, columns):
    """See `serve.Scorer`."""
    return self.predict(columns)


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


def serving(folder, *more):
  """A server of such an artifact."""
  command = ['tests.serve.standin', f'--artifact={folder}', '--port=0', *more]
  return serve_process.Process(command)


if __name__ == '__main__':
  from absl import app

  from ctr_jax.serve import server, worker

  serve.open = open_standin
  if sys.argv[1] == 'worker':
    worker.main(*sys.argv[2:])
  else:
    worker.COMMAND = (sys.executable, '-m', 'tests.serve.standin', 'worker')
    app.run(server.main)
