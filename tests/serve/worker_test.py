"""A scorer in another process: it answers, refuses and fails like one here, and outlives a kill."""

import gc
import os
import signal
import sys
import time

import numpy as np
import pytest

from ctr_jax import serve
from ctr_jax.serve import worker
from tests.serve import standin

pytest.importorskip('uvicorn', reason="The server is an extra: 'ctr_jax[serve]'")

COLUMNS = {'user': ['a', 'b'], 'tags': [None, ['x']], 'price': [1.5, None]}
WANT = [standin.expected(row) for row in zip(*COLUMNS.values(), strict=True)]


@pytest.fixture
def remote(tmp_path, monkeypatch):
  command = (sys.executable, '-m', 'tests.serve.standin', 'worker')
  monkeypatch.setattr(worker, 'COMMAND', command)
  made = []

  def start(patience_s=60.0, **arguments):
    standin.write(tmp_path / 'model', **arguments)
    made.append(worker.Remote(tmp_path / 'model', patience_s=patience_s))
    return made[-1]

  yield start
  for scorer in made:
    scorer._end()


def test_it_scores(remote):
  scorer = remote()
  assert (scorer.version, scorer.nbytes) == ('one', 123)
  assert scorer.columns == standin.Standin().columns
  for _ in range(3):
    np.testing.assert_array_equal(scorer.predict(COLUMNS), WANT)


def test_its_threads_are_as_asked_for(remote, monkeypatch):
  for name in worker._THREADS:
    monkeypatch.setenv(name, '7')
  scorer = remote()
  assert {scorer._environment[name] for name in worker._THREADS} == {'1'}
  process = scorer._process
  scorer.close()
  assert process.returncode == -signal.SIGKILL


def test_bad_input_is_bad_input(remote):
  scorer = remote()
  with pytest.raises(serve.BadInput, match="row 1: 'cheap' is not"):
    scorer.predict(COLUMNS | {'price': [1, 'cheap']})
  np.testing.assert_array_equal(scorer.predict(COLUMNS), WANT)


def test_a_model_that_fails_says_where(remote):
  with pytest.raises(RuntimeError, match=r'In the scoring process:[^$]*broken'):
    remote(fails=True).predict(COLUMNS)


def test_a_damaged_artifact_is_a_value_error(remote, tmp_path):
  remote()
  (tmp_path / 'model' / 'model.json').write_text('{')
  with pytest.raises(ValueError, match='Expecting'):
    worker.Remote(tmp_path / 'model')
  with pytest.raises(ValueError, match='nowhere'):
    worker.Remote(tmp_path / 'nowhere')


def test_a_process_that_is_killed_is_started_anew(remote):
  scorer = remote()
  os.kill(scorer._process.pid, signal.SIGKILL)
  np.testing.assert_array_equal(scorer.predict(COLUMNS), WANT)


@pytest.mark.parametrize('rows', [1, 50_000])  # What fits into a pipe, and what does not.
def test_a_process_that_does_not_answer_is_ended_and_started_anew(remote, rows):
  scorer = remote(patience_s=1.0)
  os.kill(scorer._process.pid, signal.SIGSTOP)
  many = {name: values[:1] * rows for name, values in COLUMNS.items()}
  with pytest.raises(RuntimeError, match='over 1 s'):
    scorer.predict(many)
  np.testing.assert_array_equal(scorer.predict(COLUMNS), WANT)


def test_a_process_that_has_nothing_to_do_is_left_alone(remote):
  scorer = remote(patience_s=0.5)
  process = scorer._process
  time.sleep(0.8)
  np.testing.assert_array_equal(scorer.predict(COLUMNS), WANT)
  assert scorer._process is process


def test_what_was_replaced_meanwhile_does_not_pass_for_the_model(remote, tmp_path):
  scorer = remote()
  standin.write(tmp_path / 'model', version='two')
  os.kill(scorer._process.pid, signal.SIGKILL)
  for _ in range(2):
    with pytest.raises(RuntimeError, match='another model than one'):
      scorer.predict(COLUMNS)


def test_signals_of_the_server_are_not_for_it(remote):
  scorer = remote()
  process = scorer._process
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    process.send_signal(number)
  np.testing.assert_array_equal(scorer.predict(COLUMNS), WANT)
  assert scorer._process is process


def test_it_ends_with_its_scorer(tmp_path, monkeypatch):
  command = (sys.executable, '-m', 'tests.serve.standin', 'worker')
  monkeypatch.setattr(worker, 'COMMAND', command)
  standin.write(tmp_path / 'model')
  scorer = worker.Remote(tmp_path / 'model')
  process = scorer._process
  del scorer
  gc.collect()
  assert process.returncode == -signal.SIGKILL
