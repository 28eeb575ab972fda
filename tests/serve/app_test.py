"""Routes, in one process: what is answered, and in which words what is not."""

import asyncio
import json
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip('starlette', reason='the extra `serve` is not installed')
pytest.importorskip('httpx2', reason="Starlette's test client needs it")
pytest.importorskip('prometheus_client', reason='the extra `serve` is not installed')

from starlette import testclient

from ctr_jax.serve import app, bodies, limits
from tests.serve import malformed, standin

ROWS = [('u1', ['a', 'b'], 1.5), ('u2', None, None), (None, [], 3), (7, 'a', 0.0)]


def columns(rows=ROWS):
  return {name: [row[i] for row in rows] for i, name in enumerate(('user', 'tags', 'price'))}


def stream(found, schema=None):
  table = pa.table(found, schema)
  sink = pa.BufferOutputStream()
  with pa.ipc.new_stream(sink, table.schema) as writer:
    writer.write_table(table, max_chunksize=2)
  return sink.getvalue().to_pybytes()


@pytest.fixture
def make():
  """Starts services; each is a client with `.service` and `.scorer`."""
  clients = []

  def start(scorer=None, **bounds):
    scorer = scorer or standin.Standin()
    service = app.Service(lambda: scorer, limits.Limits(**{'max_latency_s': 30.0} | bounds))
    service.holder.current = scorer
    service.counts.loaded(scorer)
    client = testclient.TestClient(app.make(service))
    client.__enter__()
    client.service, client.scorer = service, scorer
    clients.append(client)
    return client

  yield start
  for client in clients:
    client.__exit__(None, None, None)


