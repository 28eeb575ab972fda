"""Layers: torch's BatchNorm semantics, initialisation, dropout only in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax.models import layers
from tests.models import reference

BATCH, INPUTS, UNITS = 64, 12, 30


@pytest.fixture
def x():
  return jax.random.normal(jax.random.key(3), (BATCH, INPUTS)) * 2.0 + 1.0


def start(module, x, key=0):
  return module.init({'params': jax.random.key(key), 'dropout': jax.random.key(1)}, x, train=True)


def train(module, variables, x, key=2):
  rngs = {'dropout': jax.random.key(key)}
  return module.apply(variables, x, train=True, rngs=rngs, mutable=['batch_stats'])


def as_float64(tree):
  return jax.tree.map(lambda v: np.asarray(v, np.float64), tree)


def test_running_statistics_follow_torch(x):
  module = layers.HiddenLayer(UNITS, 0.2, True)
  variables = start(module, x)
  variables['params']['bias'] = jax.random.normal(jax.random.key(9), (UNITS,))
  params, stats = as_float64(variables['params']), as_float64(variables['batch_stats'])
  for step in range(5):
    batch = x * (1.0 + step) + step
    _, update = train(module, variables, batch, step)
    variables = variables | update
    linear = np.asarray(batch, np.float64) @ params['kernel'] + params['bias']
    _, stats = reference.batch_norm(linear, params, stats, train=True)
    for name, expected in stats.items():
      np.testing.assert_allclose(update['batch_stats'][name], expected, rtol=1e-5, atol=1e-5)
  y = module.apply(variables, x, train=False)
  linear = np.asarray(x, np.float64) @ params['kernel'] + params['bias']
  expected, _ = reference.batch_norm(linear, params, stats, train=False)
  np.testing.assert_allclose(y, np.maximum(expected, 0), rtol=1e-4, atol=1e-4)


def test_running_statistics_start_as_torch_and_init_leaves_them(x):
  stats = start(layers.HiddenLayer(UNITS, 0.2, True), x)['batch_stats']
  np.testing.assert_array_equal(stats['mean'], np.zeros(UNITS))
  np.testing.assert_array_equal(stats['variance'], np.ones(UNITS))


def test_no_gradient_flows_to_the_bias_before_a_batch_norm(x):
  module = layers.HiddenLayer(UNITS, 0.2, True)
  variables = start(module, x)

  def loss(params):
    y, update = train(module, variables | {'params': params}, x)
    return jnp.sum(jnp.square(y)) + sum(jnp.sum(v) for v in jax.tree.leaves(update))

  gradient = jax.grad(loss)(variables['params'])
  np.testing.assert_array_equal(gradient['bias'], np.zeros(UNITS))
  assert np.abs(gradient['kernel']).max() > 0


def test_without_batch_norm_there_are_no_statistics(x):
  module = layers.HiddenLayer(UNITS, 0.5, False)
  variables = start(module, x)
  assert set(variables) == {'params'}
  assert set(variables['params']) == {'kernel', 'bias'}
  plain = module.apply(variables, x, train=False)
  dropped = np.asarray(train(module, variables, x)[0])
  np.testing.assert_allclose(dropped[dropped > 0], 2 * plain[dropped > 0], rtol=1e-6)
  kept = (dropped > 0).sum() / (plain > 0).sum()
  assert 0.4 < kept < 0.6


@pytest.mark.parametrize('batch_norm', [True, False])
def test_dropout_is_a_function_of_the_key_and_off_in_evaluation(x, batch_norm):
  module = layers.MLP((UNITS, UNITS), 0.5, batch_norm)
  variables = start(module, x)
  first, again, other = (np.asarray(train(module, variables, x, k)[0]) for k in (5, 5, 6))
  np.testing.assert_array_equal(first, again)
  assert ((first > 0) != (other > 0)).mean() > 0.2
  evaluated = [module.apply(variables, x, train=False) for _ in range(2)]
  np.testing.assert_array_equal(*evaluated)


def test_layers_draw_masks_of_their_own():
  # Two layers that pass x = 1 through unchanged but for their masks.
  x = jnp.ones((512, 8))
  module = layers.MLP((8, 8), 0.5, batch_norm=False)
  variables = start(module, x)
  for layer in variables['params'].values():
    layer['kernel'] = jnp.eye(8)
  y = np.asarray(train(module, variables, x)[0])
  # The same mask twice would leave half of the entries; two masks leave a quarter, times four.
  assert abs((y > 0).mean() - 0.25) < 6 * np.sqrt(0.25 * 0.75 / y.size)
  np.testing.assert_array_equal(np.unique(y), [0, 4])


def test_kernels_are_xavier_normal_and_biases_zero():
  params = layers.Linear(300).init(jax.random.key(0), jnp.ones((2, 500)))['params']
  deviation = np.sqrt(2 / (300 + 500))
  assert abs(np.std(params['kernel']) / deviation - 1) < 0.02
  # A truncated normal would stop at two of its deviations.
  assert np.abs(params['kernel']).max() > 3.5 * deviation
  np.testing.assert_array_equal(params['bias'], np.zeros(300))


def test_linear_can_go_without_bias():
  x = jnp.ones((2, 5))
  module = layers.Linear(3, use_bias=False)
  variables = module.init(jax.random.key(0), x)
  assert set(variables['params']) == {'kernel'}
  expected = np.ones((2, 5)) @ np.asarray(variables['params']['kernel'])
  np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-6)


def test_output_is_that_of_the_concatenation(x):
  parts = (x, x[:, :5] ** 2, x[:, :1])
  module = layers.Output()
  variables = module.init(jax.random.key(0), *parts)
  kernel, bias = variables['params']['kernel'], jnp.array([0.7])
  variables['params']['bias'] = bias
  assert kernel.shape == (INPUTS + 6, 1)
  expected = np.concatenate(parts, 1) @ np.asarray(kernel) + np.asarray(bias)
  np.testing.assert_allclose(module.apply(variables, *parts), expected[:, 0], rtol=1e-5, atol=1e-5)
