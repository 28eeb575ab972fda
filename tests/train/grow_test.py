"""States grown to other features, vocabularies and techniques."""

import jax
import numpy as np
import optax
import pytest

from ctr_jax import compress, models, predict
from ctr_jax.data import schema as schema_lib
from ctr_jax.data import synthetic
from ctr_jax.evaluate import evaluate
from ctr_jax.tables import rowwise, stack
from ctr_jax.train import checkpoint, grow, loop
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib
from tests.train.grow_cases import (
  ALL,
  DIM,
  ITEM,
  PRICE,
  RECIPE,
  SHOP,
  SOME,
  TAGS,
  USER,
  batch,
  logits,
  model,
  same,
  stepped,
  trained,
  without,
)


def kernel(state):
  """Of the MLP's first layer, a row for each column of the vectors."""
  return np.asarray(state.net['params']['mlp']['layer_0']['kernel'])


def test_a_feature_comes_and_logits_stay():
  features = (USER, TAGS, ITEM, PRICE)
  old, new = model(SOME), model(features)
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
  assert kernel(first)[DIM : 2 * DIM].any(axis=1).all()
  np.testing.assert_array_equal(first.tables['tags'], grown.tables['tags'])
  second = stepped(new, first, columns)
  read = np.unique(np.where(columns['tags'] >= 0, columns['tags'], 0))
  assert (second.tables['tags'] != grown.tables['tags']).any(axis=1)[read].all()


@pytest.mark.long
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
  same(logits(new, grown, columns), logits(old, without(state, 'tags'), columns))
  assert report.of('tags')[:4] == ('tags', 'dropped', '9', '-')
  assert 'tags' not in grown.tables


@pytest.mark.parametrize(
  'layout', [pytest.param(stack.apart, marks=pytest.mark.long), stack.stacked]
)
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
      found['user'][np.array([0, 5, 7])], was['user'][np.array([0, 11, 3])]
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


def test_dense_moments_of_tables_follow():
  recipe = state_lib.Recipe(optax.adam(1e-2))
  old = model(SOME)
  new = model((TAGS, USER, ITEM), rows={'item': 30}, layout=stack.stacked)
  state = trained(old, recipe)
  grown, report = grow.grow(state, old, new, recipe, seed=9)
  assert report.of('item')[:5] == ('item', 'enlarged', '20', '30', 'enlarged')
  for moment in ('mu', 'nu'):
    found = stack.unpack(new.layout, getattr(grown.opt[0], moment)['tables'])
    was = getattr(state.opt[0], moment)['tables']
    np.testing.assert_array_equal(found['item'][:20], was['item'])
    np.testing.assert_array_equal(found['user'], was['user'])
    assert not found['item'][20:].any() and not found['tags'].any()


def test_rows_that_are_dealt_to_lanes_are_dealt_anew():
  def dealt(plan):
    return stack.dealt(stack.apart(plan), ['item', 'user'], 8)

  old, new = model(SOME, layout=dealt), model(SOME, rows={'item': 37}, layout=dealt)
  apart = model(SOME, rows={'item': 37})
  state = trained(old)
  grown, _ = grow.grow(state, old, new, RECIPE, seed=9)
  wanted, _ = grow.grow(state, old, apart, RECIPE, seed=9)
  found = stack.unpack(new.layout, grown.tables)
  jax.tree.map(np.testing.assert_array_equal, found, wanted.tables)
  sums = stack.unpack(new.layout, {n: x['sum'] for n, x in grown.slots.items()})
  jax.tree.map(np.testing.assert_array_equal, sums, {n: x['sum'] for n, x in wanted.slots.items()})
  assert grown.tables['item'].shape == (40, DIM)


def test_new_rows_may_go_on_from_the_unseen():
  old, new = model(SOME), model(SOME, rows={'item': 26})
  state = trained(old)
  where = np.append(np.arange(20), np.zeros(6, int))
  grown, _ = grow.grow(state, old, new, RECIPE, seed=9, moved={'item': where})
  before, after = batch(SOME), batch(SOME)
  before['item'][:8], after['item'][:8] = 0, np.arange(18, 26)
  before['item'][:2] = 18, 19
  same(logits(new, grown, after), logits(old, state, before))


