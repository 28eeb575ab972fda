"""Composition: rules over tables, chains, and technique descriptions through JSON."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax import compress
from ctr_jax.compress import codec as codec_lib
from ctr_jax.tables import gather, leaf
from tests.compress.techniques import LAST, TECHNIQUES

FULL = leaf.Leaf((40, 6), init=leaf.normal(0.5))


def tables(*names):
  return {name: leaf.Leaf((40 + i, 6)) for i, name in enumerate(names)}


def values(rows, cols=6, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, cols)), jnp.float32)


def read(codec, stored, ids, **context):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)), **context)


def test_the_first_rule_wins():
  rules = [
    ('item', compress.hash_trick(5)),
    ('i.*', compress.hash_trick(7)),
    ('.*', compress.identity()),
  ]
  plan = compress.bind(tables('item', 'items', 'user'), rules).plan
  assert {p: x.rows for p, x in leaf.flatten(plan).items()} == {
    'item/way_0': 5, 'items/way_0': 7, 'user': 42,
  }  # fmt: skip


def test_a_rule_has_to_match_the_whole_name():
  # 'item' is no rule for 'item_id', at either end.
  for pattern in ('item', 'id', 'tem_i'):
    with pytest.raises(
      ValueError, match=rf"No rule covers the table 'item_id' \(rules: '{pattern}'"
    ):
      compress.bind(tables('item_id'), [(pattern, compress.identity())])
  # Alternatives are whole names too, not 'user' or anything that ends in '_id'.
  rules = [('user|item_id', compress.hash_trick(5)), ('.*', compress.identity())]
  plan = compress.bind(tables('user', 'user_id', 'item_id'), rules).plan
  assert sorted(leaf.flatten(plan)) == ['item_id/way_0', 'user/way_0', 'user_id']


def test_every_table_has_to_be_covered():
  with pytest.raises(ValueError, match=r"'user' .*End the rules with \('\.\*', identity\(\)\)"):
    compress.bind(tables('item', 'user'), [('item', compress.identity())])
  with pytest.raises(ValueError, match='No rule covers'):
    compress.bind(tables('item'), [])


def test_an_error_names_the_table():
  wide = compress.multi_hash(5, ways=7, combine='concat')
  with pytest.raises(ValueError, match="Table 'user': multi_hash: 7 ways cannot share out 6"):
    compress.bind(tables('item', 'user'), [('user', wide), ('.*', compress.identity())])


def test_a_bound_codec_is_its_parts():
  parts = {
    'a': TECHNIQUES['multi_hash_sum'],
    'b': compress.drop(),
    'c': TECHNIQUES['int_quantize_8'],
  }
  codec = compress.bind(tables(*parts), list(parts.items()))
  trained = {'a': values(40, seed=1), 'b': values(41, seed=2), 'c': values(42, seed=3)}
  stored = codec.encode(trained)
  ids = {'a': np.int32([0, 39]), 'b': np.int32([7]), 'c': np.int32([[41]])}
  found = read(codec, stored, ids)
  assert found['b'] is None
  for name in ('a', 'c'):
    alone = parts[name](tables(*parts)[name])
    want = read(alone, alone.encode(trained[name]), ids[name])
    np.testing.assert_array_equal(found[name], want)
  # Any subset can be addressed and decoded.
  part = codec.address({'c': ids['c']})
  assert part.keys() == {'c'}
  some = codec.decode({'c': gather.gather(codec.plan['c'], stored['c'], part['c'])})
  np.testing.assert_array_equal(some['c'], found['c'])


def random_technique():
  """Adds a draw of its key, one for each read, as stochastic techniques do."""

  def build(full):
    def decode(rows, *, train=False, rng=None, **context):
      del context
      return rows + jax.random.uniform(rng, rows.shape) if train else rows

    return codec_lib.Codec(full, lambda x: x, lambda ids: ids, decode)

  return compress.Technique('noise', {}, build)


def test_each_table_draws_its_own_randomness():
  noise = compress.chain(random_technique(), compress.identity())
  codec = compress.bind({'a': FULL, 'b': FULL}, [('.*', noise)])
  zeros = {'a': jnp.zeros((3, 6)), 'b': jnp.zeros((3, 6))}
  found = codec.decode(zeros, train=True, rng=jax.random.key(0), step=jnp.int32(1))
  assert not np.array_equal(found['a'], found['b'])
  # Which does not change with the company that a table keeps.
  alone = codec.decode({'b': zeros['b']}, train=True, rng=jax.random.key(0), step=jnp.int32(1))
  np.testing.assert_array_equal(alone['b'], found['b'])
  np.testing.assert_array_equal(codec.decode(zeros, train=False)['a'], 0)


def test_drop_stores_nothing():
  codec = compress.bind(tables('a', 'b'), [('a', compress.drop()), ('.*', compress.identity())])
  assert codec.plan['a'] == {}
  assert leaf.nbytes(codec.plan['a']) == 0
  assert leaf.nbytes(codec.plan) == 41 * 6 * 4
  stored = codec.encode({'a': values(40), 'b': values(41)})
  assert stored['a'] == {}
  assert codec.address({'a': np.int32([3])}) == {'a': {}}
  assert codec.decode({'a': {}}) == {'a': None}


@pytest.mark.parametrize('name', TECHNIQUES)
def test_nothing_follows_drop(name):
  with pytest.raises(ValueError, match=r'cannot follow drop\(\): no table is left.*Put it earlier'):
    compress.chain(compress.drop(), TECHNIQUES[name])(FULL)


@pytest.mark.parametrize('name', sorted(TECHNIQUES.keys() - LAST))
def test_drop_at_the_end_of_a_chain_drops_or_is_refused(name):
  try:
    codec = compress.chain(TECHNIQUES[name], compress.drop())(FULL)
  except ValueError:
    return
  assert leaf.nbytes(codec.plan) == 0
  assert read(codec, codec.encode(values(40)), np.int32([1, 2])) is None


def test_an_error_shows_the_chain_so_far():
  links = compress.hash_trick(5), compress.int_quantize(8), compress.cast('float16')
  with pytest.raises(
    ValueError,
    match=r'cast\(dtype=float16, rounding=nearest\) cannot follow '
    r'hash_trick\(buckets=5, seed=0\) → int_quantize\(bits=8, offset=True\): no table is left',
  ):
    compress.chain(*links)(FULL)


def test_a_chain_of_nothing_is_the_identity():
  assert compress.chain()(FULL).plan == FULL


def test_leaves_that_are_no_tables_pass_through_a_chain():
  codec = compress.chain(TECHNIQUES['multi_hash_weights'], compress.int_quantize(8))(FULL)
  plan = leaf.flatten(codec.plan)
  parts = [f'way_{way}/{part}' for way in (0, 1) for part in ('code', 'offset', 'scale')]
  assert sorted(plan) == [*parts, 'weights']
  assert codec.address(np.int32([3]))['weights'] is compress.WHOLE
  assert plan['weights'].dtype == jnp.float32


def test_a_technique_takes_only_tables():
  with pytest.raises(ValueError, match=r"takes a table with axes \('row', 'col'\), got \('row',\)"):
    compress.identity()(leaf.Leaf((40,), axes=('row',)))


def test_huge_plans_cost_nothing():
  # A trillion parameters: descriptions only.
  full = leaf.Leaf((2_000_000_000, 512))
  codec = compress.bind({'item': full}, [('.*', compress.chain(compress.multi_hash(1 << 20)))])
  assert leaf.nbytes(codec.plan) == 2 * (1 << 20) * 512 * 4
  assert max(codec.address({'item': np.int32([1_999_999_999])})['item']['way_0']) < 1 << 20


@pytest.mark.parametrize('name', TECHNIQUES)
def test_descriptions_survive_json(name):
  technique = compress.chain(compress.identity(), compress.chain(TECHNIQUES[name]))
  text = json.dumps(compress.describe({'rules': [['.*', technique]]}))
  (rule,) = compress.restore(json.loads(text), compress.TECHNIQUES)['rules']
  pattern, again = rule
  assert pattern == '.*'
  assert str(again) == str(technique)
  assert json.dumps(compress.describe({'rules': [rule]})) == text
  one, two = leaf.flatten(technique(FULL).plan), leaf.flatten(again(FULL).plan)
  assert {p: (x.shape, x.dtype, x.axes) for p, x in one.items()} == {
    p: (x.shape, x.dtype, x.axes) for p, x in two.items()
  }
  ids = np.arange(40, dtype=np.int32)
  wanted = leaf.flatten(technique(FULL).address(ids))
  for path, index in leaf.flatten(again(FULL).address(ids)).items():
    if index is not compress.WHOLE:
      np.testing.assert_array_equal(index, wanted[path])


def test_drop_survives_json():
  text = json.dumps(compress.describe(compress.drop()))
  assert compress.restore(json.loads(text), compress.TECHNIQUES)(FULL).plan == {}


def test_a_description_says_all_arguments_so_that_defaults_may_change():
  assert compress.describe(compress.multi_hash(7)) == {
    'technique': 'multi_hash',
    'arguments': {'buckets': 7, 'ways': 2, 'combine': 'sum', 'shared': False, 'seed': 0},
  }


def test_unknown_techniques_are_refused():
  with pytest.raises(ValueError, match=r"Unknown technique 'zip'; known are .*cast, .*drop, "):
    compress.restore({'technique': 'zip', 'arguments': {}}, compress.TECHNIQUES)


def test_wrong_settings_are_refused_where_they_are_written():
  with pytest.raises(TypeError, match='ways_'):
    compress.multi_hash(7, ways_=2)
