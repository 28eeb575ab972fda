"""Ranges: each id reads its own part and nothing of the others, in values and in updates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.tables import gather, leaf, stack

FULL = leaf.Leaf((50, 4), init=leaf.normal(0.5))
IDS = np.arange(50, dtype=np.int32)
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(50, 4)), jnp.float32)
PARTS = (compress.identity(), compress.hash_trick(7), compress.quotient_remainder(5))


def read(codec, stored, ids=IDS):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


def test_each_range_is_its_part():
  codec = compress.partition((0, 10, 30), PARTS)(FULL)
  found = read(codec, codec.encode(TABLE))
  for part, start, end in zip(PARTS, (0, 10, 30), (10, 30, 50), strict=True):
    alone = part(dataclasses.replace(FULL, shape=(end - start, 4)))
    want = read(alone, alone.encode(TABLE[start:end]), np.arange(end - start, dtype=np.int32))
    np.testing.assert_array_equal(found[start:end], want)


@given(ids=st.lists(st.integers(0, 49), min_size=1, max_size=30))
def test_an_id_reads_nothing_of_other_parts(ids):
  codec = compress.partition((0, 10, 30), PARTS)(FULL)
  ids = np.asarray(ids, np.int32)
  found, plan = leaf.flatten(codec.address(ids)), leaf.flatten(codec.plan)
  for path, index in found.items():
    if path == 'which':
      continue
    start, end = {'part_0': (0, 10), 'part_1': (10, 30), 'part_2': (30, 50)}[path.split('/')[0]]
    outside = (ids < start) | (ids >= end)
    np.testing.assert_array_equal(index == plan[path].rows, outside)


def test_one_part_is_that_part():
  for part in PARTS:
    codec, alone = compress.partition((0,), (part,))(FULL), part(FULL)
    np.testing.assert_array_equal(
      read(codec, codec.encode(TABLE)), read(alone, alone.encode(TABLE))
    )


def test_parts_beyond_the_table_are_empty():
  codec = compress.hot_cold(60, compress.hash_trick(5))(FULL)
  assert leaf.flatten(codec.plan).keys() == {'part_0', 'which'}
  np.testing.assert_array_equal(read(codec, codec.encode(TABLE)), TABLE)


def test_a_dropped_tail_is_zero():
  codec = compress.hot_cold(20, compress.drop())(FULL)
  found = read(codec, codec.encode(TABLE))
  np.testing.assert_array_equal(found[:20], TABLE[:20])
  np.testing.assert_array_equal(found[20:], 0)


def test_hot_cold_and_double_hash_are_partitions():
  tail = compress.multi_hash(6, 2)
  same = [
    compress.double_hash_by_frequency(8, 6),
    compress.hot_cold(8, tail),
    compress.partition((0, 8), (compress.identity(), tail)),
  ]
  found = [read(x(FULL), x(FULL).encode(TABLE)) for x in same]
  np.testing.assert_array_equal(found[0], found[1])
  np.testing.assert_array_equal(found[1], found[2])


@pytest.mark.parametrize('layout', [stack.apart, stack.stacked])
def test_rows_of_other_parts_are_not_touched(layout):
  tables = {'a': FULL, 'b': FULL}
  codec = compress.bind(tables, [('.*', compress.hot_cold(20, compress.hash_trick(7)))])
  placed = layout(codec.plan)
  ids = {'a': np.int32([1, 2, 2]), 'b': np.int32([30, 3, 3])}
  index = stack.shift(placed, codec.address(ids))
  unique, inverse = stack.deduplicate(placed, index)
  touched = {n: x[x < placed.arrays[n].rows] for n, x in unique.items()}
  whole = {p: (placed.place[p].array, placed.place[p].offset) for p in index}
  for path, want in {
    'a/part_0': [1, 2], 'a/part_1/way_0': [], 'b/part_0': [3],
    'b/part_1/way_0': [compress.hash_trick(7)(FULL).address(np.int32([10]))['way_0'][0]],
  }.items():  # fmt: skip
    name, offset = whole[path]
    rows = placed.leaves[path].rows
    own = [r - offset for r in touched[name].tolist() if offset <= r < offset + rows]
    assert own == want
    np.testing.assert_array_equal(unique[name][inverse[path]], index[path])


def test_penalties_of_parts_are_weighed_by_their_rows():
  def priced(price):
    part = compress.identity()
    build = lambda x: part(x)._replace(penalty=lambda rows, **context: jnp.float32(price))  # noqa: E731
    return dataclasses.replace(part, build=build)

  codec = compress.partition((0, 10), (priced(1.0), priced(2.0)))(FULL)
  rows = gather.gather(codec.plan, codec.encode(TABLE), codec.address(IDS))
  assert float(codec.penalty(rows, step=0)) == pytest.approx((10 * 1 + 40 * 2) / 50)
  chained = compress.chain(compress.partition((0, 10), (priced(1.0), priced(2.0))), priced(4.0))
  codec = chained(FULL)
  rows = gather.gather(codec.plan, codec.encode(TABLE), codec.address(IDS))
  assert float(codec.penalty(rows, step=0)) == pytest.approx(1.8 + 2 * 4)
  bound = compress.bind({'a': FULL, 'b': FULL}, [('a', chained), ('b', compress.identity())])
  assert float(bound.penalty({'a': rows, 'b': TABLE}, step=0)) == pytest.approx(9.8)
  assert compress.bind({'b': FULL}, [('b', compress.identity())]).penalty is None


def test_gradients_reach_the_own_part_alone():
  codec = compress.hot_cold(20, compress.identity())(FULL)
  stored = codec.encode(TABLE)
  at = codec.address(np.int32([3, 40]))

  def objective(floats):
    rows = gather.gather(codec.plan, floats | {'which': stored['which']}, at)
    return jnp.sum(codec.decode(rows))

  found = jax.grad(objective)({k: stored[k] for k in ('part_0', 'part_1')})
  assert np.flatnonzero(found['part_0'].any(axis=1)).tolist() == [3]
  assert np.flatnonzero(found['part_1'].any(axis=1)).tolist() == [20]


def test_prices_of_single_rows_are_refused():
  part = compress.prune('row', decay=0.1)
  with pytest.raises(ValueError, match='threshold per table or per column'):
    compress.partition((0, 10), (compress.identity(), part))(FULL)


@pytest.mark.parametrize(
  'link',
  [compress.hash_trick(3), compress.memcom(3), compress.quotient_remainder(3), compress.robe(20)],
)
def test_a_chain_behind_it_reads_nothing_either(link):
  codec = compress.chain(compress.hot_cold(20, compress.identity()), link)(FULL)
  ids = np.int32([3, 40])
  for address in (codec.address(ids), codec.address(jnp.asarray(ids))):
    found, plan = leaf.flatten(address), leaf.flatten(codec.plan)
    for path, index in found.items():
      if path != 'which':
        nothing = np.asarray(index) == plan[path].rows
        assert nothing[0 if path.startswith('part_1') else 1].all(), path
        assert not nothing[1 if path.startswith('part_1') else 0].any(), path


@pytest.mark.parametrize('starts', [(), (1, 5), (0, 0), (0, 9, 5), (0, 5, 9)])
def test_bad_ranges(starts):
  with pytest.raises(ValueError, match='ascend from 0 and a part for each'):
    compress.partition(starts, PARTS[:2])
  with pytest.raises(ValueError, match='at least one hot row'):
    compress.hot_cold(0, PARTS[0])


def test_prices_of_rows_are_refused_after_parts_as_inside_of_them():
  prices = compress.prune('row')
  parts = compress.partition((0, 5), (compress.identity(), compress.identity()))
  with pytest.raises(ValueError, match='prices the rows that are read'):
    compress.partition((0, 5), (prices, compress.identity()))(FULL)
  for links in ((parts, prices), (compress.multi_hash(20, 2), parts, prices)):
    with pytest.raises(ValueError, match='cannot follow a partition'):
      compress.chain(*links)(FULL)
  for links in ((prices, parts), (parts, compress.prune('table'))):
    compress.chain(*links)(FULL)
