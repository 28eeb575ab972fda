"""Whatever a client sends, it is told in a sentence what is wrong with it, and never gets a 500."""

import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip('starlette', reason='the extra `serve` is not installed')
pytest.importorskip('httpx2', reason="Starlette's test client needs it")
pytest.importorskip('prometheus_client', reason='the extra `serve` is not installed')

from starlette import testclient

from ctr_jax.serve import app, bodies, limits
from tests.serve import malformed, standin

BOUNDS = limits.Limits(max_latency_s=30.0, max_wait_s=0.0, max_request_rows=100)
STREAM = malformed.stream(pa.table(malformed.GOOD))


@pytest.fixture(scope='module')
def client():
  service = app.Service(standin.Standin, BOUNDS)
  service.holder.current = standin.Standin()
  with testclient.TestClient(app.make(service)) as found:
    found.service = service
    yield found


def refusal(answer):
  """The sentence of a refusal, which must be one."""
  assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
  assert answer.headers['content-type'] == 'application/json'
  found = answer.json()
  assert found.keys() == {'error'}
  sentence = found['error']
  assert sentence[0].isupper() or sentence[0] == '"', sentence
  assert sentence[-1] in '.:', sentence
  assert len(sentence) < 400
  assert 'Traceback' not in sentence
  return sentence


def test_there_are_hundreds_and_each_gets_a_sentence(client):
  found = list(malformed.requests())
  assert len(found) >= 200
  for name, body, headers in found:
    answer = client.post('/v1/score', content=body, headers=headers)
    assert 400 <= answer.status_code < 500, (name, answer.status_code, answer.text)
    refusal(answer)
  # What is good is still scored, and nothing of all that is kept.
  assert client.post('/v1/score', json={'columns': malformed.GOOD}).status_code == 200
  assert client.service._held == 0


@pytest.mark.parametrize(
  ('method', 'path', 'status'),
  [
    ('GET', '/v1/score', 405),
    ('PUT', '/v1/score', 405),
    ('DELETE', '/v1/model', 405),
    ('POST', '/healthz', 405),
    ('GET', '/', 404),
    ('GET', '/v1/score/', 404),
    ('POST', '/v2/score', 404),
    ('GET', '/../etc/passwd', 404),
  ],
)
def test_wrong_paths_and_methods(client, method, path, status):
  answer = client.request(method, path, follow_redirects=False)
  assert answer.status_code == status
  refusal(answer)


@pytest.mark.parametrize(
  ('body', 'words'),
  [
    ({'columns': malformed.GOOD | {'age': [1, 2]}}, "no column 'age'"),
    ({'rows': [malformed.ROW, {'user': 'u'}]}, "'tags' is missing in row 1"),
    ({'columns': malformed.GOOD | {'price': [1]}}, "'price' has 1 values, and 'user' has 2"),
    ({'columns': malformed.GOOD | {'price': [1, True]}}, "'price', row 1"),
    ({'columns': malformed.GOOD | {'price': [2**70, 1]}}, "'price', row 0"),
  ],
)
def test_the_sentence_names_column_and_row(client, body, words):
  assert words in refusal(client.post('/v1/score', json=body))


def test_a_key_that_stands_twice_is_named(client):
  answer = client.post(
    '/v1/score',
    content='{"columns": {"user": [1], "user": [2]}}',
    headers={'content-type': bodies.JSON},
  )
  assert "'user' stands twice" in refusal(answer)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
NAMES = st.sampled_from(['columns', 'rows', 'user', 'tags', 'price']) | st.text(max_size=3)
JSON = st.recursive(
  SCALARS,
  lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
  max_leaves=12,
)
COLUMN = st.lists(JSON, min_size=1, max_size=3) | JSON


def scored_or_refused(client, body, kind):
  answer = client.post('/v1/score', content=body, headers={'content-type': kind})
  if answer.status_code != 200:
    refusal(answer)


@settings(max_examples=150)
@given(
  JSON
  | st.fixed_dictionaries({'columns': st.dictionaries(NAMES, COLUMN, max_size=4)})
  | st.fixed_dictionaries(
    {'columns': st.fixed_dictionaries({'user': COLUMN, 'tags': COLUMN, 'price': COLUMN})}
  )
  | st.fixed_dictionaries(
    {'rows': st.lists(st.fixed_dictionaries({'user': JSON, 'tags': JSON, 'price': JSON}))}
  )
)
def test_any_json(client, value):
  scored_or_refused(client, json.dumps(value).encode(), bodies.JSON)


@settings(max_examples=100)
@given(st.binary(max_size=40) | st.text(alphabet='{}[]":,0eE-.\\u', max_size=40).map(str.encode))
def test_any_bytes(client, body):
  scored_or_refused(client, body, bodies.JSON)
  scored_or_refused(client, body, bodies.ARROW)


@settings(max_examples=300)
@given(
  st.lists(st.tuples(st.integers(0, len(STREAM) - 1), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_streams_with_flipped_bytes(client, places):
  body = bytearray(STREAM)
  for place, byte in places:
    body[place] = byte
  scored_or_refused(client, bytes(body), bodies.ARROW)
