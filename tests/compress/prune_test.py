"""Soft thresholds: the formula by NumPy, its gradients, and what pulls the thresholds up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.tables import gather, leaf

ROWS, COLS = 12, 5
kinds = pytest.mark.parametrize('kind', ['table', 'column', 'row'])


def values(seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(ROWS, COLS)), jnp.float32)


def rows_of(codec, stored, ids=None):
  ids = np.arange(ROWS, dtype=np.int32) if ids is None else np.int32(ids)
  return gather.gather(codec.plan, stored, codec.address(ids))


def full():
  return leaf.Leaf((ROWS, COLS), init=leaf.normal(0.5))


@kinds
@given(seed=st.integers(0, 100), centre=st.floats(-20, 5))
def test_decode_is_the_soft_threshold(kind, seed, centre):
  codec = compress.prune(kind)(full())
  rng = np.random.default_rng(seed)
  s = (centre + rng.normal(size=codec.plan['threshold'].shape)).astype(np.float32)
  v = values(seed)
  found = codec.decode(rows_of(codec, {'table': v, 'threshold': jnp.asarray(s)}))
  lie = s.reshape({'table': (1, 1), 'column': (1, -1), 'row': (-1, 1)}[kind])
  cut = 1 / (1 + np.exp(-lie.astype(np.float64)))
  v = np.asarray(v, np.float64)
  # Written as a projection: what is left after v is clipped to the threshold.
  np.testing.assert_allclose(found, v - np.clip(v, -cut, cut), atol=1e-6)


@kinds
@given(start=st.floats(-20, 5))
def test_encode_loses_nothing_wherever_thresholds_start(kind, start):
  codec = compress.prune(kind, start=start)(full())
  x = values().at[0].set(0.0)
  found = codec.decode(rows_of(codec, codec.encode(x)))
  np.testing.assert_allclose(found, x, atol=1e-6)
  np.testing.assert_array_equal(found[0], 0)


@kinds
def test_training_starts_as_the_table(kind):
  codec = compress.prune(kind)(full())
  stored = leaf.init(codec.plan, jax.random.key(0))
  np.testing.assert_array_equal(stored['threshold'], -15)
  np.testing.assert_allclose(codec.decode(rows_of(codec, stored)), stored['table'], atol=1e-6)


@kinds
def test_values_that_are_pruned_have_no_gradient_and_thresholds_see_the_others(kind):
  codec = compress.prune(kind)(full())
  s = jnp.full(codec.plan['threshold'].shape, -0.5)
  rows = rows_of(codec, {'table': values(), 'threshold': s})
  found = jax.grad(lambda rows: codec.decode(rows).sum())(rows)
  sigma = 1 / (1 + np.exp(0.5))
  left = np.abs(values()) > sigma
  np.testing.assert_allclose(found['table'], left, atol=1e-6)
  pull = -np.sign(values()) * left * sigma * (1 - sigma)
  axis = {'table': None, 'column': 0, 'row': 1}[kind]
  np.testing.assert_allclose(
    found['threshold'].reshape(-1), pull.sum(axis=axis).reshape(-1), rtol=1e-5
  )


@kinds
def test_the_penalty_is_weight_decay(kind):
  codec = compress.prune(kind, start=-6.0, decay=0.02)(full())
  rows = rows_of(codec, codec.encode(values()), ids=[3, 3, 8])
  assert float(codec.penalty(rows, step=jnp.int32(1))) == pytest.approx(0.01 * 36)
  up = jax.grad(lambda rows: codec.penalty(rows, step=jnp.int32(1)))(rows)['threshold']
  assert (np.asarray(up) < 0).all()  # Descent moves thresholds towards zero.


def test_thresholds_rise_and_prune_what_the_loss_does_not_hold():
  codec = compress.prune('row', start=-8.0, decay=1.0)(leaf.Leaf((2, 4), init=leaf.normal(0.1)))
  rows = rows_of(codec, leaf.init(codec.plan, jax.random.key(0)), ids=[0, 1])
  target = jnp.asarray([[3.0, -3.0, 3.0, -3.0], [0.0, 0.0, 0.0, 0.0]])

  def objective(rows):
    error = jnp.sum(jnp.square(codec.decode(rows) - target))
    return error + codec.penalty(rows, step=jnp.int32(0))

  for _ in range(200):
    rows = jax.tree.map(lambda x, g: x - 0.1 * g, rows, jax.grad(objective)(rows))
  found = codec.decode(rows)
  np.testing.assert_array_equal(found[1], 0)
  np.testing.assert_allclose(found[0], target[0], atol=0.1)


def test_a_chain_keeps_the_penalty():
  rules = [('.*', compress.chain(compress.prune(start=-4.0, decay=0.5), compress.hash_trick(5)))]
  codec = compress.bind({'a': full(), 'b': full()}, rules)
  stored = codec.encode({'a': values(), 'b': values(1)})
  ids = {name: np.int32([1, 2]) for name in stored}
  rows = gather.gather(codec.plan, stored, codec.address(ids))
  assert float(codec.penalty(rows, step=jnp.int32(0))) == pytest.approx(2 * 0.25 * 16)


def test_settings_that_make_no_sense_are_refused():
  with pytest.raises(ValueError, match="per table, column or row, got 'field'"):
    compress.prune('field')
  with pytest.raises(ValueError, match='it is ≥ 0, got -1'):
    compress.prune(decay=-1)
