"""The laws of the contract, each over the whole table of techniques."""

import dataclasses
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax import compress
from ctr_jax.compress import codec as codec_lib
from ctr_jax.tables import gather, leaf, rowwise, stack
from tests.compress.techniques import CHAINED, LAST, LOSSLESS, TECHNIQUES, TRAINED

ROWS, COLS = 40, 6
FULL = leaf.Leaf((ROWS, COLS), init=leaf.normal(0.5))

each = pytest.mark.parametrize('name', TECHNIQUES)
trainable = pytest.mark.parametrize('name', sorted(TRAINED))


@pytest.fixture(autouse=True, scope='module')
def _compiled_code_is_dropped():
  # The laws compile a thousand programs, which the tests after them need not keep in memory.
  yield
  jax.clear_caches()


def table(seed=0, rows=ROWS, cols=COLS):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(rows, cols)), jnp.float32)


def paths(tree):
  return leaf.flatten(tree)


def read(codec, stored, ids, **context):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)), **context)


@each
def test_plan_is_what_encode_makes(name):
  codec = TECHNIQUES[name](FULL)
  made = jax.eval_shape(codec.encode, FULL.struct)
  assert paths(made).keys() == paths(codec.plan).keys()
  for path, described in paths(codec.plan).items():
    assert paths(made)[path].shape == described.shape
    assert paths(made)[path].dtype == described.dtype


@each
def test_plan_is_what_init_makes(name):
  codec = TECHNIQUES[name](FULL)
  arrays = paths(leaf.init(codec.plan, jax.random.key(0)))
  assert leaf.nbytes(codec.plan) == sum(x.nbytes for x in arrays.values())
  assert {p: (x.shape, x.dtype) for p, x in arrays.items()} == {
    p: (x.shape, x.dtype) for p, x in paths(codec.plan).items()
  }


@each
def test_bytes_of_the_plan_are_bytes_on_disk(name, tmp_path):
  codec = TECHNIQUES[name](FULL)
  stored = codec.encode(table())
  on_disk = 0
  for i, array in enumerate(paths(stored).values()):
    file = tmp_path / f'{i}.bin'
    file.write_bytes(np.asarray(array).tobytes())
    on_disk += file.stat().st_size
  assert leaf.nbytes(codec.plan) == on_disk


@each
# Few lengths: each compiles.
@hypothesis.given(
  ids=st.sampled_from([1, 7, 50]).flatmap(
    lambda n: st.lists(st.integers(0, ROWS), min_size=n, max_size=n)
  )
)
def test_addresses_are_in_range_and_the_same_from_numpy_and_jax(name, ids):
  codec = TECHNIQUES[name](FULL)
  ids = np.asarray(ids, np.int32)
  host, device = paths(codec.address(ids)), paths(codec.address(jnp.asarray(ids)))
  assert host.keys() == paths(codec.plan).keys()
  for path, described in paths(codec.plan).items():
    if host[path] is codec_lib.WHOLE:
      assert not described.by_row
      continue
    assert host[path].shape[0] == len(ids)
    assert host[path].dtype == np.int32
    assert host[path].min() >= 0
    assert host[path].max() <= described.rows
    np.testing.assert_array_equal(host[path], np.asarray(device[path]))


@each
@pytest.mark.parametrize('shape', [(), (5,), (3, 4)])
def test_decode_restores_shape_and_dtype(name, shape):
  codec = TECHNIQUES[name](FULL)
  ids = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)
  vectors = read(codec, codec.encode(table()), ids)
  assert vectors.shape == (*shape, COLS)
  assert vectors.dtype == jnp.float32


