r"""Exported models side by side: memory, time to load, samples per second and latency.

  python -m experiments.bench.serve --data=frappe_x1
  python -m experiments.bench.serve --data=frappe_x1 --artifacts=old=folder,new=folder2
  python -m experiments.bench.serve --data=synthetic_small --rounds=1 --repeats=3    # a quick look

Without --artifacts, the massive model of `experiments.massive_to_compact` (full tables, ids and
click rates of pairs) and a compact one (relations in the net, scores of node vectors in int8,
multi-hash to a quarter in int8; no feature is left out) are exported with numbers that nobody
trained: what they cost does not depend on them. Each artifact is opened by each scorer in a process
of its own; the processes take turns. Requests are raw values of the test split that were asked for
before, so that what a scorer remembers of them is at hand. `raw` is from raw values to
probabilities, `encoded` from row numbers to logits. Ratios are to the first artifact, with the same
scorer.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ctr_jax import compress, models, predict
from ctr_jax.serve import export, pairs_export
from experiments import common, crossed, pcf, report, settings, sweeps
from experiments.bench import serve_rows

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(crossed)
flags.adopt_module_key_flags(pcf)
_ARTIFACTS = flags.DEFINE_list('artifacts', [], 'NAME=FOLDER of exported models of --data.')
_SERVED_BY = flags.DEFINE_list('scorers', ['numpy', 'jax', 'onnx'], 'Who scores.')
_SIZES = flags.DEFINE_list('sizes', ['1', '100', '1000', '10000'], 'Samples of a batch.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Turns of each process.')
_REPEATS = flags.DEFINE_integer('repeats', 20, 'Batches of each size in a turn.')
_FEWER = 4  # Rows of a hashed table: so many times fewer.


def main() -> None:
  source = common.source()
  sizes = serve_rows.fitting(_SIZES.value, serve_rows.count(source))
  scorers = [x for x in _SERVED_BY.value if x != 'onnx' or importlib.util.find_spec('onnxruntime')]
  with tempfile.TemporaryDirectory() as folder:
    given = dict(x.split('=', 1) for x in _ARTIFACTS.value)
    given = {key: pathlib.Path(path).resolve() for key, path in given.items()}
    artifacts = given or _exported(source, pathlib.Path(folder))
    rows = pathlib.Path(folder, 'rows.json')
    rows.write_text(json.dumps(serve_rows.requests(source)))
    measured = measure(artifacts, scorers, rows, sizes)
  found = {'command': common.command('bench.serve'), 'environment': common.environment()}
  found |= {'rows': measured, 'table': render(measured), 'caption': _caption(found)}
  print(f'{found["table"]}\n\n{found["caption"]}')
  common.save_bench(f'serve_{common.data_name()}', found)


def _exported(source, folder):
  """The two ends of the ladder; numbers as they are drawn."""
  pairs = crossed.pairs(source)
  config = pcf.config('gnn')
  vectors = pcf.served(source, pairs, config, pcf.INT8)
  small = pcf.with_scores(source, pairs, config, pcf.INT8).source
  massive = crossed.with_statistics(crossed.with_crosses(source, pairs), pairs)
  core = sweeps.large(source)
  hashed = sweeps.on(core, lambda t: compress.multi_hash(max(1, source.rows[t] // _FEWER // 2), 2))
  ends = {
    'massive': (massive, 'dcn', (('.*', compress.identity()),), None),
    'compact': (
      small, 'relation_dcn', compress.appended(hashed, compress.int_quantize(8)), vectors,
    ),
  }  # fmt: skip
  return {name: _export(folder / name, *end) for name, end in ends.items()}


def _export(
  folder: pathlib.Path,
  source,
  net_name: str,
  rules: compress.Rules,
  vectors: pairs_export.Vectors | None,
) -> pathlib.Path:
  chosen = settings.of(common.data_name())
  net = models.NETS[net_name](**chosen.net_options(net_name))
  model = predict.build(source.schema, source.rows, rules, net, chosen.dim)
  draw = np.random.default_rng(0)
  tables = {
    name: jnp.asarray(draw.normal(0, 0.1, (rows, model.width)), jnp.float32)
    for name, rows in source.rows.items()
  }
  stored = compress.encode(model.codec, tables)
  variables = predict.init_net(model, jax.random.key(0))
  return export.write(folder, model, rules, stored, variables, source, vectors)


class _Child:
  """A scoring process."""

  def __init__(self, artifact: str, folder: pathlib.Path, scorer: str, rows: pathlib.Path):
    self.artifact, self.scorer = artifact, scorer
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'experiments.bench.serve_child', folder, scorer, rows],
      cwd=common.PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    self.opened = self._answer()
    self.times: dict[int, dict[str, list[float]]] = {}

  def turn(self, size: int, repeats: int) -> None:
    self._process.stdin.write(f'{size} {repeats}\n')
    self._process.stdin.flush()
    kept = self.times.setdefault(size, {'raw': [], 'encoded': []})
    for kind, found in self._answer().items():
      kept[kind] += found

  def _answer(self):
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f'The {self.scorer} process of {self.artifact} ended; see above.')
    return json.loads(line)

  def close(self) -> None:
    self._process.stdin.close()
    self._process.stdout.close()
    self._process.wait()


def measure(artifacts, scorers, rows: pathlib.Path, sizes: list[int]) -> list[dict[str, Any]]:
  """A row for each artifact, scorer and size of batch."""
  with contextlib.ExitStack() as stack:
    children = []
    for scorer in scorers:
      for name, folder in artifacts.items():
        children.append(_Child(name, folder, scorer, rows))
        stack.callback(children[-1].close)
    for turn in range(_ROUNDS.value):
      print(f'round {turn + 1} of {_ROUNDS.value}', flush=True)
      for size in sizes:
        for child in children:
          child.turn(size, _REPEATS.value)
  first = next(iter(artifacts))
  reference = {x.scorer: x for x in children if x.artifact == first}
  return [serve_rows.row(x, reference[x.scorer], size) for x in children for size in x.times]


def render(rows: list[dict[str, Any]]) -> str:
  """One line per artifact, scorer and batch."""

  def cells(x):
    raw, encoded = (x['milliseconds'][kind] for kind in ('raw', 'encoded'))
    return (
      x['scorer'],
      f'{x["batch"]:,}',
      x['artifact'],
      report.size(x['stored_bytes']),
      report.size(x['memory_bytes']),
      f'{x["load_seconds"]:.2f} s',
      ' / '.join(f'{raw[p]:.3g}' for p in raw),
      ' / '.join(f'{encoded[p]:.3g}' for p in encoded),
      report.rate([x['samples_per_second']['raw']]),
      report.rate([x['samples_per_second']['encoded']]),
      f'{x["times_as_fast"]["raw"]:.2f}×',
      f'{x["times_as_fast"]["encoded"]:.2f}×',
    )

  ordered = sorted(rows, key=lambda x: (x['scorer'], x['batch']))
  header = (
    'scorer', 'batch', 'model', 'stored', 'memory', 'load', 'raw ms, p50 / p95 / p99',
    'encoded ms, p50 / p95 / p99', 'raw/s', 'encoded/s', 'raw, as fast', 'encoded, as fast',
  )  # fmt: skip
  return report.table(header, [cells(x) for x in ordered])


def _caption(found):
  where = found['environment']
  return (
    f'{common.data_name()}: {_ROUNDS.value} turns of {_REPEATS.value} batches; memory is what the '
    f'process grew by, opening and scoring {serve_rows.REQUESTED:,} rows of test, or all it has; '
    f'{where["device"]}, '
    f'{where["cpu_cores"]} cores, load average {where["load_average"]:.1f}, jax {where["jax"]}, '
    f'{where["date"]}. `{found["command"]}`'
  )


if __name__ == '__main__':
  common.run(main)
