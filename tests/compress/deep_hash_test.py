"""The net in float64, its start, the regression of its last layer, and memory without rows."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.compress import hashing
from ctr_jax.tables import gather, leaf

# Not by its name, which `compress` gives to the technique.
deep_hash_lib = importlib.import_module('ctr_jax.compress.deep_hash')


def read(codec, stored, ids):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


def mish(x):
  return x * np.tanh(np.log1p(np.exp(x)))


def features(stored, ids, hashes, layers, levels, seed):
  found = np.stack([hashing.bucket(ids, seed + j, levels) for j in range(hashes)], axis=-1)
  x = 2 * found.astype(np.float64) / (levels - 1) - 1
  for layer in range(layers):
    weight, bias = (np.asarray(stored[f'{n}_{layer}'], np.float64) for n in ('weight', 'bias'))
    x = mish(x @ weight + bias)
  return x


@given(
  hashes=st.integers(1, 9),
  hidden=st.lists(st.integers(1, 7), max_size=3),
  levels=st.integers(2, 50),
  seed=st.integers(0, 99),
)
def test_decode_is_the_net_in_float64(hashes, hidden, levels, seed):
  codec = compress.deep_hash(hashes, hidden, levels, seed)(leaf.Leaf((30, 4)))
  stored = leaf.init(codec.plan, jax.random.key(seed))
  rng = np.random.default_rng(seed)
  stored |= {
    n: rng.normal(size=x.shape).astype(np.float32) for n, x in stored.items() if n != 'levels'
  }
  ids, last = np.arange(30, dtype=np.int32), len(hidden)
  want = features(stored, ids, hashes, last, levels, seed)
  want = want @ stored[f'weight_{last}'] + stored[f'bias_{last}']
  np.testing.assert_allclose(read(codec, stored, ids), want, rtol=1e-4, atol=1e-4)


def test_only_the_levels_are_read_by_row_and_they_are_frozen():
  plan = compress.deep_hash(16, (8,), levels=5)(leaf.Leaf((40, 6))).plan
  assert [n for n, x in plan.items() if x.by_row] == ['levels']
  assert [n for n, x in plan.items() if x.frozen] == ['levels']
  levels = leaf.init(plan, jax.random.key(0))['levels']
  np.testing.assert_allclose(levels, [-1, -0.5, 0, 0.5, 1], atol=1e-7)


def test_memory_does_not_depend_on_rows():
  technique = compress.deep_hash(32, (16, 8))
  small, large = (technique(leaf.Leaf((rows, 6))).plan for rows in (40, 10**9))
  assert leaf.nbytes(small) == leaf.nbytes(large)
  assert leaf.nbytes(small) == 4 * (4096 + 32 * 16 + 16 + 16 * 8 + 8 + 8 * 6 + 6)


def test_the_square_of_mish_is_that_of_quadrature():
  x, weight = np.polynomial.hermite_e.hermegauss(100)
  want = (weight * mish(x) ** 2).sum() / weight.sum()
  assert abs(deep_hash_lib._MISH_SQUARE - want) < 1e-5


@pytest.mark.parametrize('hidden', [(), (256,), (256, 256, 256)])
def test_vectors_start_with_the_variance_of_the_table(hidden):
  full = leaf.Leaf((500, 256), init=leaf.normal(0.3))
  codec = compress.deep_hash(256, hidden, levels=64)(full)
  stored = leaf.init(codec.plan, jax.random.key(1))
  found = np.asarray(read(codec, stored, np.arange(500, dtype=np.int32)))
  assert abs(np.sqrt(np.square(found).mean()) / 0.3 - 1) < 0.1


def test_the_last_layer_is_a_ridge_regression():
  x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
  codec = compress.deep_hash(16, (8,), levels=64, seed=2)(leaf.Leaf((60, 4)))
  stored = codec.encode(jnp.asarray(x))
  inputs = features(stored, np.arange(60, dtype=np.int32), 16, 1, 64, 2)
  inputs = np.concatenate([inputs, np.ones((60, 1))], axis=1)
  gram = inputs.T @ inputs
  gram += 1e-4 * np.trace(gram) / 9 * np.eye(9)
  want = np.linalg.solve(gram, inputs.T @ x)
  np.testing.assert_allclose(stored['weight_1'], want[:-1], rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(stored['bias_1'], want[-1], rtol=1e-3, atol=1e-4)


def test_encode_by_blocks_is_encode_at_once(monkeypatch):
  x = jnp.asarray(np.random.default_rng(1).normal(size=(50, 4)), jnp.float32)
  codec = compress.deep_hash(16, (8,))(leaf.Leaf((50, 4)))
  want = codec.encode(x)
  monkeypatch.setattr(deep_hash_lib, '_BLOCK', 16)
  found = codec.encode(x)
  for name in want:
    np.testing.assert_allclose(found[name], want[name], rtol=1e-3, atol=1e-4)


def test_as_many_features_as_rows_remember_nearly_everything():
  x = jnp.asarray(np.random.default_rng(3).normal(size=(40, 6)), jnp.float32)
  codec = compress.deep_hash(128, (512,))(leaf.Leaf((40, 6)))
  found = read(codec, codec.encode(x), np.arange(40, dtype=np.int32))
  assert float(jnp.sum(jnp.square(found - x))) < 0.01 * float(jnp.sum(jnp.square(x)))


def test_no_table_is_left_for_another_link():
  with pytest.raises(ValueError, match='no table is left'):
    compress.chain(compress.deep_hash(8), compress.int_quantize())(leaf.Leaf((40, 6)))


def test_settings_that_make_no_sense_are_refused():
  for settings in [{'hashes': 0}, {'levels': 1}, {'hidden': (8, 0)}]:
    with pytest.raises(ValueError, match='deep_hash needs hashes ≥ 1, levels ≥ 2'):
      compress.deep_hash(**settings)
