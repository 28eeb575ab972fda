"""Real processes on this machine that train one model: together they are one, and die together."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from ctr_jax.tables import stack
from ctr_jax.train import processes
from ctr_jax.train import step as step_lib
from tests.train import cluster_worker as small

LONG = pytest.mark.long
PROJECT = pathlib.Path(__file__).parent.parent.parent


def start(mode, folder, count):
  """Starts `count` processes of one device each."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = str(free.getsockname()[1])
  flags = os.environ['XLA_FLAGS'].replace('device_count=8', 'device_count=1')
  running = []
  for number in range(count):
    module = [sys.executable, '-m', 'tests.train.cluster_worker', mode]
    where = [str(folder / 'out.npz'), str(folder / 'run'), port, str(count), str(number)]
    with (folder / f'{number}.log').open('w') as log:
      running.append(
        subprocess.Popen(
          module + where, cwd=PROJECT, env=os.environ | {'XLA_FLAGS': flags}, text=True,
          stdout=subprocess.PIPE, stderr=log,
        )
      )  # fmt: skip
  return running


def result(running, folder):
  """Waits for the processes; what the first of them wrote."""
  for number, process in enumerate(running):
    process.communicate(timeout=300)
    assert process.returncode == 0, (folder / f'{number}.log').read_text()
  with np.load(folder / 'out.npz', allow_pickle=False) as file:
    return {name: file[name] for name in file.files}


def run(mode, folder, count):
  folder.mkdir(exist_ok=True)
  return result(start(mode, folder, count), folder)


@pytest.mark.parametrize(
  'mode, count',
  [('slim', 2), pytest.param('steps', 2, marks=LONG), pytest.param('steps', 4, marks=LONG)],
)
def test_several_processes_take_the_steps_of_one(mode, count, tmp_path):
  model = small.build(stack.apart, small.RULES if mode == 'steps' else small.SLIM)
  one = small.arrays_of(model, small.steps(step_lib.program(model, small.RECIPE))[0])
  found = run(mode, tmp_path / 'several', count)
  assert found.keys() == one.keys()
  for name, want in one.items():
    want = want.astype(np.float64)
    assert np.linalg.norm(found[name] - want) <= 1e-5 * np.linalg.norm(want) + 1e-12, name


@pytest.mark.long
def test_one_that_is_killed_ends_the_other_and_a_restart_has_the_same_bits(tmp_path):
  want = run('fit', tmp_path / 'whole', 2)
  folder = tmp_path / 'killed'
  folder.mkdir()
  first, second = start('fit', folder, 2)
  seen = 0
  while seen < 8:  # Past a checkpoint, in the middle of an epoch.
    seen += second.stdout.readline().startswith('step')
  second.send_signal(signal.SIGKILL)
  killed = time.monotonic()
  first.communicate(timeout=60)
  assert time.monotonic() - killed < 60
  assert first.returncode != 0
  log = (folder / '0.log').read_text()
  assert 'another one has died' in log or 'another task died' in log
  assert not (folder / 'out.npz').exists()
  second.communicate()
  found = result(start('fit', folder, 2), folder)
  assert 'resumes at epoch' in (folder / '0.log').read_text()
  for name, x in want.items():
    assert x.tobytes() == found[name].tobytes(), name


@pytest.mark.parametrize(
  'environment, given, who',
  [
    ({}, (), None),
    ({}, ('h:1', 4, 3), {'coordinator_address': 'h:1', 'num_processes': 4, 'process_id': 3}),
    (
      {'JAX_COORDINATOR_ADDRESS': 'h', 'JAX_NUM_PROCESSES': '2', 'JOB_COMPLETION_INDEX': '1'}, (),
      {'coordinator_address': 'h:8476', 'num_processes': 2, 'process_id': 1},
    ),
    ({'JOB_COMPLETION_INDEX': '1'}, (), None),
    ({'SLURM_STEP_NUM_TASKS': '1'}, (), None),
    ({'SLURM_STEP_NUM_TASKS': '4'}, (), {}),
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, (), None),
    ({'TPU_WORKER_HOSTNAMES': 'a,b'}, (), {}),
  ],
)  # fmt: skip
def test_processes_find_each_other_by_flags_or_by_their_environment(
  environment, given, who, monkeypatch
):
  calls = []
  monkeypatch.setattr(processes, '_join', lambda **who: calls.append(who))
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  processes.start(*given)
  assert calls == ([] if who is None else [who])


def test_half_of_what_a_process_has_to_know_is_refused_in_words():
  with pytest.raises(ValueError, match='has no coordinator and no process'):
    processes.start(count=2)
