"""All scorers have the logits of the forward path of training, on raw rows, unseen values too."""

import importlib.util
import subprocess
import sys
import zlib

import jax
import jax.export
import numpy as np
import pytest

from ctr_jax import compress, models, predict, serve
from ctr_jax.compress import hashing as jax_hashing
from ctr_jax.data import schema as schema_lib
from ctr_jax.serve import (
  artifact,
  export,
  hashing,
  nets,
  numpy_scorer,
  scorer,
  served,
  techniques,
)
from tests.serve import cases

# Relative to the largest logit.
NUMPY, ONNX = 1e-6, 1e-5
without_onnx = not all(importlib.util.find_spec(name) for name in ('onnx', 'onnxruntime'))
needs_onnx = pytest.mark.skipif(without_onnx, reason="onnx is an extra: 'ctr_jax[serve]'")


def exported(data, folder, *chains, **net):
  made = cases.model(data[0], *chains, **net)
  return made, export.write(folder / 'model', *made, data[0])


def by_row(folder):
  """The NumPy scorer where no table is small enough to be decoded beforehand."""
  opened = artifact.open_artifact(folder)
  schema = schema_lib.Schema.from_dict(opened.manifest['schema'])
  model = served.build(opened.manifest['model'], schema)
  return scorer.Scorer(opened, model, numpy_scorer.make(opened, model, decoded=0))


def check(data, folder):
  """Scores raw rows; returns the JAX scorer's logits."""
  columns = cases.by_column(data[1])
  expected = serve.open(folder, 'jax').logits(columns)
  assert expected.dtype == np.float32
  assert np.ptp(expected) > 0.01
  for name, tolerance in (('numpy', NUMPY), ('onnx', ONNX)):
    if name == 'numpy' or not without_onnx:
      found = serve.open(folder, name).logits(columns)
      assert found.dtype == np.float32
      error = np.abs(found - expected).max() / np.abs(expected).max()
      assert error <= tolerance, (name, error)
  np.testing.assert_allclose(
    by_row(folder).logits(columns), expected, rtol=0, atol=NUMPY * np.abs(expected).max()
  )
  return expected


NAMES = list(cases.CHAINS)


@pytest.mark.parametrize('names', [NAMES[i : i + 3] for i in range(0, len(NAMES), 3)], ids=' '.join)
def test_chains(data, tmp_path, names):
  _, folder = exported(data, tmp_path, *(cases.CHAINS[name] for name in names))
  check(data, folder)


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
def test_values_that_are_not_zero(data, tmp_path, dtype):
  """Drawn arrays would not do: the bits say where values begin."""
  kept = {'user': 60, 'tags': 500}
  chains = [compress.sparse_rows(n, dtype) for n in (kept['user'], 40, kept['tags'])]
  model, rules, stored, net = cases.model(data[0], *chains)
  draw, vectors = np.random.default_rng(3), {}
  for table, n in kept.items():
    vectors[table] = draw.normal(size=(model.rows[table], model.width)).astype(np.float32)
    vectors[table][draw.random(vectors[table].shape) < 0.7] = 0
    assert 0 < np.count_nonzero(vectors[table]) <= n
  vectors['item'] = np.zeros((model.rows['item'], model.width), np.float32)
  vectors['item'][-1, -1] = 1.0
  stored = stored | compress.encode(model.codec, vectors)
  made = model, rules, stored, net
  check(data, export.write(tmp_path / 'model', *made, data[0]))


def test_codes_of_parts_that_do_not_divide_the_columns(data, tmp_path):
  two = compress.product_quantize(7, 2), compress.cce(6, 2)
  made, folder = exported(data, tmp_path, *two, net='fm')
  assert made[0].codec.plan['user']['codebook'].shape[0] * 4 > made[0].width
  check(data, folder)


