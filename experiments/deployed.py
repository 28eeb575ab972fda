"""What serving a trained model takes: its files, how long a request waits, bytes of a sample.

Measured once for each seed and link, from its checkpoint, and kept beside it in `deployed.json`, so
that trials that were trained and measured before have it too, and are not trained again. The logits
on test are kept as well: a test over samples asks both models about each of them.
"""

from __future__ import annotations

import json
import math
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ctr_jax import predict
from ctr_jax.data import columns
from ctr_jax.evaluate import evaluate
from ctr_jax.serve import export, pairs_export
from ctr_jax.tables import leaf, stack
from ctr_jax.train import journal, loop, processes
from experiments import measure, trials

BATCH = 256
"""Samples of a request whose time is taken."""
_CALLS, _WARM = 300, 20


def measured(
  trial: trials.Trial,
  source: columns.Source,
  workdir: pathlib.Path,
  seed: int,
  links: Sequence[tuple[str, Any]] = (),
  vectors: Callable[[], pairs_export.Vectors | None] = lambda: None,
) -> dict[str, dict[str, Any]]:
  """Name of the trial and of each link → what is measured of it, from its file if it is there.

  Args:
    trial: trained in `workdir` (if not, it is now).
    source: its data.
    workdir: the folder of all trials.
    seed: of the trial.
    links: see `trials.run`.
    vectors: makes what an export needs for the scores among the columns.

  Returns:
    For each name: table_parameters, bytes_sample, latency_p50_ms and latency_p99_ms, bytes_artifact
    (or why there is none: without_artifact); for the trial also train_seconds_before, of the trials
    that it comes after.
  """
  path = _folder(trial, workdir, seed) / 'deployed.json'
  made_of = {
    'version': measure.VERSION,
    'trial': trials.description(trial, source, seed),
    'links': [[name, trials.applied(link)] for name, link in links],
  }
  saved = json.loads(path.read_text()) if path.exists() else {}
  names = [trial.name, *(name for name, _ in links)]
  kept = all(_logits(trial, workdir, seed, name).exists() for name in names)
  if saved.get('made_of') == made_of and kept:
    return saved['measured']
  spelt, outcome, _ = trials.train(trial, source, workdir, seed)
  found = {}
  for name, link in ((trial.name, None), *links):
    journal.say(f'{name}, seed {seed}: files, requests and logits')
    one = outcome if link is None else trials.outcome(trial, source, workdir, seed, link)
    found[name] = {
      'table_parameters': _parameters(outcome),  # A link stores the same numbers in fewer bits.
      'bytes_sample': _sample_bytes(one, source),
      **_latency(one, source),
      **_artifact(one, source, vectors()),
    }
    _write(_logits(trial, workdir, seed, name), _scores(one, source))
  found[trial.name]['train_seconds_before'] = _seconds_before(spelt, source, workdir, seed)
  loop.write_json(path, {'made_of': made_of, 'measured': found})
  processes.together(f'deployed {trial.name} {seed}')  # The first has written for all.
  return found


def logits(trial: trials.Trial, workdir: pathlib.Path, seeds, name: str) -> np.ndarray:
  """Of every sample of test, [seeds, n], as `measured` has kept them."""
  return np.stack([np.load(_logits(trial, workdir, seed, name)) for seed in seeds])


def _folder(trial, workdir, seed):
  return workdir / trial.name / f'seed_{seed}'


def _logits(trial, workdir, seed, name):
  return _folder(trial, workdir, seed) / 'logits' / f'{name}.npy'


def _write(path, array):
  if not processes.is_first():
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix('.tmp')
  with temporary.open('wb') as file:
    np.save(file, array)
  temporary.replace(path)


def _parameters(outcome):
  """Numbers that training moves in the tables."""
  leaves = leaf.flatten(outcome.model.codec.plan).values()
  return sum(math.prod(x.shape) for x in leaves if not x.frozen)


def _sample_bytes(outcome, source):
  """Of the columns of one sample that the model reads, as they lie on disk."""
  read = source.read('test', outcome.model.columns, 0, 1)
  return sum(int(read[name].nbytes) for name in outcome.model.columns)


def _scores(outcome, source):
  model = outcome.model
  arrays = stack.pack(model.layout, leaf.flatten(outcome.stored))
  found = evaluate.scores(model, predict.scorer(model), arrays, outcome.net, source, 'test')
  return found.logits


def _latency(outcome, source):
  """Milliseconds from the columns of a request to its logits, one request after another."""
  model = outcome.model
  arrays = stack.pack(model.layout, leaf.flatten(outcome.stored))
  scorer = predict.scorer(model)
  samples = source.num_samples('test')
  size = min(BATCH, samples)
  starts = [i * size % (samples - size + 1) for i in range(16)]
  requests = [source.read('test', model.columns, start, start + size) for start in starts]
  times = []
  for i in range(_WARM + _CALLS):
    start = time.perf_counter()
    prepared = scorer.prepare(requests[i % len(requests)])
    jax.block_until_ready(scorer.score(arrays, outcome.net, prepared))
    times.append(1000 * (time.perf_counter() - start))
  p50, p99 = np.percentile(times[_WARM:], [50, 99])
  return {'latency_p50_ms': float(p50), 'latency_p99_ms': float(p99)}


def _artifact(outcome, source, vectors):
  """Bytes of all files of an export, which is made and let go."""
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder) / 'model'
    try:
      export.write(place, *outcome, source, vectors)
    except ValueError as error:
      return {'without_artifact': str(error)}
    files = [path for path in place.rglob('*') if path.is_file()]
    return {'bytes_artifact': sum(path.stat().st_size for path in files)}


def _seconds_before(trial, source, workdir, seed):
  """Of training the trials that this one comes after."""
  total, before = 0.0, trial.after
  while before is not None:
    total += trials.train(before, source, workdir, seed)[2].seconds
    before = before.after
  return total
