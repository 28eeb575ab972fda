"""Stacking, as laws: whatever the plan, the layouts hold the same rows under other addresses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax.tables import gather, leaf, stack

# Few kinds, so that leaves often agree: (columns, dtype, axes, frozen).
KINDS = [
  (2, jnp.float32, leaf.TABLE, False),
  (2, jnp.float16, leaf.TABLE, False),
  (3, jnp.float32, leaf.TABLE, False),
  (2, jnp.float32, leaf.TABLE, True),
  (2, jnp.uint8, ('row', 'byte'), True),
  (None, jnp.float32, ('row',), False),
  (None, jnp.float32, ('way',), False),
]


def build(kind, rows):
  cols, dtype, axes, frozen = KINDS[kind]
  return leaf.Leaf((rows,) if cols is None else (rows, cols), dtype, axes, frozen=frozen)


NAMES = st.sampled_from(['a', 'b', 'c', 'item', 'user', 'stack_0', 'stack_1'])
LEAVES = st.builds(build, st.integers(0, len(KINDS) - 1), st.sampled_from([1, 4]))
PLANS = st.dictionaries(NAMES, LEAVES | st.dictionaries(NAMES, LEAVES, max_size=2), min_size=1)
layouts = pytest.mark.parametrize('make', [stack.apart, stack.stacked])


def arrays_of(plan, seed=0):
  """Small integers, which every dtype holds."""
  rng = np.random.default_rng(seed)
  flat = leaf.flatten(plan)
  return {p: rng.integers(0, 250, x.shape).astype(x.dtype) for p, x in flat.items()}


def addresses(plan, reads=4, seed=0):
  rng = np.random.default_rng(seed)
  return {
    p: rng.integers(0, x.rows, reads).astype(np.int32) if x.by_row else ...
    for p, x in leaf.flatten(plan).items()
  }


@layouts
@given(plan=PLANS)
def test_every_leaf_has_a_place_of_its_own(make, plan):
  layout, flat = make(plan), leaf.flatten(plan)
  assert layout.leaves == flat
  assert layout.place.keys() == flat.keys()
  taken = {name: np.zeros(described.rows, int) for name, described in layout.arrays.items()}
  for path, place in layout.place.items():
    described, held = layout.arrays[place.array], flat[path]
    assert place.rows == held.rows
    taken[place.array][place.offset : place.offset + place.rows] += 1
    # What a row is, how it is read and whether it moves are the same in both.
    for what in ('dtype', 'axes', 'frozen', 'load', 'store'):
      assert getattr(described, what) == getattr(held, what)
    assert described.shape[1:] == held.shape[1:]
  assert all((count == 1).all() for count in taken.values())
  assert sum(x.nbytes for x in layout.arrays.values()) == leaf.nbytes(plan)


@layouts
@given(plan=PLANS)
def test_unpack_inverts_pack(make, plan):
  layout, flat = make(plan), arrays_of(plan)
  packed = stack.pack(layout, {p: jnp.asarray(x) for p, x in flat.items()})
  assert {n: (x.shape, x.dtype) for n, x in packed.items()} == {
    n: (x.shape, jnp.dtype(x.dtype)) for n, x in layout.arrays.items()
  }
  back = stack.unpack(layout, packed)
  assert back.keys() == flat.keys()
  for path in flat:
    np.testing.assert_array_equal(back[path], flat[path])


@layouts
@given(plan=PLANS)
def test_shifted_addresses_read_the_same_rows(make, plan):
  layout, flat = make(plan), arrays_of(plan)
  packed = stack.pack(layout, {p: jnp.asarray(x) for p, x in flat.items()})
  found = addresses(plan)
  shifted = stack.shift(layout, leaf.unflatten(plan, found))
  assert shifted.keys() == {p for p, x in leaf.flatten(plan).items() if x.by_row}
  for path, index in shifted.items():
    assert index.dtype == np.int32
    np.testing.assert_array_equal(
      np.asarray(packed[layout.place[path].array])[index], flat[path][found[path]]
    )


@layouts
@given(plan=PLANS, shape=st.sampled_from([(6,), (2, 3), (0,)]))
def test_deduplicated_reads_are_the_reads(make, plan, shape):
  layout = make(plan)
  size = int(np.prod(shape))
  index = stack.shift(layout, leaf.unflatten(plan, addresses(plan, size)))
  index = {p: x.reshape(shape) for p, x in index.items()}
  unique, inverse = stack.deduplicate(layout, index)
  assert inverse.keys() == index.keys()
  reads = {}
  for path, where in inverse.items():
    name = layout.place[path].array
    np.testing.assert_array_equal(unique[name][where], index[path])
    reads.setdefault(name, []).append(index[path].ravel())
  assert unique.keys() == reads.keys()
  for name, parts in reads.items():
    rows, joined = layout.arrays[name].rows, np.concatenate(parts)
    distinct = np.unique(joined)
    assert unique[name].shape == (min(joined.size, rows + 1),)
    np.testing.assert_array_equal(unique[name][: distinct.size], distinct)
    assert (unique[name][distinct.size :] == rows).all()


def test_leaves_that_agree_share_an_array_and_others_do_not():
  gate = leaf.Leaf((2,), axes=('way',))
  plan = {
    'a': leaf.Leaf((3, 2)),
    'b': {'way_0': leaf.Leaf((4, 2), init=leaf.constant(1.0)), 'weights': gate},
    'c': leaf.Leaf((5, 2), jnp.float16),
    'd': leaf.Leaf((1, 2)),
    'e': {'weights': gate},
    'f': leaf.Leaf((1, 2), load=lambda rows: -rows),
  }  # fmt: skip
  layout = stack.stacked(plan)
  groups = {}
  for path, place in layout.place.items():
    groups.setdefault(place.array, []).append((path, place.offset))
  assert sorted(groups.values()) == [
    [('a', 0), ('b/way_0', 3), ('d', 7)],
    [('b/weights', 0)],
    [('c', 0)],
    [('e/weights', 0)],
    [('f', 0)],
  ]
  assert stack.apart(plan).arrays == leaf.flatten(plan)


def test_a_table_may_be_called_as_a_stack_would_be():
  plan = {'a': leaf.Leaf((3, 2)), 'b': leaf.Leaf((4, 2)), 'stack_0': leaf.Leaf((5, 8))}
  layout = stack.stacked(plan)
  assert sum(x.nbytes for x in layout.arrays.values()) == leaf.nbytes(plan)


def test_a_stack_that_int32_cannot_index_is_not_made():
  plan = {name: leaf.Leaf((1_500_000_000, 2)) for name in 'ab'}
  try:
    layout = stack.stacked(plan)
  except ValueError:
    return  # Refused in words is as good as kept apart.
  assert max(x.rows for x in layout.arrays.values()) < 2**31


def test_slots_pack_as_their_tables_do():
  plan = {'a': leaf.Leaf((3, 2)), 'b': leaf.Leaf((4, 2))}
  layout = stack.stacked(plan)
  (name,) = layout.arrays
  sums = stack.pack(layout, {'a': jnp.arange(3.0), 'b': jnp.arange(4.0)})
  np.testing.assert_array_equal(sums[name], [0, 1, 2, 0, 1, 2, 3])
  np.testing.assert_array_equal(stack.unpack(layout, sums)['b'], np.arange(4.0))


def test_deduplicates_on_the_device_too():
  plan = {name: dataclasses.replace(leaf.Leaf((rows, 2))) for name, rows in (('a', 5), ('b', 9))}
  layout = stack.stacked(plan)
  index = stack.shift(layout, {'a': np.int32([4, 4, 0]), 'b': np.int32([8, 0, 8])})
  host = stack.deduplicate(layout, index)

  @jax.jit
  def on_device(index):
    return stack.deduplicate(layout, index, gather.deduplicate_on_device)

  device = on_device(index)
  for one, other in zip(jax.tree.leaves(host), jax.tree.leaves(device), strict=True):
    np.testing.assert_array_equal(one, other)
