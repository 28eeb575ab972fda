"""Row optimizers against float64 loops, against optax, and by what the compiled step makes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctr_jax import compress, predict
from ctr_jax.data import schema
from ctr_jax.models import dnn
from ctr_jax.tables import gather, leaf, rowwise, stack
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib

ROWS, COLS, READS, STEPS, LR = 12, 3, 9, 6, 0.1
TABLE = leaf.Leaf((ROWS, COLS))


class NumpySgd:
  """Written row by row, in float64."""

  def __init__(self, l2=0.0):
    self.l2 = l2

  def move(self, row, i, g, step):
    del i, step
    return row - LR * (g + self.l2 * row)


class NumpyAdagrad(NumpySgd):
  def __init__(self, per, l2=0.0, initial=0.0):
    super().__init__(l2)
    self.per, self.sums = per, np.full((ROWS, 1 if per == 'row' else COLS), initial)

  def move(self, row, i, g, step):
    g = g + self.l2 * row
    self.sums[i] += np.mean(g**2) if self.per == 'row' else g**2
    return row - LR * g / (np.sqrt(self.sums[i]) + 1e-8)


class NumpySparseAdam(NumpySgd):
  """torch.optim.SparseAdam: moments of touched rows, bias corrected by the global step."""

  def __init__(self, l2=0.0):
    super().__init__(l2)
    self.mean, self.square = np.zeros((ROWS, COLS)), np.zeros((ROWS, COLS))

  def move(self, row, i, g, step):
    g = g + self.l2 * row
    self.mean[i] += (1 - 0.9) * (g - self.mean[i])
    self.square[i] += (1 - 0.999) * (g**2 - self.square[i])
    size = LR * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    return row - size * self.mean[i] / (np.sqrt(self.square[i]) + 1e-8)


# As outside of tests, which compile the short way (tests/conftest.py).
_AS_IN_USE = {'xla_cpu_use_fusion_emitters': True}


def adagrad(per, **settings):
  return lambda: (rowwise.adagrad(LR, per=per, **settings), NumpyAdagrad(per, **settings))


CASES = {
  'sgd': lambda: (rowwise.sgd(LR), NumpySgd()),
  'sgd_l2': lambda: (rowwise.sgd(LR, l2=0.3), NumpySgd(0.3)),
  'adagrad_row': adagrad('row'),
  'adagrad_row_l2': adagrad('row', l2=0.3),
  'adagrad_element': adagrad('element'),
  'adagrad_element_initial': adagrad('element', l2=0.3, initial=0.5),
  'lazy_adam': lambda: (rowwise.lazy_adam(LR), NumpySparseAdam()),
  'lazy_adam_l2': lambda: (rowwise.lazy_adam(LR, l2=0.3), NumpySparseAdam(0.3)),
}


def runner(optimizer, described=TABLE):
  """(array, slots, index, coefficient, step) → (array, slots): a step on Σ coefficient · rows.

  So the gradient of each read is its coefficient, and a row's is the sum over its reads.
  """

  @jax.jit
  def run(array, slots, unique, inverse, coefficient, step, scale):
    rows = described.load(gather.rows_of(array, unique))
    gradients = jax.grad(lambda rows: jnp.sum(coefficient * rows[inverse]))(rows)
    return rowwise.apply(
      optimizer, described, array, slots, unique, rows, gradients, scale=scale, step=step
    )

  def one(array, slots, index, coefficient, step, scale=1.0):
    where = gather.deduplicate(index, described.rows)
    return run(array, slots, *where, coefficient, jnp.int32(step), jnp.float32(scale))

  return one


def fresh(optimizer, described=TABLE):
  return {n: x.init(None, x.shape, x.dtype) for n, x in optimizer.slots(described).items()}


def draws(seed=0):
  """A table and, for each step, duplicated reads and their gradients; row 11 is never read."""
  rng = np.random.default_rng(seed)
  table = rng.normal(size=(ROWS, COLS)).astype(np.float32)
  for_steps = [
    (rng.integers(0, 7, READS).astype(np.int32), rng.normal(size=(READS, COLS)).astype(np.float32))
    for _ in range(STEPS)
  ]
  return table, for_steps


@pytest.mark.parametrize('name', CASES)
def test_steps_are_those_of_a_float64_loop(name):
  optimizer, reference = CASES[name]()
  table, for_steps = draws()
  run = runner(optimizer)
  array, slots, want = jnp.asarray(table), fresh(optimizer), table.astype(np.float64)
  for t, (index, coefficient) in enumerate(for_steps, 1):
    array, slots = run(array, slots, index, coefficient, t)
    for i in set(index.tolist()):  # Duplicates summed; L2 once for a row, however often it is read.
      g = coefficient[index == i].astype(np.float64).sum(0)
      want[i] = reference.move(want[i], i, g, t)
    # In float32, 1 − 0.999^t is off by up to 6e-5 of itself.
    np.testing.assert_allclose(array, want, rtol=2e-5, atol=1e-5 if 'adam' in name else 2e-6)
  np.testing.assert_array_equal(array[7:], table[7:])


def test_state_is_described_by_its_leaves():
  for optimizer, names, size in [
    (rowwise.sgd(LR), set(), 0),
    (rowwise.adagrad(LR), {'sum'}, ROWS),
    (rowwise.adagrad(LR, per='element'), {'sum'}, ROWS * COLS),
    (rowwise.lazy_adam(LR), {'mean', 'square'}, 2 * ROWS * COLS),
  ]:
    slots = optimizer.slots(TABLE)
    assert slots.keys() == names
    assert sum(x.nbytes for x in slots.values()) == 4 * size
    assert all(x.axes == TABLE.axes[: len(x.shape)] for x in slots.values())
    array, found = runner(optimizer)(
      jnp.zeros((ROWS, COLS)), fresh(optimizer), np.int32([1]), np.ones((1, COLS), np.float32), 1
    )
    assert array.shape == (ROWS, COLS)
    assert {n: (x.shape, x.dtype) for n, x in found.items()} == {
      n: (x.shape, x.dtype) for n, x in slots.items()
    }
  # The state of a low-precision table is not in low precision.
  assert rowwise.adagrad(LR).slots(leaf.Leaf((4, 2), jnp.float16))['sum'].dtype == jnp.float32


@pytest.mark.parametrize(
  'optimizer, tx, every_row',
  [
    (rowwise.sgd(LR), optax.sgd(LR), False),
    # With eps = 0: optax adds it under the root, we to the root.
    (
      rowwise.adagrad(LR, per='element', eps=0.0, initial=0.1),
      optax.adagrad(LR, initial_accumulator_value=0.1, eps=0.0),
      False,
    ),
    # Lazy Adam is Adam as long as every step touches every row.
    (rowwise.lazy_adam(LR), optax.adam(LR), True),
  ],
  ids=['sgd', 'adagrad', 'adam'],
)
def test_sparse_is_optax_on_dense_gradients(optimizer, tx, every_row):
  table, for_steps = draws(1)
  run = runner(optimizer)
  array, slots, want = jnp.asarray(table), fresh(optimizer), jnp.asarray(table)
  opt = tx.init(want)
  for t, (index, coefficient) in enumerate(for_steps, 1):
    if every_row:
      index = np.concatenate([index, np.arange(ROWS, dtype=np.int32)])
      coefficient = np.concatenate([coefficient, np.ones((ROWS, COLS), np.float32)])
    array, slots = run(array, slots, index, coefficient, t)
    dense = jnp.zeros_like(want).at[index].add(coefficient)
    with jax.numpy_dtype_promotion('standard'):  # Optax raises a float to an integer power.
      updates, opt = tx.update(dense, opt, want)
    want = optax.apply_updates(want, updates)
    np.testing.assert_allclose(array, want, rtol=2e-5, atol=2e-6)


def test_lazy_adam_is_not_adam():
  # Adam moves a row that is not read, by its moments: what the name says is left out.
  optimizer, table = rowwise.lazy_adam(LR), jnp.ones((ROWS, COLS))
  one = np.ones((1, COLS), np.float32)
  run = runner(optimizer)
  first, slots = run(table, fresh(optimizer), np.int32([3]), one, 1)
  second, slots = run(first, slots, np.int32([4]), one, 2)
  np.testing.assert_array_equal(second[3], first[3])
  np.testing.assert_allclose(slots['mean'][3], 0.1, rtol=1e-6)


def test_of_one_column_row_and_element_are_the_same():
  rng, described = np.random.default_rng(2), leaf.Leaf((ROWS, 1))
  results = []
  for per in ('row', 'element'):
    optimizer = rowwise.adagrad(LR, per=per)
    array, slots = jnp.ones((ROWS, 1)), fresh(optimizer, described)
    rng = np.random.default_rng(2)
    run = runner(optimizer, described)
    for t in range(1, 4):
      index = rng.integers(0, ROWS, READS).astype(np.int32)
      array, slots = run(array, slots, index, rng.normal(size=(READS, 1)).astype(np.float32), t)
    results.append(array)
  np.testing.assert_allclose(*results, rtol=1e-6)


def test_rowwise_adagrad_of_scalars_in_a_circle():
  # A leaf of scalars (('row',), as ROBE's array): its own mean square.
  described, optimizer = leaf.Leaf((ROWS,), axes=('row',)), rowwise.adagrad(LR)
  array, slots = runner(optimizer, described)(
    jnp.zeros(ROWS), fresh(optimizer, described), np.int32([2, 5, 2]), np.float32([1, 3, 1]), 1
  )
  np.testing.assert_allclose(array[np.int32([2, 5])], [-LR, -LR], rtol=1e-6)
  np.testing.assert_allclose(slots['sum'][np.int32([2, 5])], [4, 9], rtol=1e-6)
  assert float(jnp.abs(array).sum()) == pytest.approx(2 * LR)


@pytest.mark.parametrize('name', CASES)
def test_padding_is_never_written(name):
  optimizer, _ = CASES[name]()
  table, _ = draws()
  unique = np.int32([0, 5, ROWS, ROWS])
  # What padding carries is of no account, even where it is not a number.
  rows = jnp.asarray(table)[np.int32([0, 5, 11, 11])].at[2:].set(jnp.nan)
  gradients = jnp.ones_like(rows).at[2:].set(jnp.nan)
  array, slots = rowwise.apply(
    optimizer, TABLE, jnp.asarray(table), fresh(optimizer), unique, rows, gradients,
    scale=1.0, step=jnp.int32(1),
  )  # fmt: skip
  rest = np.setdiff1d(np.arange(ROWS), [0, 5])
  np.testing.assert_array_equal(array[rest], table[rest])
  assert (np.asarray(array)[[0, 5]] != table[[0, 5]]).all()
  for slot, before in zip(slots.values(), fresh(optimizer).values(), strict=True):
    np.testing.assert_array_equal(slot[rest], before[rest])
    assert bool(jnp.isfinite(slot).all())


@pytest.mark.parametrize('name', CASES)
def test_scale_multiplies_the_learning_rate_and_not_the_state(name):
  optimizer, _ = CASES[name]()
  table, for_steps = draws()
  run = runner(optimizer)
  moves, states = [], []
  for scale in (1.0, 0.25, 0.0):
    array, slots = run(jnp.asarray(table), fresh(optimizer), *for_steps[0], 1, scale)
    moves.append(np.asarray(array) - table)
    states.append(slots)
  np.testing.assert_allclose(moves[1], 0.25 * moves[0], rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(moves[2], 0)
  for name in states[0]:
    np.testing.assert_array_equal(states[0][name], states[2][name])


def test_low_precision_rows_move_in_float32_and_are_rounded_once():
  half, optimizer = leaf.Leaf((ROWS, COLS), jnp.float16), rowwise.sgd(LR)
  table, ((index, coefficient), *_) = draws(3)
  table = table.astype(np.float16)
  array, _ = runner(optimizer, half)(jnp.asarray(table), {}, index, coefficient, 1)
  assert array.dtype == jnp.float16
  dense = np.zeros((ROWS, COLS), np.float32)
  np.add.at(dense, index, coefficient)
  want = (table.astype(np.float32) - np.float32(LR) * dense).astype(np.float16)
  np.testing.assert_allclose(
    array.astype(jnp.float32), want, rtol=2**-10
  )  # An ulp, for fused sums.
  np.testing.assert_array_equal(array[7:], table[7:])


@pytest.mark.parametrize('decay, want', [(True, 1 - LR * 0.5), (False, 1.0)])
def test_l2_leaves_alone_what_does_not_decay(decay, want):
  array, _ = rowwise.apply(
    rowwise.sgd(LR, l2=0.5), leaf.Leaf((4, 2), decay=decay), jnp.ones((4, 2)), {},
    np.int32([1, 3]), jnp.ones((2, 2)), jnp.zeros((2, 2)), scale=1.0, step=jnp.int32(1),
  )  # fmt: skip
  np.testing.assert_allclose(array[np.int32([1, 3])], want, rtol=1e-6)
  np.testing.assert_array_equal(array[np.int32([0, 2])], 1)


def test_store_is_given_its_key():
  def store(rows, key, gradients):
    assert gradients.shape == rows.shape
    return rows + jax.random.uniform(key, rows.shape)

  described = leaf.Leaf((4, 2), store=store)
  key = jax.random.key(7)
  array, _ = rowwise.apply(
    rowwise.sgd(LR), described, jnp.zeros((4, 2)), {}, np.int32([1, 3]), jnp.zeros((2, 2)),
    jnp.zeros((2, 2)), scale=1.0, step=jnp.int32(1), key=key,
  )  # fmt: skip
  np.testing.assert_array_equal(array[np.int32([1, 3])], jax.random.uniform(key, (2, 2)))
  np.testing.assert_array_equal(array[np.int32([0, 2])], 0)


def test_an_unknown_grain_is_refused():
  with pytest.raises(ValueError, match="per 'row' or per 'element', got 'column'"):
    rowwise.adagrad(LR, per='column')


BIG = 1_000_003
SPARSE = {
  'adagrad': (rowwise.adagrad(LR, l2=1e-3), stack.apart, compress.identity()),
  'adagrad_stacked': (rowwise.adagrad(LR, l2=1e-3), stack.stacked, compress.identity()),
  'lazy_adam': (rowwise.lazy_adam(LR), stack.apart, compress.identity()),
  'float16': (rowwise.adagrad(LR), stack.apart, compress.cast('float16')),
  'shared_ways': (
    rowwise.adagrad(LR),
    stack.apart,
    compress.multi_hash(BIG, combine='weights', shared=True),
  ),
}


def compile_step(optimizer, layout, technique):
  """The compiled training step over tables of BIG rows, and its abstract state."""
  # Two tables where there is something to stack.
  names = ('user', 'item') if layout is stack.stacked else ('item',)
  features = tuple(schema.Feature(name) for name in names)
  rows = {f.name: BIG for f in features}
  model = predict.build(
    schema.Schema('clicks', features), rows, [('.*', technique)],
    dnn.DNN(hidden=(4,), dropout=0.0), 4, layout=layout,
  )  # fmt: skip
  recipe = state_lib.Recipe(optax.sgd(1e-3), optimizer)
  state = jax.eval_shape(lambda: state_lib.init(model, recipe, 0))
  columns = {f.name: np.arange(32, dtype=np.int32) for f in features}
  columns['label'] = np.zeros(32, np.float32)
  inputs = step_lib.batch(model, recipe, columns)
  lowered = step_lib.compiled(model, recipe).lower(state, inputs)
  return lowered.compile(compiler_options=_AS_IN_USE), state


def made(text):
  """(shape, operation) of every instruction of an HLO module."""
  for line in text.splitlines():
    found = re.match(r'\s*(?:ROOT )?%?\S+ = (\S+?\[[\d,]*\])\S* ([\w-]+)\(', line)
    if found:
      yield found[1], found[2]


@pytest.mark.parametrize('name', SPARSE)
def test_a_row_sparse_step_makes_nothing_of_a_tables_size(name):
  compiled, state = compile_step(*SPARSE[name])
  text = compiled.as_text()
  large = rf'\[(?:{BIG}|{2 * BIG})[,\]]'
  operations = [(shape, what) for shape, what in made(text) if re.search(large, shape)]
  # Scatters write in place, into the buffer of the donated parameter; a fusion is what holds one.
  arrays = len(state.tables) + sum(map(len, state.slots.values()))
  for what, most in {'scatter': arrays, 'fusion': arrays}.items():
    assert sum(op == what for _, op in operations) <= most
  assert {what for _, what in operations} <= {'parameter', 'scatter', 'fusion', 'bitcast'}
  memory = compiled.memory_analysis()
  assert memory.temp_size_in_bytes < 1e6
  # All of the state is updated where it is; the loss is all that is new.
  aliased = re.findall(r'\{(\d+)\}: \((\d+), \{\}, may-alias\)', text.splitlines()[0])
  assert [(str(i), str(i)) for i in range(len(jax.tree.leaves(state)))] == aliased
  assert memory.output_size_in_bytes - memory.alias_size_in_bytes < 1000


def test_the_instruction_test_sees_a_copy():
  def copied(array, rows):
    return array.at[jnp.arange(4)].set(rows), array.sum()

  arguments = jnp.zeros((BIG, 4)), jnp.ones((4, 4))
  text = jax.jit(copied).lower(*arguments).compile().as_text()
  assert (f'f32[{BIG},4]', 'copy') in set(made(text))