def test_both_layouts_of_json(make):
  client = make()
  rows = [dict(zip(('user', 'tags', 'price'), row, strict=True)) for row in ROWS]
  for body in ({'columns': columns()}, {'rows': rows}):
    answer = client.post('/v1/score', json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers['content-type'] == bodies.JSON
    assert answer.headers['x-model-version'] == 'one'
    found = answer.json()
    assert found['version'] == 'one'
    want = [standin.expected(row) for row in ROWS]
    np.testing.assert_array_equal(np.array(found['probabilities'], np.float32), want)


@pytest.mark.parametrize('dictionary', [False, True])
def test_arrow(make, dictionary):
  client = make()
  rows = [('u1', ['a', 'b'], 1.5), ('u2', None, None), (None, [], 3.0)]
  found = columns(rows)
  if dictionary:
    found['user'] = pa.array(found['user']).dictionary_encode()
  answer = client.post('/v1/score', content=stream(found), headers={'content-type': bodies.ARROW})
  assert answer.status_code == 200, answer.text
  assert answer.headers['content-type'] == bodies.ARROW
  with pa.ipc.open_stream(answer.content) as reader:
    table = reader.read_all()
  assert table.schema.metadata == {b'version': b'one'}
  want = [standin.expected(row) for row in rows]
  np.testing.assert_array_equal(table['probability'].to_numpy(), np.array(want, np.float32))


def test_a_float32_of_arrow_is_the_double_of_its_text(make):
  found = {'user': ['u', 'v'], 'tags': pa.nulls(2), 'price': pa.array([1.1, None], pa.float32())}
  answer = make().post('/v1/score', content=stream(found), headers={'content-type': bodies.ARROW})
  with pa.ipc.open_stream(answer.content) as reader:
    given = reader.read_all()['probability'].to_numpy()
  want = [standin.expected(row) for row in (('u', None, 1.1), ('v', None, None))]
  np.testing.assert_array_equal(given, np.array(want, np.float32))


def post(client, body):
  return client.post('/v1/score', content=body, headers={'content-type': bodies.ARROW})


def test_what_a_small_stream_says_of_many_rows_is_limited(make):
  many = make(max_body_bytes=10_000)
  for body in (malformed.stream(malformed.repeated(100, 1000)), malformed.overlapping(8000)):
    answer = post(many, body)
    assert answer.status_code == 413
    assert 'written out row by row' in answer.json()['error']
  assert post(many, malformed.stream(malformed.repeated(100, 100))).status_code == 200
  assert post(many, malformed.overlapping(100)).status_code == 422  # The price is a text.


@pytest.mark.parametrize(
  ('body', 'words'),
  [
    (malformed.growing(), 'send each dictionary whole'),
    (malformed.hollow(101), 'more than 100 batches without rows'),
    (malformed.stream(pa.table(malformed.GOOD)) + b'x', 'goes on after the end'),
  ],
)
def test_streams_that_arrow_would_take(make, body, words):
  assert words in post(make(), body).json()['error']
  assert post(make(), malformed.hollow(3)).status_code == 200


def test_many_columns_are_refused_soon(make):
  names = [f'c{i}' for i in range(20_000)]
  body = malformed.stream(pa.schema([(n, pa.int8()) for n in [*names, names[-1]]]).empty_table())
  began = time.monotonic()
  assert "no column 'c0'" in post(make(), body).json()['error']
  assert time.monotonic() - began < 5


def test_model_and_health(make):
  client = make()
  model = client.get('/v1/model').json()
  assert model == {'version': 'one', 'columns': client.scorer.columns, 'bytes': 123}
  assert client.get('/healthz').status_code == 200
  assert client.get('/readyz').json() == {'ready': True, 'version': 'one'}


def test_not_ready_while_loading_and_while_stopping(make):
  client = make()
  client.service.draining = True
  answer = client.get('/readyz')
  assert (answer.status_code, answer.headers['retry-after']) == (503, '1')
  scored = client.post('/v1/score', json={'columns': columns()})
  assert (scored.status_code, scored.headers['connection']) == (200, 'close')
  client.service.draining = False
  client.service.holder.current = None
  for answer in (client.get('/readyz'), client.post('/v1/score', json={'columns': columns()})):
    assert answer.status_code == 503
    assert 'loaded' in answer.json()['error']
  assert client.get('/healthz').status_code == 200


def test_metrics(make):
  client = make()
  client.post('/v1/score', json={'columns': columns()})
  client.post('/v1/score', json={'columns': 3})
  text = client.get('/metrics').text
  for line in (
    'ctr_requests_total{path="/v1/score",status="200"} 1.0',
    'ctr_requests_total{path="/v1/score",status="422"} 1.0',
    'ctr_rows_total 4.0',
    'ctr_queue_rows 0.0',
    'ctr_held_bytes 0.0',
    'ctr_batch_rows_count 1.0',
    'ctr_request_seconds_count{status="200"} 1.0',
    'ctr_model_info{version="one"} 1.0',
    'ctr_model_bytes 123.0',
  ):
    assert line in text.splitlines(), text


def test_sizes_are_limited(make):
  client = make(max_body_bytes=1000, max_request_rows=50)
  big = {'columns': columns(ROWS * 20)}
  declared = client.post('/v1/score', json=big)
  undeclared = client.post(
    '/v1/score',
    content=iter([json.dumps(big).encode()]),
    headers={'content-type': 'application/json'},
  )
  for answer in (declared, undeclared):
    assert (answer.status_code, answer.headers['connection']) == (413, 'close')
    assert '1000 bytes' in answer.json()['error']
  client = make(max_request_rows=50)
  answer = client.post('/v1/score', json=big)
  assert answer.status_code == 413
  assert '80 rows' in answer.json()['error']
  arrow = stream({'user': pa.nulls(51), 'tags': pa.nulls(51), 'price': pa.nulls(51)})
  answer = client.post('/v1/score', content=arrow, headers={'content-type': bodies.ARROW})
  assert answer.status_code == 413


def test_memory_is_limited_over_all_requests(make):
  client = make(max_body_bytes=1000, max_held_bytes=1000)
  client.service._held = 990
  answer = client.post('/v1/score', json={'columns': columns()})
  assert answer.status_code == 503
  client.service._held = 0
  assert client.post('/v1/score', json={'columns': columns()}).status_code == 200
  assert client.service._held == 0
  assert 'ctr_shed_total{reason="memory"} 1.0' in client.get('/metrics').text


def test_a_model_that_fails_is_a_500_without_a_traceback(make):
  client = make(standin.Standin(fails=True))
  answer = client.post('/v1/score', json={'columns': columns()})
  assert answer.status_code == 500
  assert answer.json() == {'error': 'The model failed; the log says how.'}


def test_what_the_model_cannot_read_is_its_sentence(make):
  found = columns()
  found['price'][2] = 'cheap'
  answer = make().post('/v1/score', json={'columns': found})
  assert answer.status_code == 422
  assert answer.json() == {'error': "Column price, row 2: 'cheap' is not a number."}


def test_a_deadline_of_the_client(make):
  client = make(standin.Standin(seconds_per_row=0.05))
  slow = {'X-Deadline-Ms': '20'}
  answer = client.post('/v1/score', json={'columns': columns()}, headers=slow)
  assert (answer.status_code, answer.headers['retry-after']) == (503, '1')
  for wrong in ('0', '-1', '1.5', 'soon', '9' * 30):
    answer = client.post('/v1/score', json={'columns': columns()}, headers={'X-Deadline-Ms': wrong})
    assert answer.status_code == 400
    assert 'milliseconds' in answer.json()['error']


def test_limits_that_contradict_each_other():
  for bounds in (
    {'max_batch_rows': 0},
    {'max_request_rows': 10, 'max_queue_rows': 5},
    {'max_body_bytes': 10, 'max_held_bytes': 5},
    {'max_wait_s': 1.0, 'max_latency_s': 0.5},
  ):
    with pytest.raises(ValueError, match=r'max_|positive'):
      limits.Limits(**bounds).check()


def test_who_goes_away_is_counted_once():
  service = app.Service(standin.Standin, limits.Limits())
  service.holder.current = standin.Standin()
  heard = [{'type': 'http.request', 'body': b'{"rows"', 'more_body': True}]
  headers = [(b'content-type', b'application/json'), (b'content-length', b'1000')]
  scope = {'type': 'http', 'method': 'POST', 'path': '/v1/score', 'headers': headers}
  scope |= {'query_string': b'', 'raw_path': b'/v1/score', 'root_path': '', 'scheme': 'http'}

  async def receive():
    return heard.pop() if heard else {'type': 'http.disconnect'}

  async def send(message):
    del message

  asyncio.run(app.make(service)(scope, receive, send))
  lines = service.counts.text().decode().splitlines()
  counted = [line for line in lines if line.startswith('ctr_requests_total')]
  assert counted == ['ctr_requests_total{path="/v1/score",status="499"} 1.0']
  assert service._held == 0


def test_the_first_arrow_body_waits_for_no_import():
  body = stream({'user': ['u1', None], 'tags': [['a'], ['b']], 'price': [1.5, 2.0]})
  code = f"""
import sys
import numpy as np
from ctr_jax.serve import bodies, limits
bodies.warm_up()
before = set(sys.modules)
found = bodies.parse(bodies.ARROW, {body!r}, ['user', 'tags', 'price'], limits.Limits())
bodies.answer(bodies.ARROW, np.ones(found.rows, np.float32), 'one')
assert set(sys.modules) == before, set(sys.modules) - before
"""
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