@pytest.mark.parametrize('chain', [compress.product_quantize(7, 3), compress.cce(6, 2)])
def test_a_code_beyond_the_centroids_is_the_last_one(data, tmp_path, chain):
  """As in jax: what is damaged is neither read from the next part nor an error of its own."""
  model, rules, stored, net = cases.model(data[0], chain)
  codes = np.random.default_rng(0).integers(0, 256, stored['item']['code'].shape, np.uint8)
  stored = stored | {'item': stored['item'] | {'code': codes}}
  check(data, export.write(tmp_path / 'model', model, rules, stored, net, data[0]))


@pytest.mark.parametrize('linear', ['weight', 'field', 'feature'])
def test_one_field_has_no_pairs(data, tmp_path, linear):
  source, net = data[0], models.NETS['fwfm'](linear)
  rules = (('item', compress.identity()), ('.*', compress.drop()))
  rules = (('feature:previous', compress.drop()), *rules)
  made = predict.build(source.schema, source.rows, rules, net, cases.DIM)
  draw = np.random.default_rng(0)
  stored = jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), made.codec.plan)
  shapes = jax.eval_shape(lambda: predict.init_net(made, jax.random.key(0)))
  variables = jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), shapes)
  check(data, export.write(tmp_path / 'model', made, rules, stored, variables, source))


@pytest.mark.parametrize('name', cases.NETS)
def test_nets(data, tmp_path, name):
  _, folder = exported(data, tmp_path, **{'net': name} | cases.NETS[name])
  check(data, folder)


def test_what_is_served_is_what_is_evaluated(data, tmp_path):
  source, rows = data
  made, folder = exported(data, tmp_path, cases.CHAINS['hot_cold_int8'], net='relation_dcn')
  model, _, stored, variables = made
  encoded = source.read('test', source.schema.names, 0, len(rows))
  expected = cases.logits(model, stored, variables, encoded)
  found = check(data, folder)
  np.testing.assert_allclose(found, expected, atol=NUMPY * np.abs(expected).max())


def test_large_batches_are_scored_as_small_ones(data, tmp_path):
  _, folder = exported(data, tmp_path)
  made, few = serve.open(folder), cases.by_column(data[1])
  expected = np.tile(made.logits(few), 25)
  assert len(expected) > 2 * numpy_scorer.TOGETHER
  found = made.logits({name: column * 25 for name, column in few.items()})
  np.testing.assert_allclose(found, expected, rtol=0, atol=NUMPY * np.abs(expected).max())


def test_columns_that_are_missing_or_short_are_told_in_words(data, tmp_path):
  _, folder = exported(data, tmp_path, net='lr')
  made = serve.open(folder)
  encoded = made.encode({name: x * 20 for name, x in cases.by_column(data[1]).items()})
  first, second, *_ = made.manifest['model']['features']
  short = encoded[first][: numpy_scorer.TOGETHER]  # All that is scored at once.
  with pytest.raises(ValueError, match=f"Feature '{first}' has 1024 rows, and .* has 1800"):
    made.score(encoded | {first: short})
  del encoded[second]
  with pytest.raises(
    ValueError, match=f"Feature '{second}' has no column; the model reads {first}"
  ):
    made.score(encoded)


def test_the_smallest_tables_are_decoded_and_no_more_than_told(data, tmp_path):
  _, folder = exported(data, tmp_path, cases.CHAINS['multi_hash_int8'])
  opened = artifact.open_artifact(folder)
  schema = schema_lib.Schema.from_dict(opened.manifest['schema'])
  model = served.build(opened.manifest['model'], schema)
  rows = {name: model.rows[name] for name in ('user', 'item', 'tags')}
  first, second, _ = sorted(rows, key=rows.get)
  size = 4 * cases.DIM * (rows[first] + rows[second])
  assert numpy_scorer.small(model, size) == [first, second]
  assert numpy_scorer.small(model, size - 1) == [first]
  assert numpy_scorer.small(model, 0) == []


