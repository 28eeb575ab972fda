"""Gates: what they multiply by, the gradient of the relaxed draw, prices, and one draw a sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax import compress
from ctr_jax.compress import gate
from ctr_jax.compress.fscd import alpha, prior
from ctr_jax.tables import leaf

ROWS, COLS = 50, 6
FULL = leaf.Leaf((ROWS, COLS))
SAMPLE = np.int32([0, 0, 0, 1, 1, 2, 3, 3])


def table(rows=ROWS):
  return jnp.asarray(np.random.default_rng(0).normal(size=(rows, COLS)), jnp.float32)


def gathered(technique, reads=8, logit=0.7):
  codec = technique(FULL)
  value = jnp.full(codec.plan['gate'].shape, logit, jnp.float32)
  return codec, {'table': table()[:reads], 'gate': value}


def uniforms(rng, sample, cols):
  """What the gate draws, by its definition: the logistic noise of a fair coin at temperature 1."""
  z = gate.concrete(jnp.zeros((1, cols)), jnp.zeros((len(sample), COLS)), rng, sample, 1.0)
  return np.asarray(z, np.float64)  # σ(log u − log(1 − u)) = u.


@pytest.mark.parametrize('per', ['field', 'column'])
def test_gradient_of_the_relaxed_gate_is_that_of_float64(per):
  codec, rows = gathered(compress.droprank(per=per, temperature=0.5))
  rng, weights = jax.random.key(3), table()[20:28]

  def loss(value):
    found = codec.decode(rows | {'gate': value}, train=True, rng=rng, sample=jnp.asarray(SAMPLE))
    return jnp.sum(found * weights)

  u = uniforms(rng, SAMPLE, rows['gate'].shape[0])
  values, product = np.asarray(rows['gate'], np.float64), np.asarray(rows['table'] * weights)

  def reference(x):
    z = 1 / (1 + np.exp(-(x[None] + np.log(u) - np.log1p(-u)) / 0.5))
    return np.sum(product.astype(np.float64) * z)

  basis = 1e-6 * np.eye(len(values))
  slope = [(reference(values + e) - reference(values - e)) / 2e-6 for e in basis]
  np.testing.assert_allclose(jax.grad(loss)(rows['gate']), slope, rtol=2e-4)
  np.testing.assert_allclose(loss(rows['gate']), reference(values), rtol=1e-5)


def test_gradient_of_fscd_is_that_of_float64():
  codec, rows = gathered(compress.fscd(0.01), logit=0.3)
  rng = jax.random.key(5)

  def loss(value):
    found = codec.decode(rows | {'gate': value}, train=True, rng=rng, sample=jnp.asarray(SAMPLE))
    return jnp.sum(found) + codec.penalty(rows | {'gate': value}, step=jnp.int32(1))

  u, x, total = uniforms(rng, SAMPLE, 1), 0.3, np.asarray(rows['table'], np.float64)

  def reference(x):
    keep = 1 / (1 + np.exp(-x))
    z = 1 / (1 + np.exp(-(x + np.log(u) - np.log1p(-u)) / 0.1))
    return np.sum(total * z) / keep + 0.01 * keep

  slope = (reference(x + 1e-6) - reference(x - 1e-6)) / 2e-6
  np.testing.assert_allclose(jax.grad(loss)(rows['gate'])[0], slope, rtol=1e-3)


@pytest.mark.parametrize('technique', [compress.droprank(), compress.fscd(0.1)])
def test_values_of_one_sample_share_a_draw(technique):
  codec, rows = gathered(technique)
  ones = rows | {'table': jnp.ones((8, COLS))}
  found = codec.decode(ones, train=True, rng=jax.random.key(0), sample=jnp.asarray(SAMPLE))
  for sample in range(4):
    own = np.asarray(found)[sample == SAMPLE]
    np.testing.assert_array_equal(own, np.broadcast_to(own[:1, :1], own.shape))
  assert len(np.unique(np.asarray(found)[:, 0])) > 1


def test_draws_keep_with_the_gates_probability_and_differ_by_step():
  logit, n = np.log(0.7 / 0.3), 40_000
  rows = jnp.ones((n, 1))
  z = [
    np.asarray(gate.concrete(jnp.full((1, 1), logit), rows, jax.random.key(k), None, 0.01))
    for k in (0, 1)
  ]
  # Five standard deviations of a share of n coins.
  assert abs((z[0] > 0.5).mean() - 0.7) < 5 * np.sqrt(0.21 / n)
  assert ((z[0] > 0.5) != (z[1] > 0.5)).mean() > 0.3


def test_columns_of_a_sample_are_drawn_apart():
  z = gate.concrete(jnp.zeros((1, 2)), jnp.ones((40_000, 2)), jax.random.key(0), None, 0.01)
  open_ = np.asarray(z) > 0.5
  assert abs(np.corrcoef(open_.T)[0, 1]) < 5 / np.sqrt(40_000)


@pytest.mark.parametrize('per', ['field', 'column'])
def test_droprank_costs_its_weight_whatever_the_batch_or_the_columns(per):
  codec, rows = gathered(compress.droprank(weight=0.25, per=per, anneal=100), logit=50.0)
  assert float(codec.penalty(rows, step=jnp.int32(100))) == pytest.approx(0.25)
  assert float(codec.penalty(rows, step=jnp.int32(50))) == pytest.approx(0.125)
  few = {'table': rows['table'][:2], 'gate': rows['gate']}
  assert codec.penalty(few, step=jnp.int32(50)) == codec.penalty(rows, step=jnp.int32(50))


@pytest.mark.parametrize('complexity', [-3.0, 0.0, 1e-3, 0.7, 12.0])
def test_the_papers_prior_is_a_linear_price(complexity):
  assert alpha(prior(complexity)) == pytest.approx(complexity, abs=1e-9)


def test_prices_have_the_mean_that_is_asked_for_and_follow_their_costs():
  costs = {'a': (1e-7, 100, 10), 'b': (3e-7, 100, 10), 'c': (2e-7, 700, 70)}
  found = compress.prices(costs, 0.01)
  assert np.mean(list(found.values())) == pytest.approx(0.01)
  assert found['a'] < found['b'] < found['c']
  by_bytes = compress.prices(costs, 0.01, (0.0, 1.0, 0.0))
  assert by_bytes['c'] == pytest.approx(7 * by_bytes['a'])
  with pytest.raises(ValueError, match='not all zero'):
    compress.prices(costs, 0.01, (0.0, 0.0, 0.0))


def test_a_cost_that_no_field_has_takes_nothing_from_prices():
  costs = {'a': (0.0, 100, 10), 'b': (0.0, 300, 30)}
  assert np.mean(list(compress.prices(costs, 0.01).values())) == pytest.approx(0.01)
  with pytest.raises(ValueError, match='no field costs anything'):
    compress.prices(costs, 0.01, (1.0, 0.0, 0.0))


def test_autofield_moves_gates_and_tables_in_turns():
  codec, rows = gathered(compress.autofield(every=4))

  def slopes(step):
    def loss(rows):
      return jnp.sum(codec.decode(rows, train=True, rng=jax.random.key(1), step=jnp.int32(step)))

    found = jax.grad(loss)(rows)
    return bool(jnp.any(found['gate'])), bool(jnp.any(found['table']))

  assert slopes(3) == (True, False)
  assert slopes(4) == (False, True)


def test_lpfs_is_a_step_at_zero_when_epsilon_is_small():
  codec, rows = gathered(compress.lpfs(epsilon=1e-12), logit=0.0)
  np.testing.assert_array_equal(codec.decode(rows), jnp.zeros((8, COLS)))
  found = codec.decode(rows | {'gate': jnp.full((1,), 0.3)})
  np.testing.assert_allclose(found, rows['table'], rtol=1e-5)


def test_optfs_ends_open_or_closed():
  codec = compress.optfs(steps=10)(FULL)
  rows = {'table': table()[:2], 'gate': jnp.float32([0.1, -0.1])}
  late = codec.decode(rows, train=True, step=jnp.int32(10))
  np.testing.assert_allclose(late[0], rows['table'][0] / jax.nn.sigmoid(0.5), rtol=1e-5)
  np.testing.assert_allclose(late[1], jnp.zeros(COLS), atol=1e-6)


def test_a_gate_is_a_link_before_any_other():
  technique = compress.chain(compress.droprank(), compress.multi_hash(8), compress.int_quantize(8))
  codec = technique(FULL)
  stored = jax.jit(codec.encode)(table())
  assert compress.strength(stored) == pytest.approx(np.log(9), rel=1e-6)
  with pytest.raises(ValueError, match='One gate is expected'):
    compress.strength({'table': table()})


def test_strength_of_gates_of_ids_is_by_reads():
  stored = {'table': table(4), 'gate': jnp.float32([1.0, 0.0, 0.0, -1.0])}
  assert compress.strength(stored, np.array([3, 1, 0, 0])) == pytest.approx(0.75)
  assert compress.strength(stored) == 0.0


@pytest.mark.parametrize(
  ('make', 'words'),
  [
    (lambda: compress.droprank(per='row'), "per 'field' or per 'column'"),
    (lambda: compress.droprank(start=1.0), '0 < start < 1'),
    (lambda: compress.fscd(-1.0), 'price ≥ 0'),
    (lambda: compress.lpfs(epsilon=0), 'epsilon > 0'),
    (lambda: compress.autofield(every=1), 'every ≥ 2'),
    (lambda: compress.optfs(sharpness=0.5), 'sharpness ≥ 1'),
  ],
)
def test_settings_that_make_no_sense_are_refused(make, words):
  with pytest.raises(ValueError, match=words):
    make()


def test_a_table_that_nobody_read_has_no_mean_by_reads():
  with pytest.raises(ValueError, match='No id of the table was read'):
    gate.strength({'gate': np.ones(3), 'table': np.ones((3, 2))}, np.zeros(3))