@each
def test_a_read_depends_on_its_own_id_alone(name):
  codec = TECHNIQUES[name](FULL)
  stored = codec.encode(table())
  together = read(codec, stored, np.arange(ROWS, dtype=np.int32))
  alone = jnp.stack([read(codec, stored, np.int32([i]))[0] for i in range(ROWS)])
  # A product of one row may sum in another order than that of many.
  np.testing.assert_allclose(together, alone, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize('name', LOSSLESS)
def test_lossless_corners(name):
  technique, tolerance = LOSSLESS[name]
  codec = technique(FULL)
  x = table()
  found = read(codec, codec.encode(x), np.arange(ROWS, dtype=np.int32))
  np.testing.assert_allclose(found, x, rtol=0, atol=tolerance * 10)


@each
def test_identity_is_the_unit_of_chain(name):
  technique, x = TECHNIQUES[name], table()
  ids = np.arange(ROWS, dtype=np.int32)
  want = read(technique(FULL), technique(FULL).encode(x), ids)
  before = compress.chain(compress.identity(), technique)(FULL)
  np.testing.assert_array_equal(read(before, before.encode(x), ids), want)
  if name not in LAST:
    after = compress.chain(technique, compress.identity())(FULL)
    np.testing.assert_array_equal(read(after, after.encode(x), ids), want)


def compose(*names):
  return compress.chain(*(TECHNIQUES[n] for n in names))


# A twentieth of them soon: each technique with one or two of the others, before and behind it.
PAIRS = [
  pytest.param(x, y, marks=[pytest.mark.long] if (i + j) % 20 else [])
  for (i, x), (j, y) in itertools.product(enumerate(CHAINED), enumerate(CHAINED))
]


@pytest.mark.parametrize('first, second', PAIRS)
def test_every_chain_of_two_holds_or_is_refused_in_words(first, second):
  if first in LAST:
    with pytest.raises(ValueError, match='no table is left for it to work on'):
      compose(first, second)(FULL)
    return
  try:
    codec = compose(first, second)(FULL)
  except ValueError as error:
    # A way of a concatenation can be too narrow to be shared out again.
    assert 'column' in str(error)
    return
  x = table()
  made = jax.eval_shape(codec.encode, FULL.struct)
  want = {p: (y.shape, y.dtype) for p, y in paths(codec.plan).items()}
  assert {p: (y.shape, y.dtype) for p, y in paths(made).items()} == want
  ids = np.arange(ROWS, dtype=np.int32)
  found = read(codec, codec.encode(x), ids)
  assert found.shape == (ROWS, COLS)
  assert found.dtype == jnp.float32
  assert bool(jnp.isfinite(found).all())
  # Not worse than knowing nothing: the mean row.
  error = float(jnp.sum(jnp.square(found - x)))
  assert error <= 1.5 * float(jnp.sum(jnp.square(x - x.mean(axis=0, keepdims=True))))


@pytest.mark.parametrize(
  'names',
  [
    ('multi_hash_sum', 'quotient_remainder_multiply', 'int_quantize_8'),
    ('cast_bfloat16', 'multi_hash_concat', 'hash_trick'),
    ('hash_trick', 'cast_float16', 'int_quantize_4'),
  ],
)
def test_chain_is_associative(names):
  a, b, c = (TECHNIQUES[n] for n in names)
  left = compress.chain(compress.chain(a, b), c)(FULL)
  right = compress.chain(a, compress.chain(b, c))(FULL)
  assert paths(left.plan).keys() == paths(right.plan).keys()
  x, ids = table(), np.arange(ROWS, dtype=np.int32)
  np.testing.assert_array_equal(read(left, left.encode(x), ids), read(right, right.encode(x), ids))


@trainable
@pytest.mark.parametrize('optimizer', [rowwise.sgd(0.1), rowwise.adagrad(0.1, per='element')])
def test_row_sparse_step_is_the_dense_autodiff_step(name, optimizer):
  codec = TECHNIQUES[name](dataclasses.replace(FULL))
  layout = stack.apart(codec.plan)
  stored = paths(leaf.init(codec.plan, jax.random.key(3)))
  ids = np.int32([3, 17, 3, 0, 39, 17, 3, 5])
  target = table(1, len(ids))
  index = stack.shift(layout, codec.address(ids))
  gathered = gather.gather(layout.leaves, stored, {p: index.get(p) for p in stored})
  fixed = {p: x for p, x in gathered.items() if layout.leaves[p].frozen or p not in index}
  index = {p: x for p, x in index.items() if p not in fixed}

  def objective(rows):
    vectors = codec.decode(leaf.unflatten(codec.plan, rows))
    return jnp.sum(jnp.square(vectors - target))

  def dense_objective(arrays):
    reads = {p: x.at[index[p]].get(mode='clip') for p, x in arrays.items()}
    return objective(fixed | reads)

  floats = {p: layout.leaves[p].load(stored[p]) for p in index}
  dense = jax.grad(dense_objective)(floats)
  unique, inverse = stack.deduplicate(layout, index)
  rows = {p: layout.leaves[p].load(gather.rows_of(stored[p], unique[p])) for p in unique}
  sparse = jax.grad(lambda rows: objective(fixed | {p: rows[p][inverse[p]] for p in rows}))(rows)

  for path in unique:
    described = layout.leaves[path]
    slots = {n: x.init(None, x.shape, x.dtype) for n, x in optimizer.slots(described).items()}
    found, _ = rowwise.apply(
      optimizer, described, stored[path], slots, unique[path], rows[path], sparse[path],
      scale=1.0, step=jnp.int32(1),
    )  # fmt: skip
    moved, _ = optimizer.update(floats[path], dense[path], slots, 1.0, jnp.int32(1))
    want = jnp.where(dense[path] == 0, floats[path], moved).astype(found.dtype)
    np.testing.assert_allclose(
      found.astype(jnp.float32), want.astype(jnp.float32), rtol=2e-5, atol=1e-6
    )


@each
def test_sharded_over_eight_devices_is_unsharded(name):
  codec = TECHNIQUES[name](FULL)
  stored = codec.encode(table())
  mesh = jax.make_mesh((8,), ('model',), axis_types=(jax.sharding.AxisType.Auto,))

  def place(described, array):
    rows = described.by_row and described.rows % 8 == 0
    spec = jax.sharding.PartitionSpec(*(['model'] if rows else []))
    return jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))

  sharded = jax.tree.map(place, codec.plan, stored)
  ids = jnp.arange(ROWS, dtype=jnp.int32)
  look_up = jax.jit(lambda stored, ids: read(codec, stored, ids))
  np.testing.assert_allclose(look_up(sharded, ids), look_up(stored, ids), rtol=1e-6, atol=1e-7)