def test_small_tables_are_decoded_a_few_rows_at_a_time(data, tmp_path, monkeypatch):
  """Of a deep hash each takes a thousand numbers, whatever the vectors do."""
  made, folder = exported(data, tmp_path, compress.deep_hash(16, (5,), 30))
  expected, asked = serve.open(folder).logits(cases.by_column(data[1])), []
  addressed = served.addressed

  def watched(model, table, ids):
    asked.append(len(ids))
    return addressed(model, table, ids)

  monkeypatch.setattr(numpy_scorer, 'TOGETHER', 8)
  monkeypatch.setattr(served, 'addressed', watched)
  scorer_ = serve.open(folder)
  assert max(asked) == 8 and sum(asked) == sum(made[0].rows[t] for t in ('user', 'item', 'tags'))
  np.testing.assert_allclose(scorer_.logits(cases.by_column(data[1])), expected, rtol=1e-5)


@pytest.mark.parametrize('rows', [0, 1, 5])
def test_any_number_of_rows(data, tmp_path, rows):
  _, folder = exported(data, tmp_path)
  columns = {name: column[:rows] for name, column in cases.by_column(data[1]).items()}
  found = serve.open(folder, 'numpy').predict(columns)
  assert found.shape == (rows,)
  assert found.dtype == np.float32
  assert ((found > 0) & (found < 1)).all()
  np.testing.assert_allclose(serve.open(folder, 'jax').predict(columns), found, rtol=1e-5)
  if not without_onnx:
    np.testing.assert_allclose(serve.open(folder, 'onnx').predict(columns), found, rtol=1e-5)


def test_numpy_scores_without_jax(data, tmp_path):
  _, folder = exported(data, tmp_path, cases.CHAINS['multi_hash_int8'])
  code = f"""
import sys
from ctr_jax import serve
scorer = serve.open({str(folder)!r}, 'numpy')
print(scorer.predict({cases.by_column(data[1][:3])!r}).tolist())
loaded = {{name.split('.')[0] for name in sys.modules}}
assert not loaded & {{'jax', 'jaxlib', 'flax', 'ibis', 'duckdb', 'pyarrow', 'onnx'}}, loaded
"""
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  expected = serve.open(folder, 'numpy').predict(cases.by_column(data[1][:3]))
  np.testing.assert_array_equal(np.float32(eval(done.stdout)), expected)


def test_the_program_is_for_any_batch_on_three_platforms(data, tmp_path):
  _, folder = exported(data, tmp_path, cases.CHAINS['multi_hash_int8'])
  opened = artifact.open_artifact(folder)
  program = jax.export.deserialize(bytearray(zlib.decompress(opened.read(artifact.FORWARD))))
  assert program.platforms == ('cpu', 'cuda', 'tpu')
  assert str(program.out_avals[0].shape) == '(batch,)'
  # Stored arrays are arguments: the program has no constant so large that it is printed as bytes.
  assert 'dense<"0x' not in program.mlir_module()


@needs_onnx
def test_onnx_has_as_many_threads_as_other_libraries_are_told(data, tmp_path, monkeypatch):
  import onnxruntime

  asked = []

  def session(path, options, **more):
    asked.append(options.intra_op_num_threads)
    return made(path, options, **more)

  made = onnxruntime.InferenceSession
  monkeypatch.setattr(onnxruntime, 'InferenceSession', session)
  _, folder = exported(data, tmp_path)
  for told in ('3', '', '4,2'):
    monkeypatch.setenv('OMP_NUM_THREADS', told)
    serve.open(folder, 'onnx')
  assert asked == [3, 0, 0]  # 0: the runtime's own choice.


@needs_onnx
def test_the_graph_is_valid_and_holds_no_table(data, tmp_path):
  import onnx

  _, folder = exported(data, tmp_path, cases.CHAINS['hot_cold_int8'], net='dcn')
  onnx.checker.check_model(str(folder / artifact.ONNX), full_check=True)
  model = onnx.load(str(folder / artifact.ONNX), load_external_data=False)
  assert [x.version for x in model.opset_import] == [18]
  held = [x for x in model.graph.initializer if not x.external_data]
  assert max(len(x.raw_data) for x in held) < 1000
  named = {x.external_data[0].value for x in model.graph.initializer if x.external_data}
  assert all((folder / name).is_file() for name in named)
  arrays = artifact.open_artifact(folder).manifest['arrays']
  assert named == {f'{p}.bin' for p in arrays if p.startswith(('tables/', 'net/'))}


