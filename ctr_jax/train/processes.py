"""Several processes that train one model: how they find each other, and what one does for all.

Each process runs the same program on its own devices. They meet at a coordinator (process 0), which
also watches over them: if one dies, the others end within a minute, and the same command started
again goes on from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

import jax

# Seconds without a sign of life until a process counts as dead. jax's own default is 100.
_HEARTBEAT = 20
_PORT = 8476


def start(coordinator: str | None = None, count: int | None = None, number: int | None = None):
  """Joins the other processes, if there are any; before anything else asks for devices.

  Args:
    coordinator: HOST:PORT of process 0. Default: JAX_COORDINATOR_ADDRESS.
    count: of all processes. Default: JAX_NUM_PROCESSES.
    number: of this one, from 0. Default: JAX_PROCESS_ID, then JOB_COMPLETION_INDEX (Kubernetes).

  Without any of these, the tasks of one Slurm step and the hosts of one TPU pod find each other by
  the environment that those give them.

  Raises:
    ValueError: some of the three are known, but not all.
  """
  given = {
    'coordinator': coordinator or os.environ.get('JAX_COORDINATOR_ADDRESS'),
    'processes': _number(count, 'JAX_NUM_PROCESSES'),
    'process': _number(number, 'JAX_PROCESS_ID'),
  }
  if given['coordinator'] and given['process'] is None:
    given['process'] = _number(None, 'JOB_COMPLETION_INDEX')
  missing = [name for name, value in given.items() if value is None]
  if not missing:
    address = given['coordinator']
    address = address if ':' in address else f'{address}:{_PORT}'
    _join(
      coordinator_address=address, num_processes=given['processes'], process_id=given['process']
    )
  elif len(missing) < 3 and given['processes'] != 1:
    raise ValueError(
      f'Of several processes each needs all of these, and has no {" and no ".join(missing)}: '
      '--coordinator=HOST:PORT --processes=COUNT --process=NUMBER, or the environment variables '
      'JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.'
    )
  elif int(os.environ.get('SLURM_STEP_NUM_TASKS', 1)) > 1 or _tpu_hosts() > 1:
    _join()


def _number(given, variable):
  if given is not None:
    return given
  return int(os.environ[variable]) if variable in os.environ else None


def _tpu_hosts():
  return len([x for x in os.environ.get('TPU_WORKER_HOSTNAMES', '').split(',') if x])


def _join(**who):
  # The second is how long the living wait for a dead one when they end.
  jax.distributed.initialize(
    **who, heartbeat_timeout_seconds=_HEARTBEAT, shutdown_timeout_seconds=_HEARTBEAT
  )


@contextlib.contextmanager
def one_for_all():
  """An error of one of several processes ends it at once, with a sentence: then the others end too.

  Left to itself, it would wait for them before it ends, and they for it.
  """
  try:
    yield
  except (Exception, KeyboardInterrupt) as error:
    if not joined():
      raise
    traceback.print_exception(error)
    lost = isinstance(error, jax.errors.JaxRuntimeError)
    print(
      f'error: process {jax.process_index()} of {jax.process_count()} ends: '
      + ('another one has died, or cannot be reached. ' if lost else f'{error} ')
      + 'The same commands started again go on from the last checkpoint.',
      file=sys.stderr,
      flush=True,
    )
    os._exit(1)


def joined() -> bool:
  """Whether this is one of several."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
  """Whether this process writes what is written once."""
  return not joined() or jax.process_index() == 0


def together(what: str) -> None:
  """Returns when all processes are here."""
  if joined():
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(what)
