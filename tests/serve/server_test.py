"""The server as a process, under load: what it refuses, how it takes another model, how it ends."""

import asyncio
import json
import os
import pathlib
import signal
import socket
import threading
import time

import numpy as np
import pytest

pytest.importorskip('starlette', reason='the extra `serve` is not installed')
pytest.importorskip('uvicorn', reason='the extra `serve` is not installed')
pytest.importorskip('prometheus_client', reason='the extra `serve` is not installed')

from experiments.bench import serve_load_client, serve_process
from tests.serve import standin

ROWS = 10
BODIES = [
  {
    'columns': {
      'user': [f'u{i}.{j}' for j in range(ROWS)],
      'tags': [['t']] * ROWS,
      'price': [i] * ROWS,
    }
  }
  for i in range(20)
]
JSON = {'content-type': 'application/json'}


def right(which, answer):
  columns = BODIES[which]['columns']
  rows = zip(columns['user'], columns['tags'], columns['price'], strict=True)
  want = [standin.expected(row, answer['version']) for row in rows]
  return np.array_equal(np.array(answer['probabilities'], np.float32), want)


def load(server, seconds, per_second, meanwhile=None):
  """Sends for so long, and until `meanwhile`, which runs beside it, has ended."""

  async def both():
    client = serve_load_client.Client(server.port, BODIES, right)
    beside = asyncio.create_task(asyncio.to_thread(meanwhile or (lambda: None)))
    sent = await client.at_rate(per_second, seconds, beside.done)
    await beside
    await client.close()
    return sent

  return asyncio.run(both())


@pytest.fixture
def start(tmp_path):
  """Starts servers of `tmp_path / 'model'`."""
  servers = []

  def make(*more, **arguments):
    standin.write(tmp_path / 'model', **arguments)
    servers.append(standin.serving(tmp_path / 'model', *more))
    return servers[-1]

  yield make
  for server in servers:
    if server.process.poll() is None:
      server.stop(signal.SIGKILL)
    server.ended()


def test_twice_its_capacity(start):
  # Ten rows in 10 ms: 100 requests a second.
  server = start('--max_latency_ms=500', seconds_per_row=1e-3)
  sent = serve_load_client.summary(load(server, 5, 200))
  assert sent['other'] == {}, sent
  assert sent['wrong'] == 0
  assert sent['accepted'] > 50
  assert sent['refused'] > 200
  assert sent['accepted'] + sent['refused'] == 1000
  # Nothing is left behind, and it serves on.
  text = server.get('/metrics')[1].splitlines()
  assert 'ctr_queue_rows 0.0' in text
  assert 'ctr_held_bytes 0.0' in text
  assert server.get('/v1/score', json.dumps(BODIES[0]), **JSON)[0] == 200
  assert server.stop() == 0


def test_a_swap_under_load_loses_nothing(start, tmp_path):
  server = start('--max_latency_ms=10000', seconds_per_row=1e-4, version='v0')

  def swap():
    for number in range(1, 4):
      standin.write(tmp_path / 'model', version=f'v{number}', seconds_per_row=1e-4)
      server.process.send_signal(signal.SIGHUP)
      server.until(lambda: server.get('/v1/model')[1]['version'] == f'v{number}')  # noqa: B023
    (tmp_path / 'model' / 'model.json').write_text('{"version": "da')
    server.process.send_signal(signal.SIGHUP)
    refused = 'ctr_model_loads_total{outcome="refused"} 1.0'
    server.until(lambda: refused in server.get('/metrics')[1])

  sent = serve_load_client.summary(load(server, 1, 50, swap))
  assert (sent['accepted'], sent['wrong'], sent['other']) == (sent['sent'], 0, {})
  assert {'v0', 'v3'} <= set(sent['versions'])
  text = server.get('/metrics')[1]
  assert 'ctr_model_info{version="v3"} 1.0' in text
  assert 'version="v0"' not in text
  assert server.stop() == 0
  assert any('refused, and model v3 goes on' in line for line in server.log)