def test_hashes_have_the_same_bits():
  ids = np.arange(-1, 5000, dtype=np.int32)
  for seed in (0, 1, 2**31, -3):
    np.testing.assert_array_equal(hashing.mix(ids, seed), jax_hashing.mix(ids, seed))
  np.testing.assert_array_equal(hashing.bucket(ids, 7, 999), jax_hashing.bucket(ids, 7, 999))


def test_a_technique_that_is_not_served_is_refused_in_words(data, tmp_path, monkeypatch):
  made = cases.model(data[0], compress.alpt())
  with pytest.raises(ValueError, match=r"Table 'user': alpt is for training, .* by `int_quantize`"):
    export.write(tmp_path / 'model', *made, data[0])
  monkeypatch.delitem(techniques.TECHNIQUES, 'robe')
  made = cases.model(data[0], compress.robe(50))
  with pytest.raises(ValueError, match="Table 'user': robe has no decode without jax"):
    export.write(tmp_path / 'model', *made, data[0])
  assert list(tmp_path.iterdir()) == []


def test_every_technique_is_served_or_said_to_be_stored_by_another():
  known = {'chain', *compress.TECHNIQUES}
  assert known == {*techniques.TECHNIQUES, *techniques._INSTEAD}


@needs_onnx
def test_a_net_that_is_in_jax_alone_is_scored_by_jax(data, tmp_path, monkeypatch):
  monkeypatch.delitem(nets.NETS, 'FiBiNET')
  made, folder = exported(data, tmp_path, net='fibinet')
  found = serve.open(folder, 'jax').logits(cases.by_column(data[1]))
  encoded = data[0].read('test', data[0].schema.names, 0, len(data[1]))
  expected = cases.logits(made[0], *made[2:], encoded)
  np.testing.assert_allclose(found, expected, atol=NUMPY * np.abs(expected).max())
  for name in ('numpy', 'onnx'):
    with pytest.raises(ValueError, match='FiBiNET is written in jax alone'):
      serve.open(folder, name)


def test_rules_of_another_model_are_refused(data, tmp_path):
  model, _, stored, variables = cases.model(data[0], cases.HASH)
  rules = cases.model(data[0], cases.CHAINS['int8'])[1]
  with pytest.raises(ValueError, match='give the rules that the model was built with'):
    export.write(tmp_path / 'model', model, rules, stored, variables, data[0])


def test_unknown_scorer(tmp_path):
  with pytest.raises(ValueError, match='there are numpy, jax, onnx'):
    serve.open(tmp_path, 'torch')


@pytest.mark.parametrize('name', ['numpy', 'jax', 'onnx'])
def test_a_number_that_is_too_large_is_refused_in_words(data, tmp_path, name):
  if name == 'onnx' and without_onnx:
    pytest.skip("onnx is an extra: 'ctr_jax[serve]'")
  _, folder = exported(data, tmp_path, net='dcn')
  made, columns = serve.open(folder, name), cases.by_column(data[1][:3])
  columns['price'] = [1.0, 1e30, 2.0]
  with pytest.raises(serve.BadInput, match=r"'price', row 1: 1e\+30 is too large a number"):
    made.predict(columns)
  assert np.isnan(made.unchecked(columns)).tolist() == [False, True, False]


def test_a_model_without_a_probability_is_an_error_of_its_own():
  def nothing(columns):
    return np.full(len(columns['user']), np.nan, np.float32)

  for kinds in ({'user': 'id', 'price': 'numeric'}, {'user': 'id'}):
    columns = {'user': ['a', 'b'], 'price': [1.0, 2.0]}
    found = scorer.fault(nothing, kinds, columns, nothing(columns))
    assert 'a probability that is not a number' in str(found)
    assert not isinstance(found, serve.BadInput)
