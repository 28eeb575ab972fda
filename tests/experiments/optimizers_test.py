"""Gates have an optimizer of their own; all else learns as before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import optimizers

PARAMS = {
  'net': {'kernel': jnp.zeros(2)},
  'tables': {'user/gate': jnp.zeros(1), 'item/gate': jnp.zeros(1), 'user/table': jnp.zeros(2)},
}
GRADS = {
  'net': {'kernel': jnp.array([1e-3, -2e-3])},
  'tables': {
    'user/gate': jnp.array([4e-3]),
    'item/gate': jnp.array([-1e-3]),
    'user/table': jnp.array([1e-3, 3e-3]),
  },
}


def moved(**settings):
  """How far a first step moves each leaf."""
  made = optimizers.Optimizer(learning_rate=0.01, **settings)._adam()
  with jax.numpy_dtype_promotion('standard'):  # As `train.step` calls optax.
    return made.update(GRADS, made.init(PARAMS), PARAMS)[0]


def test_by_sgd_gates_move_by_their_gradients():
  found = moved(gate_learning_rate=30.0, gate_optimizer='sgd')
  np.testing.assert_allclose(found['tables']['user/gate'], [-0.12], rtol=1e-6)
  np.testing.assert_allclose(found['tables']['item/gate'], [0.03], rtol=1e-6)
  for leaf in (found['net']['kernel'], found['tables']['user/table']):
    np.testing.assert_allclose(np.abs(leaf), 0.01, rtol=1e-4)


@pytest.mark.parametrize('name', [None, 'adam'])
def test_by_adam_gates_move_alike(name):
  found = moved(gate_learning_rate=0.05, gate_optimizer=name)['tables']
  np.testing.assert_allclose(found['user/gate'], [-0.05], rtol=1e-4)
  np.testing.assert_allclose(found['item/gate'], [0.05], rtol=1e-4)


def test_without_a_rate_gates_learn_as_the_net():
  np.testing.assert_allclose(np.abs(moved()['tables']['item/gate']), 0.01, rtol=1e-4)
