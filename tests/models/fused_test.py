"""The hand-written backward of BatchNorm -> ReLU -> dropout against autodiff of the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax.models import dropout, fused

SEED, EPS = 77, 1e-5


def plain(x, scale, offset, rate):
  """The formula as it is written, for autodiff."""
  mean = jnp.mean(x, axis=0, keepdims=True)
  variance = jnp.mean((x - mean) ** 2, axis=0, keepdims=True)
  normal = (x - mean) / jnp.sqrt(variance + EPS)
  y = jax.nn.relu(normal * scale[None] + offset[None])
  return jnp.where(dropout.keep(jnp.uint32(SEED), x.shape, rate), y / (1 - rate), 0.0)


def hand_written(x, scale, offset, rate):
  return fused.norm_relu_drop(x, scale, offset, jnp.uint32(SEED), rate, EPS)[0]


def inputs(dtype, rows=96, columns=13):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(rows, columns)) * rng.uniform(0.1, 3, columns) + rng.normal(size=columns)
  # Scales of either sign and zero: nothing may be divided by a scale.
  scale = np.concatenate([[0.0, -0.7], rng.uniform(0.5, 2, columns - 2)])
  offset, weight = rng.normal(size=columns), rng.normal(size=(rows, columns))
  return [jnp.asarray(v, dtype) for v in (x, scale, offset, weight)]


@pytest.mark.parametrize('rate', [0.0, 0.2, 0.5])
@pytest.mark.parametrize(('dtype', 'tolerance'), [(np.float64, 1e-11), (np.float32, 2e-5)])
def test_value_and_gradients_are_those_of_the_formula(rate, dtype, tolerance):
  with jax.enable_x64(dtype is np.float64):
    *arguments, weight = inputs(dtype)

    def of(function):
      def objective(x, scale, offset):
        y = function(x, scale, offset, rate)
        return jnp.sum(weight * y + y**2), y

      gradient = jax.grad(objective, argnums=(0, 1, 2), has_aux=True)
      gradients, y = jax.jit(gradient)(*arguments)
      return [y, *gradients]

    for ours, expected in zip(of(hand_written), of(plain), strict=True):
      assert ours.dtype == dtype
      size = np.abs(expected).max()
      np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * size)


def test_large_means_do_not_ruin_the_gradient():
  # E[x²] - mean² would lose four more digits here.
  x, scale, offset, weight = inputs(np.float32)
  shift = jnp.full((1, x.shape[1]), 100.0)

  def gradient(x):
    return jax.grad(lambda s: jnp.sum(weight * hand_written(x, s, offset, 0.2)))(scale)

  np.testing.assert_allclose(gradient(x + shift), gradient(x), rtol=2e-3, atol=2e-3)


def test_moments_are_mean_and_biased_variance():
  x, scale, offset, _ = inputs(np.float32)
  _, mean, variance = fused.norm_relu_drop(x, scale, offset, jnp.uint32(0), 0.2, EPS)
  np.testing.assert_allclose(mean, np.asarray(x, np.float64).mean(0), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(variance, np.asarray(x, np.float64).var(0), rtol=1e-5)


def test_a_constant_column_is_harmless():
  x, scale, offset, weight = inputs(np.float32)
  x = x.at[:, 3].set(2.0)
  objective = lambda x: jnp.sum(weight * hand_written(x, scale, offset, 0.2))  # noqa: E731
  assert np.isfinite(jax.grad(objective)(x)).all()
  y = np.asarray(hand_written(x, scale, offset, 0.0))
  np.testing.assert_allclose(y[:, 3], max(float(offset[3]), 0.0), atol=1e-5)