LONG = pytest.mark.long
INT8 = compress.int_quantize(8)
HASHED = compress.multi_hash(7)
HASHED_INT8 = compress.chain(HASHED, INT8)


@pytest.mark.parametrize(
  'before, after, exact',
  [
    (compress.identity(), HASHED, False),
    (HASHED, HASHED_INT8, False),
    pytest.param(compress.identity(), INT8, False, marks=LONG),
    pytest.param(compress.identity(), compress.multi_hash(20), True, marks=LONG),
    pytest.param(compress.fscd(1e-3), compress.identity(), True, marks=LONG),
    pytest.param(compress.chain(HASHED, compress.cast('float16')), HASHED, False, marks=LONG),
  ],
)
def test_techniques_are_exchanged(before, after, exact):
  rules = [(('item', x), *ALL) for x in (before, after)]
  old, new = model(SOME, rules=rules[0]), model(SOME, rules=rules[1])
  state, columns = trained(old), batch(SOME)
  grown, report = grow.grow(state, old, new, RECIPE, seed=9)
  row = report.of('item')
  assert row.what == 're-encoded'
  assert row.optimizer == ('-' if after.name != 'identity' and 'int' in str(after) else 'fresh')
  ids = np.arange(20, dtype=np.int32)
  item = {name: x for name, x in state.tables.items() if name.startswith('item')}
  wanted = grow.carry.vectors(old, 'item', item, ids)
  own = {name: x for name, x in grown.tables.items() if name.startswith('item')}
  error = np.abs(grow.carry.vectors(new, 'item', own, ids) - wanted).max()
  if exact:
    same(logits(new, grown, columns), logits(old, state, columns))
    assert 'vectors the same' in row.note
  else:
    assert f'off by up to {error:.1e}' in row.note
  if after.name == 'chain':  # What is stored is quantised as it is, not fitted again.
    assert error < 0.01


def refused(words, old, new, **how):
  with pytest.raises(ValueError, match=words) as caught:
    grow.grow(trained(old), old, new, RECIPE, seed=9, **how)
  return str(caught.value)


def test_what_cannot_be_carried_over_is_named_all_at_once_and_may_be_accepted():
  coded = compress.binary_code(3)
  old = model(SOME, rules=(('item', coded), *ALL))
  new = model((*SOME, SHOP), 'dcn', rules=(('item', coded), *ALL), rows={'item': 90})
  text = refused(r'item: block_0, block_1 became block_0, block_1, block_2', old, new)
  assert 'net: it was DNN(' in text
  assert "accept=['item', 'net']" in text
  state = trained(old)
  grown, report = grow.grow(state, old, new, RECIPE, seed=9, accept=['item', 'net'])
  assert (report.of('item').what, report.of('net').what) == ('re-encoded', 'reset')
  assert report.of('user').what == 'kept'
  logits(new, grown, batch((*SOME, SHOP)))


def test_rows_do_not_move_while_links_are_added():
  old, new = (model((ITEM,), rules=(('item', x), *ALL)) for x in (HASHED, HASHED_INT8))
  backwards = np.append(0, np.arange(19, 0, -1))
  refused('gets other rows and links at the end', old, new, moved={'item': backwards})


