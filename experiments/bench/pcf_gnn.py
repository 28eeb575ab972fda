r"""Memory and speed of pre-training on a large graph: all of it in each step, or sampled parts.

  python -m experiments.bench.pcf_gnn
  python -m experiments.bench.pcf_gnn --edges=100000 --rows=2000    # a quick look

Four tables of equal size, all six pairs of them, ids of power-law frequency, two layers of 16
dimensions. Each line is a process of its own: `ready` is its peak memory when the graph is built,
`peak` when it ends. `look` is what measuring the error of all edges takes, with the whole graph
encoded; between two looks are a few steps, of which `step` is one. Both are medians, and the first
of each, which compiles, is left out. An epoch is as many steps as see each edge once.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from ctr_jax.data import pairs
from ctr_jax.graphs import graph as graph_lib
from ctr_jax.train import pretrain
from experiments import common, report

flags.adopt_module_key_flags(common)  # So that --help shows them.
_EDGES = flags.DEFINE_integer('edges', 5_000_000, 'Pairs of values in the graph.')
_ROWS = flags.DEFINE_integer('rows', 50_000, 'Rows of each of the four tables.')
_DIM = flags.DEFINE_integer('dim', 16, 'Of the vectors.')
_LOOKS = flags.DEFINE_integer('looks', 4, 'How often the held-out edges are looked at.')
_CASE = flags.DEFINE_string('case', None, 'Measure this one in this process, and print it as JSON.')

_TABLES = ('a', 'b', 'c', 'd')
# Name → (settings, steps between two looks).
_CASES = {
  'dot, whole graph': ({'method': 'dot'}, 4),
  'gnn, whole graph': ({'method': 'gnn'}, 2),
  'gnn, 4,096 edges, 10 neighbours': ({'method': 'gnn', 'batch_edges': 4096, 'fanout': 10}, 10),
  'gnn, 32,768 edges, 10 neighbours': ({'method': 'gnn', 'batch_edges': 32768, 'fanout': 10}, 5),
}


def graph(edges: int, rows: int) -> graph_lib.Graph:
  """`edges` distinct pairs in six relations of four tables; clicks are noise."""
  rng = np.random.default_rng(0)
  made = []
  for i, (first, second) in enumerate(itertools.combinations(_TABLES, 2)):
    count = edges * (i + 1) // 6 - edges * i // 6
    key = np.zeros(0, np.int64)
    while len(key) < count:
      u, v = (1 + ((rows - 1) * rng.random(count) ** 2).astype(np.int64) for _ in range(2))
      key = np.union1d(key, u * rows + v)
    key = rng.choice(key, count, replace=False)
    seen = rng.geometric(0.2, count)
    u, v = (x.astype(np.int32) for x in np.divmod(key, rows))
    made.append(pairs.Pairs(first, second, u, v, rng.binomial(seen, 0.25), seen))
  return graph_lib.build(made, {t: t for t in _TABLES}, dict.fromkeys(_TABLES, rows), 0.25)


def peak_bytes() -> int:
  """Peak memory of this process."""
  # Not ru_maxrss, which on Linux begins with that of the process that started this one.
  status = pathlib.Path('/proc/self/status').read_text()
  return 2**10 * int(next(x.split()[1] for x in status.splitlines() if x.startswith('VmHWM')))


def timed(name: str) -> list[float]:
  """Seconds of each call of a method of a training, from now on."""
  real, seconds = getattr(pretrain._Run, name), []

  def call(self, *args):
    started = time.perf_counter()
    found = jax.block_until_ready(real(self, *args))
    seconds.append(time.perf_counter() - started)
    return found

  setattr(pretrain._Run, name, call)
  return seconds


def measure(name: str) -> dict[str, Any]:
  """One line, measured here."""
  settings, every = _CASES[name]
  config = pretrain.Config(
    dim=_DIM.value, steps=every * _LOOKS.value, every=every, patience=_LOOKS.value, **settings
  )
  made = graph(_EDGES.value, _ROWS.value)
  ready, steps, looks = peak_bytes(), timed('_advance'), timed('_note')
  started, before = time.perf_counter(), time.process_time()
  with tempfile.TemporaryDirectory() as folder:
    pretrain.pretrain(made, config, pathlib.Path(folder), 0)
  edges = len(made.graph.senders) * (1 - config.held_out)
  step = statistics.median(steps[1:]) / every
  return {
    'name': name,
    'step_seconds': step,
    'epoch_seconds': step * max(1, edges / (config.batch_edges or edges)),
    'look_seconds': statistics.median(looks[1:]),
    'all_seconds': time.perf_counter() - started,
    'cpu_seconds': time.process_time() - before,
    'steps': config.steps,
    'ready_bytes': ready,
    'peak_bytes': peak_bytes(),
  }


def child(name: str) -> dict[str, Any]:
  """One line, measured in a process of its own."""
  command = [sys.executable, '-m', 'experiments.bench.pcf_gnn', *sys.argv[1:], f'--case={name}']
  load = os.getloadavg()[0]
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=common.PROJECT, check=True)
  return json.loads(done.stdout.splitlines()[-1]) | {'load_before': load}


def table(lines: list[dict[str, Any]]) -> str:
  """Markdown: a line per case."""
  header = ('training', 'step', 'epoch', 'look', 'ready', 'peak', 'CPU seconds', 'load before')
  return report.table(
    header,
    [
      (
        x['name'],
        f'{x["step_seconds"]:.2f} s',
        f'{x["epoch_seconds"]:.1f} s',
        f'{x["look_seconds"]:.1f} s',
        report.size(x['ready_bytes']),
        report.size(x['peak_bytes']),
        f'{x["cpu_seconds"]:.0f} for {x["steps"]} steps',
        f'{x["load_before"]:.1f}',
      )
      for x in lines
    ],
  )


def main() -> None:
  """Measures each case and writes the result."""
  if _CASE.value:
    print(json.dumps(measure(_CASE.value)))
    return
  lines = []
  for name in _CASES:
    lines.append(child(name))
    print(json.dumps(lines[-1]), flush=True)
  where = common.environment()
  caption = (
    f'{_EDGES.value:,} edges in 6 relations of {4 * _ROWS.value:,} nodes, dim {_DIM.value}, 2 '
    'layers, a tenth of the edges held out; CPU seconds are of the whole training, with compiling '
    f'and {_LOOKS.value} looks; `load before` is that of the machine when a process began (0 = '
    f'idle); {where["device"]}, {where["cpu_cores"]} cores, jax {where["jax"]}, {where["date"]}. '
    f'`{common.command("bench.pcf_gnn")}`'
  )
  found = {
    'experiment': 'bench.pcf_gnn',
    'command': common.command('bench.pcf_gnn'),
    'environment': where,
    'lines': lines,
    'table': table(lines),
    'caption': caption,
  }
  print(f'\n{found["table"]}\n\n{caption}')
  common.save_bench('pcf_gnn', found)


if __name__ == '__main__':
  common.run(main)
