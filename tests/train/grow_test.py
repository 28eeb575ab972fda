"""States grown to other features, vocabularies and techniques."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctr_jax import compress, models, predict
from ctr_jax.data import schema as schema_lib
from ctr_jax.tables import leaf, rowwise, stack
from ctr_jax.train import grow
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib

F = schema_lib.Feature
USER, ITEM, TAGS = F('user'), F('item'), F('tags', kind='ids', width=3)
PRICE, SHOP = F('price', kind='numeric'), F('shop')
SOME = (USER, ITEM, PRICE)
ROWS = {'user': 12, 'item': 20, 'price': 2, 'tags': 9, 'shop': 7}
DIM, BATCH = 4, 16
ALL = (('.*', compress.identity()),)
SMALL = {'hidden': (6,), 'dropout': 0.0}
NETS = {'dnn': SMALL, 'dcn': SMALL | {'cross_layers': 2}}
RECIPE = state_lib.Recipe(optax.adam(1e-2), rowwise.adagrad(0.1))


def model(features, net='dnn', rules=ALL, rows=None, layout=stack.apart, dim=DIM, **options):
  schema = schema_lib.Schema('s', features)
  rows = {f.table: (ROWS | (rows or {}))[f.table] for f in features}
  net = models.NETS[net](**NETS[net] | options)
  return predict.build(schema, rows, rules, net, dim, leaf.normal(0.3), layout)


def batch(features, seed=0, rows=ROWS, size=BATCH):
  rng = np.random.default_rng(seed)
  found = {'label': rng.integers(0, 2, size).astype('f')}
  for f in features:
    if f.kind == 'numeric':
      found[f.name] = rng.normal(size=size).astype('f')
    else:
      shape = (size, f.width) if f.kind == 'ids' else (size,)
      found[f.name] = rng.integers(0, rows[f.table], shape).astype(np.int32)
  return found


def logits(built, state, columns):
  scorer = predict.scorer(built)
  return np.asarray(scorer.score(state.tables, state.net, scorer.prepare(columns)))


def trained(built, recipe=RECIPE, seed=1):
  """A state without a special value, as if trained. NumPy, so that little compiles."""
  rng = np.random.default_rng(seed)

  def some(path, x):
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return jnp.full(x.shape, 5, x.dtype)
    positive = getattr(path[-1], 'key', '') in ('scale', 'variance') or 'nu' in map(name, path)
    values = rng.uniform(0.2, 0.6, x.shape)
    return jnp.asarray(values if positive else values * rng.choice([-1, 1], x.shape), x.dtype)

  def name(key):
    return getattr(key, 'name', '')

  like = jax.eval_shape(lambda: state_lib.init(built, recipe, 3))
  state = jax.tree_util.tree_map_with_path(some, like)
  fixed = {}
  for path, x in built.layout.leaves.items():
    if x.frozen or not jnp.issubdtype(x.dtype, jnp.floating):
      fixed[path] = x.init(jax.random.key(0), x.shape, x.dtype)
  leaves = stack.unpack(built.layout, state.tables) | fixed
  slots = jax.tree.map(jnp.abs, state.slots)
  return state._replace(
    tables=stack.pack(built.layout, leaves), slots=slots, scale=jnp.float32(0.5)
  )


def stepped(built, state, columns, recipe=RECIPE):
  inputs = step_lib.batch(built, recipe, columns)
  return jax.jit(lambda state: step_lib.step(built, recipe, state, inputs)[0])(state)


def same(found, wanted):
  np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def kernel(state):
  """Of the MLP's first layer, a row for each column of the vectors."""
  return np.asarray(state.net['params']['mlp']['layer_0']['kernel'])


