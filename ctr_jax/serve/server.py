r"""Serves an artifact over HTTP.

  python -m ctr_jax.serve.server --artifact=model --port=8000

`ctr_jax.serve.app` lists the routes. The process listens at once; /readyz says when the model is
loaded. Signals:

  SIGHUP    opens --artifact anew (a link that points elsewhere now, or a folder that was replaced)
            beside the model that serves, which goes on until the new one has been tried
  SIGTERM,  /readyz says no; requests are taken for another --drain_s, those under way are answered,
  SIGINT    and the process ends with status 0, at the latest after --grace_s
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket

from absl import app as absl_app
from absl import flags

from ctr_jax.serve.limits import Limits

try:
  import uvicorn

  from ctr_jax.serve import app, bodies, worker
except ModuleNotFoundError as missing:
  if __name__ != '__main__' or not missing.name or missing.name.startswith('ctr_jax'):
    raise
  raise SystemExit(
    f"error: A server needs the package {missing.name}: pip install 'ctr_jax[serve]' (in a clone: "
    ".venv/bin/python -m pip install -e '.[serve]')."
  ) from None

_DEFAULT = Limits()
_ARTIFACT = flags.DEFINE_string('artifact', None, 'Folder of the exported model.', required=True)
_SCORER = flags.DEFINE_enum('scorer', 'numpy', ['numpy', 'jax', 'onnx'], 'What computes.')
_THREADS = flags.DEFINE_integer(
  'threads', 1, 'Of a product of matrices. On a busy machine two wait for each other.', 1
)
_HOST = flags.DEFINE_string('host', '127.0.0.1', 'Address to listen on; 0.0.0.0 for all.')
_PORT = flags.DEFINE_integer('port', 8000, 'Port to listen on; 0 picks a free one.', 0, 65535)
_BATCH_ROWS = flags.DEFINE_integer(
  'max_batch_rows', _DEFAULT.max_batch_rows, 'Rows that are scored together.'
)
_WAIT_MS = flags.DEFINE_float(
  'max_wait_ms', 1e3 * _DEFAULT.max_wait_s, 'How long a request waits for others to join it.'
)
_LATENCY_MS = flags.DEFINE_float(
  'max_latency_ms',
  1e3 * _DEFAULT.max_latency_s,
  'Requests that would take longer are refused (503).',
)
_BODY_BYTES = flags.DEFINE_integer('max_body_bytes', _DEFAULT.max_body_bytes, 'Of one request.')
_REQUEST_ROWS = flags.DEFINE_integer(
  'max_request_rows', _DEFAULT.max_request_rows, 'Of one request.'
)
_QUEUE_ROWS = flags.DEFINE_integer(
  'max_queue_rows', _DEFAULT.max_queue_rows, 'Rows that wait; more are refused (503).'
)
_HELD_BYTES = flags.DEFINE_integer(
  'max_held_bytes', _DEFAULT.max_held_bytes, 'Bodies in memory; more are refused (503).'
)
_BODY_TIMEOUT_S = flags.DEFINE_float(
  'body_timeout_s', _DEFAULT.body_timeout_s, 'For a client to send its body.'
)
_DRAIN_S = flags.DEFINE_float(
  'drain_s', 2.0, 'After SIGTERM: how long requests are still taken while /readyz says no.', 0
)
_GRACE_S = flags.DEFINE_float('grace_s', 20.0, 'After SIGTERM: when the process ends.', 0)


class _Server(uvicorn.Server):
  """uvicorn, with its signals left to us."""

  def capture_signals(self):
    return contextlib.nullcontext()


def limits() -> Limits:
  """As the flags say."""
  return Limits(
    max_batch_rows=_BATCH_ROWS.value,
    max_wait_s=_WAIT_MS.value / 1e3,
    max_latency_s=_LATENCY_MS.value / 1e3,
    max_body_bytes=_BODY_BYTES.value,
    max_request_rows=_REQUEST_ROWS.value,
    max_queue_rows=_QUEUE_ROWS.value,
    max_held_bytes=_HELD_BYTES.value,
    body_timeout_s=_BODY_TIMEOUT_S.value,
  ).check()


async def run(service: app.Service, server: uvicorn.Server, listening: socket.socket) -> int:
  """Serves until a signal says stop; returns the exit status."""
  loop = asyncio.get_running_loop()
  stop = asyncio.Event()
  tasks = set()

  def reload():
    task = loop.create_task(service.holder.load())
    tasks.add(task)
    task.add_done_callback(tasks.discard)

  async def loaded():
    """Whether a model serves, once the loads have ended that were asked for until then."""
    await service.holder.load()
    while service.holder.current is None and tasks:
      await asyncio.wait(tasks)
    return service.holder.current is not None

  for number in (signal.SIGTERM, signal.SIGINT):
    loop.add_signal_handler(number, stop.set)
  loop.add_signal_handler(signal.SIGHUP, reload)
  serving = loop.create_task(server.serve(sockets=[listening]))
  stopping = loop.create_task(stop.wait())
  loading = loop.create_task(loaded())
  await asyncio.wait({stopping, loading}, return_when=asyncio.FIRST_COMPLETED)
  failed = loading.done() and not loading.result()
  end = loop.time() + _GRACE_S.value
  if not failed:
    await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
    end = loop.time() + _GRACE_S.value
    service.draining = True
    logging.info('Stopping: taking requests for another %g s.', _DRAIN_S.value)
    await asyncio.sleep(min(_DRAIN_S.value, _GRACE_S.value))
  server.should_exit = True
  await asyncio.wait({serving}, timeout=max(end - loop.time(), 0))
  if serving.done():
    serving.result()
  else:
    logging.warning('Ending after %g s, whoever waits for an answer.', _GRACE_S.value)
  return int(failed)


def _open():
  return worker.Remote(_ARTIFACT.value, _SCORER.value, _THREADS.value)


def _tried_rows():
  """Sizes of batches that the model scores before it serves: all that jax has a program for."""
  if _SCORER.value != 'jax':
    return (1,)
  largest = max(_BATCH_ROWS.value, _REQUEST_ROWS.value, 1)
  return tuple(1 << power for power in range((largest - 1).bit_length() + 1))


def main(argv) -> None:
  """Listens and serves."""
  if len(argv) > 1:
    raise absl_app.UsageError(f'Unknown argument {argv[1]!r}.')
  bodies.warm_up()
  try:
    service = app.Service(_open, limits(), _tried_rows())
    listening = socket.create_server((_HOST.value, _PORT.value), backlog=2048)
  except ValueError as e:
    raise absl_app.UsageError(str(e)) from e
  except OSError as e:
    raise SystemExit(f'Cannot listen on {_HOST.value}:{_PORT.value}: {e.strerror}.') from e
  config = uvicorn.Config(
    app.make(service),
    log_config=None,
    log_level='warning',
    access_log=False,
    server_header=False,
    # Longer than proxies keep idle connections (most: 60 s): who closes first must be the one who
    # asks, or a request meets a connection that is being closed.
    timeout_keep_alive=75,
  )
  host, port = listening.getsockname()[:2]
  logging.info('Listening on http://%s:%d', host, port)
  with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
    status = runner.run(run(service, _Server(config), listening))
    # Not by way of the interpreter's exit, which waits for threads: one may still be scoring for a
    # request that nobody waits for any more, or be opening an artifact.
    worker.end_all()
    logging.shutdown()
    os._exit(status)


if __name__ == '__main__':
  absl_app.run(main)