def test_it_stops_when_all_are_answered(start):
  server = start('--max_latency_ms=10000', '--max_wait_ms=300', '--drain_s=0.3', '--grace_s=10')

  def stop():
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: server.get('/readyz')[0] == 503)

  sent = load(server, 0.8, 40, stop)
  statuses = [x.status for x in sent]
  assert all(x.right for x in sent if x.status == 200)
  # After the drain there is nobody to connect to; whoever came before, and waits, is answered.
  assert statuses[:8] == [200] * 8
  assert set(statuses) <= {200, 0, -1}
  assert server.ended() == 0


def test_it_ends_in_time_with_a_model_that_does_not(start, tmp_path):
  server = start(
    '--max_latency_ms=20000', '--drain_s=0', '--grace_s=1', seconds_per_row=0.0, version='quick'
  )
  standin.write(tmp_path / 'model', seconds_per_row=2.0, version='slow')
  server.process.send_signal(signal.SIGHUP)
  server.until(lambda: server.get('/v1/model')[1]['version'] == 'slow')

  sent = load(server, 0.1, 10, lambda: server.process.send_signal(signal.SIGTERM))
  assert server.ended() == 0
  assert sent[0].status != 200


def test_it_ends_in_time_though_it_would_drain_for_longer(start):
  server = start('--drain_s=20', '--grace_s=0.5')
  with socket.create_connection(('127.0.0.1', server.port)) as waits:
    waits.sendall(b'POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n')
    began = time.monotonic()
    assert server.stop() == 0
    assert 0.5 <= time.monotonic() - began < 5


def test_another_model_may_be_asked_for_before_the_first_has_failed(tmp_path):
  (tmp_path / 'model').mkdir()
  description = tmp_path / 'model' / 'model.json'
  os.mkfifo(description)  # Whoever opens it waits until it is written.
  server = serve_process.Process.__new__(serve_process.Process)
  command = ['tests.serve.standin', f'--artifact={tmp_path / "model"}', '--port=0']
  started = threading.Thread(target=server.__init__, args=(command,))
  started.start()
  try:
    with description.open('w') as first:
      standin.write(tmp_path / 'model', version='second')
      server.process.send_signal(signal.SIGHUP)
      time.sleep(0.1)
      first.write('{')
    started.join(30)
    assert server.get('/v1/model')[1]['version'] == 'second'
  finally:
    server.stop()


def test_after_a_kill_it_serves_again(start):
  first = start()
  first.stop(signal.SIGKILL)
  second = start(f'--port={first.port}')
  assert second.port == first.port
  assert second.get('/v1/score', json.dumps(BODIES[0]), **JSON)[0] == 200


@pytest.mark.parametrize(
  ('flag', 'words'),
  [('--max_batch_rows=0', 'max_batch_rows'), ('--max_wait_ms=500', 'wait for less'), ('x', "'x'")],
)
def test_wrong_flags(start, flag, words):
  server = start(flag)
  assert server.ended() == 1
  assert words in ''.join(server.log)
  assert 'Traceback' not in ''.join(server.log)


def test_no_artifact(start):
  server = start('--artifact=nowhere')
  assert server.ended() == 1
  assert 'nowhere' in server.log[-1]
  assert 'Traceback' not in ''.join(server.log)


def test_it_imports_no_jax(start):
  server = start()
  found = pathlib.Path(f'/proc/{server.process.pid}')
  if not (found / 'maps').exists():
    pytest.skip('this system does not tell which libraries a process has loaded')
  threads = [(task / 'children').read_text() for task in (found / 'task').iterdir()]
  children = ' '.join(threads).split()  # Each is a child of the thread that started it.
  assert len(children) == 1
  for pid in (server.process.pid, *children):
    libraries = pathlib.Path(f'/proc/{pid}/maps').read_text()
    assert 'numpy' in libraries
    assert 'jaxlib' not in libraries
