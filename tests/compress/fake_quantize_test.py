"""What is trained is what is served; gradients pass straight through; LSQ's step by its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax import compress
from ctr_jax.tables import gather, leaf

FULL = leaf.Leaf((60, 7), init=leaf.normal(0.5))
IDS = np.arange(60, dtype=np.int32)
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(60, 7)), jnp.float32)


def read(codec, stored, ids=IDS):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


@pytest.mark.parametrize('bits', [8, 4, 2])
@pytest.mark.parametrize('offset', [True, False])
def test_serving_the_quantised_table_is_the_trained_model_to_the_bit(bits, offset):
  technique, link = compress.fake_quantize(bits, offset=offset), compress.int_quantize(bits, offset)
  trained = technique(FULL)
  stored = {'t': trained.encode(TABLE)}
  served = compress.bind({'t': FULL}, [('t', compress.chain(technique, link))])
  arrays = compress.extend({'t': trained.plan}, stored, link)
  # The training form reads its rows as quantised; serving drops that link, since codes are.
  plain = compress.bind({'t': FULL}, [('t', link)])
  np.testing.assert_array_equal(read(trained, stored['t']), read(plain, arrays, {'t': IDS})['t'])
  # Left in the chain it quantises what is quantised already: nothing moves by more than float16's
  # rounding of a scale.
  again = read(served, arrays, {'t': IDS})['t']
  np.testing.assert_allclose(again, read(trained, stored['t']), rtol=0, atol=5e-3)


@pytest.mark.parametrize('bits', [8, 4])
def test_gradient_is_that_of_the_full_row(bits):
  codec = compress.fake_quantize(bits)(FULL)
  weight = jnp.asarray(np.random.default_rng(1).normal(size=(60, 7)), jnp.float32)
  found = jax.grad(lambda rows: jnp.sum(codec.decode(rows) * weight))(TABLE)
  np.testing.assert_array_equal(found, weight)


@pytest.mark.parametrize('bits', [8, 4, 2])
def test_learned_step_has_lsqs_value_and_gradients(bits):
  codec = compress.fake_quantize(bits, step='learned')(FULL)
  top = 2 ** (bits - 1) - 1
  weight = np.random.default_rng(1).normal(size=(60, 7))
  log_step = jnp.log(jnp.asarray([0.9 * float(jnp.abs(TABLE).max()) / top], jnp.float32))

  def objective(table, log_step):
    return jnp.sum(codec.decode({'table': table, 'log_step': log_step}) * weight.astype(np.float32))

  by_table, by_step = jax.grad(objective, argnums=(0, 1))(TABLE, log_step)
  step = float(jnp.exp(log_step[0]))
  v = np.asarray(TABLE, np.float64) / step
  inside = np.abs(v) < top
  assert 0 < inside.mean() < 1
  value = np.clip(np.round(v), -top, top) * step
  np.testing.assert_allclose(codec.decode({'table': TABLE, 'log_step': log_step}), value, rtol=1e-5)
  np.testing.assert_allclose(by_table, np.where(inside, weight, 0), rtol=1e-5)
  slope = np.where(inside, np.round(v) - v, np.sign(v) * top)
  want = np.sum(weight * slope) / np.sqrt(v.size * top) * step  # By the logarithm: times the step.
  np.testing.assert_allclose(by_step[0], want, rtol=1e-3)


def test_learned_step_starts_from_the_rows():
  codec = compress.fake_quantize(8, step='learned')(FULL)
  found = float(jnp.exp(codec.encode(TABLE)['log_step'][0]))
  np.testing.assert_allclose(found, 2 * float(jnp.abs(TABLE).mean()) / np.sqrt(127), rtol=1e-5)
  drawn = leaf.init(codec.plan, jax.random.key(0))
  expected = 2 * 0.5 * np.sqrt(2 / np.pi) / np.sqrt(127)  # Mean |x| of N(0, 0.5²).
  np.testing.assert_allclose(float(jnp.exp(drawn['log_step'][0])), expected, rtol=0.1)


@pytest.mark.parametrize('arguments, message', [((3,), '8, 4 or 2'), ((8, 'none'), "'learned'")])
def test_bad_settings(arguments, message):
  with pytest.raises(ValueError, match=message):
    compress.fake_quantize(*arguments)