@each
def test_a_second_call_does_not_recompile(name):
  codec, traces = TECHNIQUES[name](FULL), []

  @jax.jit
  def look_up(stored, ids):
    traces.append(ids)  # Counted here: jit's own cache is shared by all tests, and evicts.
    return read(codec, stored, ids)

  stored = codec.encode(table())
  for seed in range(3):
    look_up(stored, jnp.asarray(np.random.default_rng(seed).integers(0, ROWS, 9), jnp.int32))
  assert len(traces) == 1


@each
def test_a_description_restores_the_technique(name):
  technique = compress.chain(compress.identity(), TECHNIQUES[name])
  again = compress.restore(compress.describe(technique), compress.TECHNIQUES)
  assert compress.describe(again) == compress.describe(technique)
  x, ids = table(), np.arange(ROWS, dtype=np.int32)
  one, two = technique(FULL), again(FULL)
  np.testing.assert_array_equal(read(one, one.encode(x), ids), read(two, two.encode(x), ids))


@trainable
def test_stacked_is_apart(name):
  tables = {t: dataclasses.replace(FULL, shape=(n, COLS)) for t, n in [('a', 40), ('b', 24)]}
  codec = compress.bind(tables, [('.*', TECHNIQUES[name])])
  stored = codec.encode({t: table(i, x.rows) for i, (t, x) in enumerate(tables.items())})
  layout = stack.stacked(codec.plan)
  arrays = stack.pack(layout, paths(stored))
  assert sum(x.nbytes for x in arrays.values()) == leaf.nbytes(codec.plan)
  for path, array in stack.unpack(layout, arrays).items():
    np.testing.assert_array_equal(array, paths(stored)[path])
  ids = {'a': np.int32([0, 39, 7]), 'b': np.int32([23, 1, 1])}
  index = stack.shift(layout, codec.address(ids))
  rows = {
    p: x.load(arrays[layout.place[p].array][index[p]] if x.by_row else arrays[p])
    for p, x in layout.leaves.items()
  }
  found = codec.decode(leaf.unflatten(codec.plan, rows))
  want = read(codec, stored, ids)
  for t in tables:
    np.testing.assert_array_equal(found[t], want[t])
