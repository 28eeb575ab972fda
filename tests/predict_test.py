"""The forward path against a brute-force loop over samples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctr_jax import compress, models, predict
from ctr_jax.data import schema as schema_lib
from ctr_jax.tables import leaf, rowwise, stack
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib

F = schema_lib.Feature
SCHEMA = schema_lib.Schema(
  'small',
  (
    F('item'),
    F('previous', table='item'),
    F('history', kind='ids', table='item', width=3),
    F('tags', kind='ids', width=2),
    F('price', kind='numeric'),
    F('noise'),
  ),
)
ROWS = {'item': 9, 'tags': 4, 'price': 2, 'noise': 5}
DIM = 4


def batch():
  return {
    'label': np.float32([1, 0, 1]),
    'item': np.int32([8, 1, 0]),
    'previous': np.int32([1, 1, 2]),
    'history': np.int32([[8, 1, -1], [3, 3, 3], [-1, -1, -1]]),
    'tags': np.int32([[1, -1], [2, 3], [0, -1]]),
    'price': np.float32([2.5, np.nan, -1.0]),
    'noise': np.int32([4, 0, 1]),
  }


FULL = (('.*', compress.identity()),)


def build(rules=FULL, net='dnn', **options):
  net = models.NETS[net](hidden=(5,), dropout=0.0, batch_norm=False)
  return predict.build(SCHEMA, ROWS, rules, net, DIM, leaf.normal(0.5), **options)


def tables():
  draw = np.random.default_rng(0)
  return {t: jnp.asarray(draw.normal(size=(n, DIM)), jnp.float32) for t, n in ROWS.items()}


def expected(full, data, feature, i):
  """The vector of one feature of one sample, by the book."""
  table = np.asarray(full[feature.table], np.float64)
  x = data[feature.name][i]
  if feature.kind == 'numeric':
    return table[0] if np.isnan(x) else table[1] * float(x)
  if feature.kind == 'ids':
    ids = [j for j in x if j >= 0] or [0]
    return np.mean([table[j] for j in ids], axis=0)
  return table[x]


def test_vectors_equal_a_loop_over_samples():
  model, full, data = build(), tables(), batch()
  index, values = predict.inputs(model, data)
  rows = predict.gather_all(model, full, index)
  found = np.asarray(predict.vectors(model, rows, values))
  assert found.shape == (3, len(SCHEMA.features), DIM)
  for i in range(3):
    for j, feature in enumerate(SCHEMA.features):
      np.testing.assert_allclose(
        found[i, j], expected(full, data, feature, i), rtol=1e-5, atol=1e-6
      )


def test_a_dropped_feature_is_neither_read_nor_seen():
  model = build([('noise', compress.drop()), ('.*', compress.identity())])
  assert 'noise' not in model.columns
  data = batch()
  del data['noise']
  index, values = predict.inputs(model, data)
  full = tables()
  assert predict.vectors(model, predict.gather_all(model, full, index), values).shape == (3, 5, DIM)
  with pytest.raises(ValueError, match='drop every feature'):
    build([('.*', compress.drop())])


@pytest.mark.parametrize('feature, id_', [('item', 9), ('history', 9), ('noise', -1), ('tags', -2)])
def test_an_id_out_of_range_is_an_error_in_words(feature, id_):
  model, data = build(), batch()
  data[feature] = data[feature].copy()
  data[feature].reshape(-1)[-1] = id_
  with pytest.raises(ValueError, match=rf"'{feature}': id {id_} is outside its table"):
    predict.inputs(model, data)


@pytest.mark.parametrize('layout', [stack.apart, stack.stacked])
@pytest.mark.parametrize('hashed', [False, True])
def test_row_sparse_steps_equal_dense_steps_of_sgd(layout, hashed):
  """With SGD both modes are the same algorithm: shared tables, lists and numbers included."""
  technique = compress.multi_hash(5, combine='weights') if hashed else compress.identity()
  rules = [('item', technique), ('.*', compress.identity())]
  model = build(rules, layout=layout)
  apart = build(rules)
  sparse = state_lib.Recipe(optax.sgd(0.3), rowwise.sgd(0.3))
  dense = state_lib.Recipe(optax.sgd(0.3))
  results = []
  for recipe, used in ((sparse, model), (dense, apart)):
    state = state_lib.create(used, recipe, 5)
    train = step_lib.compiled(used, recipe)
    for _ in range(3):
      state, metrics = train(state, step_lib.batch(used, recipe, batch()))
    leaves = stack.unpack(used.layout, state.tables)
    results.append((leaves, state.net, metrics))
    assert train._cache_size() == 1
  (left, net, loss), (right, other, other_loss) = results
  assert left.keys() == right.keys()
  for path in left:
    np.testing.assert_allclose(left[path], right[path], rtol=1e-5, atol=1e-6, err_msg=path)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), net, other)
  np.testing.assert_allclose(loss['loss'], other_loss['loss'], rtol=1e-5)


def test_training_lowers_the_loss():
  model = build()
  recipe = state_lib.Recipe(optax.adam(1e-2), rowwise.adagrad(0.1))
  state, train = state_lib.create(model, recipe, 0), step_lib.compiled(model, recipe)
  losses = []
  for _ in range(60):
    state, metrics = train(state, step_lib.batch(model, recipe, batch()))
    losses.append(float(metrics['loss']))
  assert losses[-1] < 0.1 * losses[0]


def shared():
  features = (
    F('item'),
    F('previous', table='item'),
    F('one', table='pool'),
    F('two', table='pool'),
  )
  return schema_lib.Schema('shared', features), {'item': 9, 'pool': 5}


def test_a_rule_leaves_one_feature_of_a_shared_table_out():
  described, rows = shared()
  rules = [('feature:item', compress.drop()), ('.*', compress.identity())]
  model = predict.build(described, rows, rules, models.NETS['fm'](), 3)
  assert model.columns == ('previous', 'one', 'two')
  assert model.codec.plan['item'].rows == 9


def test_a_table_that_no_feature_reads_any_more_is_gone():
  described, rows = shared()
  rules = [('feature:(one|two)', compress.drop()), ('.*', compress.identity())]
  model = predict.build(described, rows, rules, models.NETS['fm'](), 3)
  assert model.columns == ('item', 'previous')
  assert list(model.layout.leaves) == ['item']


def test_a_feature_cannot_be_stored_only_dropped():
  described, rows = shared()
  rules = [('feature:one', compress.hash_trick(2)), ('.*', compress.identity())]
  with pytest.raises(ValueError, match='can only be dropped'):
    predict.build(described, rows, rules, models.NETS['fm'](), 3)


def test_dropping_all_else_keeps_every_feature_of_the_table_that_stays():
  described, rows = shared()
  rules = [('item', compress.identity()), ('.*', compress.drop())]
  model = predict.build(described, rows, rules, models.NETS['fm'](), 3)
  assert model.columns == ('item', 'previous')
