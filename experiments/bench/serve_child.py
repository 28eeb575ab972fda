"""One artifact and one scorer in a process of its own: what `bench.serve` starts and asks.

  python -m experiments.bench.serve_child FOLDER SCORER ROWS

ROWS is a JSON object of lists of raw values by column. A line of numbers `SIZE REPEATS` is answered
by a line of JSON with milliseconds, one for each batch: of raw values to probabilities, and of the
encoded columns to logits alone. The first line says what opening took. It imports nothing of
training, so that memory is the scorer's.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time

import numpy as np


def resident() -> int:
  """Bytes of this process that are in memory now."""
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    if line.startswith('VmRSS:'):
      return 1024 * int(line.split()[1])
  raise OSError('/proc/self/status does not tell of memory; this benchmark needs Linux.')


def main(folder: str, scorer: str, rows: str) -> None:
  """Opens, says what it took, and answers until its input ends."""
  columns = json.loads(pathlib.Path(rows).read_text())
  total = len(next(iter(columns.values())))
  from ctr_jax import serve

  __import__(f'ctr_jax.serve.{scorer}_scorer')  # Libraries are loaded before the clock starts.
  before, start = resident(), time.perf_counter()
  model = serve.open(folder, scorer)
  model.predict({name: values[:1] for name, values in columns.items()})
  seconds = time.perf_counter() - start
  for first in range(0, total, 4096):  # Touches what requests touch.
    model.predict({name: values[first : first + 4096] for name, values in columns.items()})
  print(json.dumps({'seconds': seconds, 'memory': resident() - before, 'stored': model.nbytes}))
  at = 0
  for line in sys.stdin:
    size, repeats = map(int, line.split())
    raw, alone = [], []
    for turn in range(repeats + 1):  # The first one may compile.
      at = at + size if at + 2 * size <= total else 0
      batch = {name: values[at : at + size] for name, values in columns.items()}
      start = time.perf_counter()
      model.predict(batch)
      ended = time.perf_counter()
      encoded = model.encode(batch)
      begun = time.perf_counter()
      model.score(encoded)
      if turn:
        raw.append(1e3 * (ended - start))
        alone.append(1e3 * (time.perf_counter() - begun))
    print(json.dumps({'raw': raw, 'encoded': alone}), flush=True)


if __name__ == '__main__':
  sys.stdout.reconfigure(line_buffering=True)
  np.seterr(all='raise', under='ignore')
  main(*sys.argv[1:])
