"""Integer rows that are trained: format, unbiased rounding, steps by their formula, and a fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax import compress
from ctr_jax.compress.alpt import moved_step
from ctr_jax.tables import gather, leaf, rowwise

FULL = leaf.Leaf((64, 6), init=leaf.normal(0.5))
IDS = np.arange(64, dtype=np.int32)
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(64, 6)), jnp.float32)


def read(codec, stored, ids=IDS):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


@pytest.mark.parametrize('bits, nbytes', [(8, 6 + 4), (4, 3 + 4), (2, 2 + 4)])
def test_bytes_of_a_row(bits, nbytes):
  plan = compress.alpt(bits)(FULL).plan
  assert plan.nbytes == 64 * nbytes
  # Row-wise Adagrad adds four bytes a row; its state is shaped by what is trained, not by bytes.
  slots = rowwise.adagrad(0.1).slots(plan)
  assert {n: x.shape for n, x in slots.items()} == {'sum': (64,)}
  assert rowwise.lazy_adam(0.1).slots(plan)['mean'].shape == (64, 6)


@pytest.mark.parametrize('bits', [8, 4, 2])
def test_encode_is_within_half_a_step(bits):
  codec = compress.alpt(bits)(FULL)
  stored = codec.encode(TABLE)
  step = np.abs(TABLE).max(axis=1) / (2 ** (bits - 1) - 1)
  error = np.abs(np.asarray(read(codec, stored) - TABLE))
  assert (error <= step[:, None] * (0.5 + 1e-5)).all()
  # Loading and storing again changes nothing: values lie on their grid.
  again = codec.plan.stored(codec.plan.load(stored))
  np.testing.assert_array_equal(again, stored)


def test_small_updates_are_kept_on_average():
  codec = compress.alpt(8, step_rate=0)(leaf.Leaf((20_000, 2)))
  table = jnp.broadcast_to(
    jnp.asarray([1.0, 0.5039370], jnp.float32), (20_000, 2)
  )  # Codes 127, 64.
  loaded = codec.plan.load(codec.encode(table))
  moved = loaded.at[:, 1].add(1e-3)  # An eighth of a step.
  zeros = jnp.zeros((20_000, 2), jnp.float32)
  found = codec.plan.load(codec.plan.stored(moved, jax.random.key(0), zeros))[:, 1]
  nearest = codec.plan.load(codec.plan.stored(moved))[:, 1]
  np.testing.assert_array_equal(nearest, loaded[:, 1])
  wanted = np.asarray(moved[0, 1], np.float64)
  assert abs(np.asarray(found, np.float64).mean() - wanted) < 4 * (1 / 127) * 0.5 / np.sqrt(20_000)


def test_step_moves_by_the_formula():
  rng = np.random.default_rng(2)
  values, gradients = rng.normal(size=(5, 6)), rng.normal(size=(5, 6))
  step = np.abs(values).max(axis=1) / 127 * np.asarray([0.3, 0.9, 1.0, 1.1, 3.0])
  found = moved_step(
    *(jnp.asarray(x, jnp.float32) for x in (values, step, gradients)), top=127, rate=0.1
  )
  v = values / step[:, None]
  r = np.where(np.abs(v) <= 127, np.round(v) - v, np.sign(v) * 127)
  slope = (gradients * r).sum(axis=1) / np.linalg.norm(gradients, axis=1) / np.sqrt(6 * 127)
  fit = np.abs(values).max(axis=1) / 127
  want = step * np.exp(-0.1 * slope)
  want = np.where((want < fit / 2) | (want > fit * 2), fit, want)
  assert 0 < (want == fit).sum() < 5  # Some steps are refitted, some learned.
  np.testing.assert_allclose(found, want, rtol=1e-4)


def test_a_row_that_outgrew_its_codes_gets_a_step_that_holds_it():
  codec = compress.alpt(8)(FULL)
  loaded = codec.plan.load(codec.encode(TABLE))
  grown = loaded.at[:, :6].multiply(100.0)
  zeros = jnp.zeros((64, 6), jnp.float32)
  found = codec.plan.load(codec.plan.stored(grown, jax.random.key(0), zeros))
  error = jnp.abs(found[:, :6] - grown[:, :6]).max(axis=1)
  assert bool(jnp.all(error <= jnp.abs(grown[:, :6]).max(axis=1) / 127 * (1 + 1e-4)))


@pytest.mark.parametrize(
  'optimizer', [rowwise.adagrad(0.01, l2=1.0), rowwise.lazy_adam(0.01, l2=1e-3), rowwise.sgd(0.1)]
)
def test_no_optimizer_moves_a_step(optimizer):
  codec = compress.alpt(8, step_rate=0)(FULL)
  stored, unique = codec.encode(TABLE), jnp.arange(64, dtype=jnp.int32)
  rows = codec.plan.load(stored)
  slots = {n: x.init(None, x.shape, x.dtype) for n, x in optimizer.slots(codec.plan).items()}
  moved, _ = rowwise.apply(
    optimizer, codec.plan, stored, slots, unique, rows, jnp.zeros_like(rows),
    scale=1.0, step=jnp.int32(1), key=jax.random.key(0),
  )  # fmt: skip
  np.testing.assert_array_equal(codec.plan.load(moved)[:, 6], rows[:, 6])


@pytest.mark.parametrize('bits', [8, 4])
def test_training_reaches_its_target(bits):
  codec = compress.alpt(bits)(FULL)
  optimizer = rowwise.adagrad(0.1)
  stored = leaf.init(codec.plan, jax.random.key(0))
  slots = {'sum': jnp.zeros((64,), jnp.float32)}
  unique = jnp.arange(64, dtype=jnp.int32)

  def step(carry, i):
    stored, slots = carry
    rows = codec.plan.load(stored)
    gradients = jax.grad(lambda rows: jnp.sum(jnp.square(codec.decode(rows) - TABLE)))(rows)
    stored, slots = rowwise.apply(
      optimizer, codec.plan, stored, slots, unique, rows, gradients,
      scale=1.0, step=i + 1, key=jax.random.fold_in(jax.random.key(1), i),
    )  # fmt: skip
    return (stored, slots), None

  (stored, _), _ = jax.lax.scan(step, (stored, slots), jnp.arange(400))
  error = float(jnp.sqrt(jnp.mean(jnp.square(read(codec, stored) - TABLE))))
  assert error < {8: 0.05, 4: 0.4}[bits]  # Steps are about 0.02 and 0.3.


def test_bad_bits():
  with pytest.raises(ValueError, match='8, 4 or 2'):
    compress.alpt(16)
