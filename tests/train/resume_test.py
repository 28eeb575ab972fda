"""Runs that are killed, interrupted or diverge: nothing is lost, and nothing looks complete."""

import os
import pathlib
import random
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from ctr_jax.train import loop
from tests.train import worker

PROJECT = pathlib.Path(__file__).parent.parent.parent


def start(folder, mode, out):
  command = [sys.executable, '-m', 'tests.train.worker', str(folder), mode, str(out)]
  return subprocess.Popen(
    command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def wait_for_steps(process, count):
  """Returns True once `count` steps were printed, False if the process ended before."""
  for line in process.stdout:
    count -= line == 'step\n'
    if count <= 0:
      return True
  return False


def arrays(path):
  with np.load(path, allow_pickle=False) as file:
    return [file[name] for name in file.files]


@pytest.fixture(
  scope='module',
  params=['rows', *(pytest.param(x, marks=pytest.mark.long) for x in ('dense', 'deltas'))],
)
def uninterrupted(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp(request.param)
  process = start(folder / 'run', request.param, folder / 'out.npz')
  _, errors = process.communicate()
  assert process.returncode == 0, errors
  return request.param, arrays(folder / 'out.npz')


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(uninterrupted, tmp_path):
  mode, want = uninterrupted
  moments = random.Random(mode)
  kills = 0
  while kills < 4:
    process = start(tmp_path / 'run', mode, tmp_path / 'out.npz')
    alive = wait_for_steps(process, moments.randint(1, 14))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    if not alive:
      break
    kills += 1
  assert kills >= 3
  process = start(tmp_path / 'run', mode, tmp_path / 'out.npz')
  _, errors = process.communicate()
  assert process.returncode == 0, errors
  found = arrays(tmp_path / 'out.npz')
  assert len(found) == len(want)
  for x, y in zip(found, want, strict=True):
    assert x.dtype == y.dtype
    assert x.tobytes() == y.tobytes()


def test_sigterm_saves_leaves_with_a_message_and_the_run_goes_on(uninterrupted, tmp_path):
  mode, want = uninterrupted
  process = start(tmp_path / 'run', mode, tmp_path / 'out.npz')
  assert wait_for_steps(process, 5)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate()
  assert process.returncode != 0
  assert 'SIGTERM: saved epoch' in errors
  assert not (tmp_path / 'out.npz').exists()
  process = start(tmp_path / 'run', mode, tmp_path / 'out.npz')
  _, errors = process.communicate()
  assert process.returncode == 0, errors
  for x, y in zip(arrays(tmp_path / 'out.npz'), want, strict=True):
    assert x.tobytes() == y.tobytes()


class Poisoned:
  """A source whose numeric feature turns infinite after some samples."""

  def __init__(self, source, after):
    self._source, self._after = source, after

  def __getattr__(self, name):
    return getattr(self._source, name)

  def read(self, split, names, start, stop):
    found = self._source.read(split, names, start, stop)
    for feature in self._source.schema.features:
      if feature.kind == 'numeric' and feature.name in found and split == 'train':
        found[feature.name] = np.where(
          np.arange(start, stop) > self._after, np.float32(np.inf), found[feature.name]
        )
    return found


def test_a_loss_that_is_not_finite_stops_the_run_in_words(tmp_path):
  source = Poisoned(worker.tiny(), after=100)
  with pytest.raises(loop.Diverged) as caught:
    worker.run(tmp_path, 'rows', source)
  message = str(caught.value)
  assert 'epoch 1, step' in message
  assert 'not finite' in message
  assert str(tmp_path / 'checkpoints') in message


def test_early_stop_and_plateau(tmp_path):
  # Nothing is ever better by 1: the first epoch counts, the next two miss.
  trained = worker.run(tmp_path, 'rows', epochs=50, patience=2, min_delta=1.0)
  assert trained.position.epoch == 3
  assert trained.position.best_epoch == 1
  scales = [entry['scale'] for entry in trained.position.history]
  np.testing.assert_allclose(scales, [1, 1, 0.1], rtol=1e-6)
  np.testing.assert_allclose(float(trained.last.scale), 0.01, rtol=1e-6)
  assert int(trained.state.step) < int(trained.last.step)


def test_a_finished_run_is_not_trained_again(tmp_path):
  first = worker.run(tmp_path, 'rows', epochs=1)
  lines = (tmp_path / 'metrics.jsonl').read_text()
  again = worker.run(tmp_path, 'rows', epochs=1)
  assert (tmp_path / 'metrics.jsonl').read_text() == lines
  for x, y in zip(jax.tree.leaves(first.state), jax.tree.leaves(again.state), strict=True):
    np.testing.assert_array_equal(x, y)


def test_a_checkpoint_of_another_chain_is_refused_in_words(tmp_path):
  worker.run(tmp_path, 'rows', epochs=1)
  with pytest.raises(ValueError, match='made with another optimizer'):
    worker.run(tmp_path, 'dense', epochs=1)