def test_what_makes_no_sense_is_refused():
  old = model(SOME)
  refused("'item' had 20 rows and would have 9: say which stay", old, model(SOME, rows={'item': 9}))
  for moved, words in (
    (np.zeros(19, int), 'says for each of 20 new rows'),
    (np.zeros(20), 'float64'),
    (np.full(20, 20), 'has 20; old rows are 0 to 19'),
    (np.append(0, np.full(19, -2)), 'has -2; old rows'),
    (np.arange(1, 21) % 20, 'row 0, missing or unseen, has to stay row 0'),
  ):
    refused(words, old, old, moved={'item': moved})
  refused("moved names \\['shop'\\]", old, old, moved={'shop': np.arange(20)})
  refused(
    'reads vectors otherwise than by weights', model(SOME, 'fm'), model(SOME, 'fm'), zeros='weights'
  )
  refused('item: its rows have 4 columns and would have 6', old, model(SOME, dim=6))
  other = schema_lib.Feature('item', table='user')
  refused("item: it read the table 'item' and would read 'user'", old, model((USER, other, PRICE)))
  second = schema_lib.Feature('previous', table='item')
  refused(
    "previous: it reads the trained table 'item'", model(SOME, 'fm'), model((*SOME, second), 'fm')
  )
  hashed = [schema_lib.Feature('item', kind='hash', buckets=n) for n in (19, 39)]
  models_ = [model((USER, x), rows={'item': x.buckets + 1}) for x in hashed]
  refused("item: buckets of 'item' were 19 and are 39: values have other rows", *models_)
  sgd = state_lib.Recipe(optax.adam(1e-2), rowwise.lazy_adam(0.1))
  with pytest.raises(
    ValueError, match='optimizer: it has no state yet, or one of another form, of item'
  ):
    grow.grow(trained(old), old, old, sgd, seed=9)


def test_a_new_feature_may_read_a_table_that_is_there():
  second = schema_lib.Feature('previous', kind='ids', table='item', width=2)
  old, new = model(SOME), model((*SOME, second))
  state, columns = trained(old), batch((*SOME, second))
  grown, report = grow.grow(state, old, new, RECIPE, seed=9)
  same(logits(new, grown, columns), logits(old, state, columns))
  assert report.of('item').what == 'kept'


def test_a_checkpoint_of_an_old_schema_goes_on(tmp_path):
  old, new = model(SOME), model((*SOME, TAGS), rows={'item': 33})
  state, columns = trained(old), batch((*SOME, TAGS))
  description = {'schema': 'old', 'net': {'name': 'dnn'}}
  saved = checkpoint.Checkpoints(tmp_path, old, description)
  saved.save('best', state, {})
  saved.wait()
  saved.close()
  assert checkpoint.described(tmp_path, 'best') == description
  grown, report = grow.from_checkpoint(
    tmp_path, 'best', description, old, RECIPE, new, RECIPE, seed=9
  )
  same(logits(new, grown, columns), logits(old, state, columns))
  assert report.of('item').what == 'enlarged'
  with pytest.raises(ValueError, match='There is no checkpoint in'):
    grow.from_checkpoint(tmp_path, 'last', description, old, RECIPE, new, RECIPE, seed=9)
  with pytest.raises(ValueError, match=r'made with another schema(.|\n)*train\.grow'):
    grow.from_checkpoint(
      tmp_path, 'best', description | {'schema': 'new'}, old, RECIPE, new, RECIPE, seed=9
    )


@pytest.mark.long
def test_a_run_goes_on_from_another_with_fewer_features(tmp_path):
  source = synthetic.Synthetic(synthetic.small())
  net = models.NETS['dnn'](hidden=(8,))
  rules = [(('tags', compress.drop()), *ALL), ALL]
  old, new = (predict.build(source.schema, source.rows, x, net, DIM) for x in rules)

  def run(built, name, start=None):
    program = step_lib.program(built, RECIPE)

    def validate(state):
      return evaluate.evaluate(built, program.scorer, state.tables, state.net, source, 'valid')

    schedule = loop.Schedule(epochs=1, batch_size=256)
    found = loop.Run(
      built, program, schedule, source, tmp_path / name, {'of': name}, 0, validate, start=start
    )
    return validate, found

  _, first = run(old, 'old')
  before = first.fit()

  def start(state):
    del state
    how = (tmp_path / 'old' / 'checkpoints', 'best', {'of': 'old'}, old, RECIPE, new, RECIPE)
    return grow.from_checkpoint(*how, seed=1)[0]

  validate, second = run(new, 'new', start)
  begun, _ = second.begin()
  assert validate(begun)['auc'] == pytest.approx(before.position.best, abs=1e-6)
  after = second.fit()
  assert after.last.tables.keys() - before.state.tables.keys() == {'tags'}
  assert int(after.last.step) == 2 * int(before.last.step)
