"""Features that are made of pairs are made by the artifact as the data set has them."""

import jax
import numpy as np
import pytest

from ctr_jax import compress, models, predict, serve
from ctr_jax.data import beside, crosses
from ctr_jax.graphs import pcf_gnn
from ctr_jax.serve import artifact as artifact_lib
from ctr_jax.serve import export, pairs, pairs_export
from ctr_jax.tables import leaf, trees
from tests.serve import cases


@pytest.fixture(scope='module')
def crossed(data, tmp_path_factory):
  """(data with crosses and statistics beside it, raw rows of test)."""
  (source, rows), folder = data, tmp_path_factory.mktemp('made')
  made = [crosses.Cross('user', 'item'), crosses.Cross('age', 'agent', buckets=20)]
  told = [crosses.Statistic('user', 'item'), crosses.Statistic('item', 'hour')]
  added = crosses.add(source, folder / 'crossed', made, told)
  return beside.join(source, added), rows


def test_crosses_and_statistics_of_raw_rows(crossed, tmp_path):
  source, rows = crossed
  folder = export.write(tmp_path / 'model', *cases.model(source), source)
  scorer = serve.open(folder)
  columns = cases.by_column(rows)
  assert set(scorer.columns) == set(columns) - {'clicked', 'request'}
  expected = source.read('test', source.schema.names, 0, len(rows))
  found = scorer.encode(columns)
  assert found.keys() == expected.keys()
  for name, column in expected.items():
    np.testing.assert_array_equal(found[name], column, err_msg=name)
  assert found['user-item'].any()
  assert found['user-item.lift'].any()
  assert found['age-agent.hash'].any()
  with pytest.raises(serve.BadInput, match=r"Column 'user-item\.lift' is unknown"):
    scorer.predict(columns | {'user-item.lift': [0.0] * len(rows)})
  lookups = sum(p.stat().st_size for p in (folder / 'lookup').rglob('*.bin'))
  assert lookups == scorer.manifest['bytes']['lookup']
  assert lookups == sum(x['bytes'] for n, x in source.lookups.items() if 'statistic' in n)


def test_bases_that_the_net_does_not_read_are_still_looked_up(crossed, tmp_path):
  source, rows = crossed
  kept = '(user-item.*)'
  rules = ((kept, compress.identity()), ('.*', compress.drop()))
  model = predict.build(source.schema, source.rows, rules, models.NETS['lr'](), cases.DIM)
  stored = leaf.init(model.codec.plan, jax.random.key(0))
  net = predict.init_net(model, jax.random.key(0))
  scorer = serve.open(export.write(tmp_path / 'model', model, rules, stored, net, source))
  assert set(scorer.columns) == {'user', 'item'}
  found = scorer.encode({name: cases.by_column(rows)[name] for name in ('user', 'item')})
  expected = source.read('test', model.columns, 0, len(rows))
  for name, column in expected.items():
    np.testing.assert_array_equal(found[name], column)


@pytest.mark.parametrize('method', ['biases', 'gnn', 'gnn_mlp'])
def test_scores_of_node_vectors(method):
  draw = np.random.default_rng(0)
  net = pcf_gnn.CrossNet(method, 2)
  u, v = (draw.integers(0, 12, 50).astype(np.int32) for _ in range(2))
  vectors = {t: np.float32(draw.normal(size=(12, 5))) for t in ('user', 'item')}
  relation = np.full(50, 1, np.int32)
  h_u, h_v = vectors['item'][u], vectors['user'][v]
  params = net.init(jax.random.key(0), h_u, h_v, relation)['params']
  params = jax.tree.map(lambda x: x + np.float32(0.3), params)
  technique = compress.int_quantize(8)
  codec = technique(leaf.Leaf((12, 5)))
  stored = {t: codec.encode(x) for t, x in vectors.items()}
  decoded = {t: decode(codec, x) for t, x in stored.items()}
  expected = net.apply({'params': params}, decoded['item'][u], decoded['user'][v], relation)
  expected = np.where((u > 0) & (v > 0), expected, 0)
  given = pairs_export.Vectors(
    relations=[('user', 'hour'), ('previous', 'user')],
    tables={'user': 'user', 'hour': 'user', 'previous': 'item'},
    technique=technique,
    shapes={t: x.shape for t, x in vectors.items()},
    stored=stored,
    method=method,
    cross=params,
  )
  arrays = pairs_export._arrays(given)
  entries = {p: {'dtype': x.dtype.name} for p, x in arrays.items()}
  artifact = artifact_lib.Artifact('', {'arrays': entries}, '', arrays)
  found = pairs.score(artifact, pairs_export._described(given), 1)(u, v)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def decode(codec, stored):
  ids = np.arange(12, dtype=np.int32)
  rows = trees.flatten(stored)
  index = trees.flatten(codec.address(ids))
  return np.asarray(codec.decode({p: np.asarray(x)[index[p]] for p, x in rows.items()}))
