"""Trained tables into another form: what cannot be held is refused, and links can be appended."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax import compress
from ctr_jax.tables import gather, leaf

TABLES = {'item': leaf.Leaf((40, 6), init=leaf.normal(0.5)), 'user': leaf.Leaf((30, 6))}
IDS = {'item': np.arange(40, dtype=np.int32), 'user': np.arange(30, dtype=np.int32)}


def trained(seed=0):
  rng = np.random.default_rng(seed)
  return {n: jnp.asarray(rng.normal(size=x.shape), jnp.float32) for n, x in TABLES.items()}


def read(codec, stored, ids=None):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(IDS if ids is None else ids)))


def bind(technique):
  return compress.bind(TABLES, [('.*', technique)])


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_a_diverged_table_is_refused_by_its_name(bad):
  tables = trained()
  tables['user'] = tables['user'].at[3, 2].set(bad).at[4, 4].set(bad)
  with pytest.raises(
    ValueError, match='2 of 180 values of user: is not finite before it is encoded'
  ):
    compress.encode(bind(compress.int_quantize(8)), tables)


@pytest.mark.parametrize(
  'technique, value, name',
  [
    (compress.cast('float16'), 7e4, 'item'),
    (compress.chain(compress.multi_hash(7), compress.cast('float16')), 1e7, 'item/way_0'),
    (compress.int_quantize(8), -7e4, 'item/offset'),
    (compress.int_quantize(2), 3e5, 'item/scale'),
  ],
)
def test_overflow_is_refused_by_the_name_of_the_array(technique, value, name):
  tables = trained()
  tables['item'] = tables['item'].at[0].multiply(1e-3).at[0, 0].set(value)
  with pytest.raises(ValueError, match=f'values of {name}: overflows .* use bfloat16, or clip'):
    compress.encode(bind(technique), tables)


def test_bfloat16_holds_what_float16_cannot():
  tables = trained()
  tables['item'] = tables['item'].at[0, 0].set(7e4)
  stored = compress.encode(bind(compress.cast('bfloat16')), tables)
  assert abs(float(stored['item'][0, 0]) / 7e4 - 1) < 2.0**-8


def test_a_table_alone_is_named_in_words():
  with pytest.raises(ValueError, match='1 of 240 values of the table'):
    compress.encode(compress.identity()(TABLES['item']), trained()['item'].at[0, 0].set(jnp.nan))


def test_encode_is_the_codecs():
  codec = bind(compress.chain(compress.multi_hash(11), compress.int_quantize(8)))
  made, want = compress.encode(codec, trained()), jax.jit(codec.encode)(trained())
  assert jax.tree.structure(made) == jax.tree.structure(want)
  for one, other in zip(jax.tree.leaves(made), jax.tree.leaves(want), strict=True):
    np.testing.assert_array_equal(one, other)


BEFORE = {
  'identity': compress.identity(),
  'hash_trick': compress.hash_trick(11),
  'multi_hash': compress.multi_hash(11, combine='weights'),
  'shared': compress.multi_hash(11, shared=True),
  'quotient_remainder': compress.quotient_remainder(7),
  'cast': compress.cast('float16'),
}


@pytest.mark.parametrize('name', BEFORE)
@pytest.mark.parametrize('link', [compress.int_quantize(4), compress.cast('float16')], ids=str)
def test_one_more_link_after_training(name, link):
  rules = [('user', compress.drop()), ('.*', BEFORE[name])]
  before = compress.bind(TABLES, rules)
  # What training leaves, which no full table encodes to.
  stored = leaf.init(before.plan, jax.random.key(0))
  stored = jax.tree.map(lambda x: x + jnp.ones((), x.dtype) / 3, stored)
  after = compress.bind(TABLES, compress.appended(rules, link))
  found = compress.extend(before.plan, stored, link)

  described = leaf.flatten(after.plan)
  assert {p: (x.shape, x.dtype) for p, x in leaf.flatten(found).items()} == {
    p: (x.shape, x.dtype) for p, x in described.items()
  }
  assert sum(x.nbytes for x in jax.tree.leaves(found)) == leaf.nbytes(after.plan)
  # Every table among the leaves is what the link alone makes of it; the rest is as it was.
  by_hand = {}
  for path, part in leaf.flatten(before.plan).items():
    array = leaf.flatten(stored)[path]
    if part.is_table:
      codec = link(part)
      ids = np.arange(part.rows, dtype=np.int32)
      array = codec.decode(gather.gather(codec.plan, codec.encode(array), codec.address(ids)))
    by_hand[path] = array
  want = read(
    before, leaf.unflatten(before.plan, by_hand), {'item': IDS['item'], 'user': IDS['user']}
  )
  vectors = read(after, found)
  assert vectors['user'] is None
  np.testing.assert_allclose(vectors['item'], want['item'], rtol=1e-6, atol=1e-6)


def test_extending_a_full_table_is_encoding_the_chain():
  link = compress.int_quantize(8)
  found = compress.extend(TABLES, trained(), link)
  want = compress.encode(bind(link), trained())
  for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
    np.testing.assert_array_equal(one, other)


def test_extend_refuses_what_the_link_cannot_hold():
  tables = trained()
  tables['user'] = tables['user'].at[0, 0].set(7e4)
  with pytest.raises(ValueError, match='1 of 180 values of user: overflows'):
    compress.extend(TABLES, tables, compress.cast('float16'))


def test_appended_leaves_dropped_tables_dropped():
  rules = [('user', compress.drop()), ('.*', compress.hash_trick(5))]
  plan = compress.bind(TABLES, compress.appended(rules, compress.int_quantize(4))).plan
  assert plan['user'] == {}
  assert sorted(plan['item']['way_0']) == ['code', 'offset', 'scale']
