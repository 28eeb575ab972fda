"""An exported model behind the service: the same probabilities, and sentences for what is wrong."""

import json

import numpy as np
import pytest

pytest.importorskip('starlette', reason='the extra `serve` is not installed')
pytest.importorskip('uvicorn', reason='the extra `serve` is not installed')
pytest.importorskip('httpx2', reason="Starlette's test client needs it")
pytest.importorskip('prometheus_client', reason='the extra `serve` is not installed')

from starlette import testclient

from ctr_jax import serve
from ctr_jax.serve import app, export, limits
from experiments.bench import serve_process
from tests.serve import cases

ODD = ('', ' ', 'x', '1e999', '-inf', 'nan', '٣', '\x00', 'ü' * 300, 2**63 - 1, -(2**63), 1e308)
ODD += (1e-320, -0.0, None, [], [''], ['|', '||'], ['x'] * 1000, [2**62, 'x'], '99999999', 24131399)


@pytest.fixture(scope='module')
def folder(data, tmp_path_factory):
  made = cases.model(data[0], cases.CHAINS['multi_hash_int8'])
  return export.write(tmp_path_factory.mktemp('served') / 'model', *made, data[0])


def asked(data, scorer):
  raw = cases.by_column(data[1])
  return {name: raw[name] for name in scorer.columns}


def test_the_server_answers_as_the_scorer(data, folder):
  scorer = serve.open(folder)
  columns = asked(data, scorer)
  flags = (f'--artifact={folder}', '--port=0', '--drain_s=0', '--max_latency_ms=20000')
  server = serve_process.Process(('ctr_jax.serve.server', *flags))
  try:
    body = json.dumps({'columns': columns})
    status, found = server.get('/v1/score', body, **{'content-type': 'application/json'})
  finally:
    assert server.stop() == 0
  assert (status, found['version']) == (200, scorer.version)
  np.testing.assert_array_equal(np.array(found['probabilities']), scorer.predict(columns))


def test_odd_values_are_scored_or_refused_in_words(data, folder):
  scorer = serve.open(folder)
  service = app.Service(lambda: scorer, limits.Limits(max_latency_s=30.0, max_wait_s=0.0))
  service.holder.current = scorer
  good = {name: values[0] for name, values in asked(data, scorer).items()}
  statuses = set()
  with testclient.TestClient(app.make(service)) as client:
    for name in good:
      for value in ODD:
        answer = client.post('/v1/score', json={'rows': [good, good | {name: value}]})
        statuses.add(answer.status_code)
        if answer.status_code != 200:
          assert answer.status_code == 422, (name, value, answer.text)
          assert 'row 1' in answer.json()['error'], (name, value, answer.text)
          assert repr(name) in answer.json()['error']
  assert statuses == {200, 422}