@pytest.mark.parametrize('net', NETS)
def test_a_feature_comes_and_logits_stay(net):
  features = (USER, TAGS, ITEM, PRICE)
  old, new = model(SOME, net), model(features, net)
  state, columns = trained(old), batch(features)
  grown, report = grow.grow(state, old, new, RECIPE, seed=9)
  same(logits(new, grown, columns), logits(old, state, columns))
  assert report.of('tags')[:5] == ('tags', 'new', '-', '9', 'fresh')
  assert report.of('user')[:5] == ('user', 'kept', '12', '12', 'kept')
  assert report.of('net/mlp/layer_0/kernel').what == 'enlarged'
  # What is new is drawn as it would be without any training, and silent by zero weights.
  same(grown.tables['tags'], state_lib.drawn(new, jax.random.key(9))['tags'])
  assert not kernel(grown)[DIM : 2 * DIM].any()
  # It learns: weights in the first step, and by them the vectors in the second.
  first = stepped(new, grown, columns)
  assert kernel(first)[DIM : 2 * DIM].all()
  np.testing.assert_array_equal(first.tables['tags'], grown.tables['tags'])
  second = stepped(new, first, columns)
  read = np.unique(np.where(columns['tags'] >= 0, columns['tags'], 0))
  assert (second.tables['tags'] != grown.tables['tags']).any(axis=1)[read].all()


def test_zero_vectors_learn_in_the_first_step():
  old, new = model(SOME), model((*SOME, TAGS))
  state, columns = trained(old), batch((*SOME, TAGS))
  grown, _ = grow.grow(state, old, new, RECIPE, seed=9, zeros='vectors')
  same(logits(new, grown, columns), logits(old, state, columns))
  assert not grown.tables['tags'].any()
  assert kernel(grown)[3 * DIM :].all()
  assert stepped(new, grown, columns).tables['tags'].any()


def test_a_feature_goes_and_logits_are_those_without_its_vector():
  features = (USER, ITEM, TAGS, PRICE)
  old, new = model(features, 'dcn'), model((PRICE, USER, ITEM), 'dcn')
  state, columns = trained(old), batch(features)
  grown, report = grow.grow(state, old, new, RECIPE, seed=9)
  masked = state._replace(tables=state.tables | {'tags': jnp.zeros_like(state.tables['tags'])})
  same(logits(new, grown, columns), logits(old, masked, columns))
  assert report.of('tags')[:4] == ('tags', 'dropped', '9', '-')
  assert 'tags' not in grown.tables


@pytest.mark.parametrize('layout', [stack.apart, stack.stacked])
def test_a_vocabulary_grows_and_slots_and_moments_follow(layout):
  old = model(SOME)
  new = model((*SOME, TAGS), rows={'item': 40, 'user': 30}, layout=layout)
  where = np.full(30, -1)
  where[[0, 5, 7]] = 0, 11, 3
  state, columns = trained(old), batch((*SOME, TAGS))
  there = columns | {'user': np.where(columns['user'] % 2, 7, 5).astype('i')}
  columns['user'] = np.where(columns['user'] % 2, 3, 11).astype('i')
  grown, report = grow.grow(state, old, new, RECIPE, seed=9, moved={'user': where})
  same(logits(new, grown, there), logits(old, state, columns))
  tables = stack.unpack(new.layout, grown.tables)
  sums = stack.unpack(new.layout, {n: x['sum'] for n, x in grown.slots.items()})
  drawn = stack.unpack(new.layout, state_lib.drawn(new, jax.random.key(9)))
  for found, was in ((tables, state.tables), (sums, {n: x['sum'] for n, x in state.slots.items()})):
    np.testing.assert_array_equal(found['item'][:20], was['item'])
    np.testing.assert_array_equal(
      found['user'][jnp.array([0, 5, 7])], was['user'][jnp.array([0, 11, 3])]
    )
    np.testing.assert_array_equal(found['price'], was['price'])
  same(tables['item'][20:], drawn['item'][20:])
  assert not sums['item'][20:].any() and not sums['tags'].any()
  # Adam's moments of the net, of the fields that stay; its count goes on.
  adam, was = grown.opt[0], state.opt[0]
  np.testing.assert_array_equal(adam.count, was.count)
  moments = adam.mu['net']['mlp']['layer_0']['kernel']
  np.testing.assert_array_equal(moments[: 3 * DIM], was.mu['net']['mlp']['layer_0']['kernel'])
  assert not moments[3 * DIM :].any()
  assert [report.of(n).optimizer for n in ('user', 'tags', 'optimizer')] == [
    'enlarged',
    'fresh',
    '-',
  ]
  assert grown.step == 5
  jax.block_until_ready(stepped(new, grown, there))
