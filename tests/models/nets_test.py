"""Every net: against float64 NumPy, against finite differences, and the promises all nets make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax import models
from ctr_jax.models import fm
from tests.models import interactions_reference, reference

BATCH = 32
SMALL = {
  'lr': {},
  'fm': {},
  'fwfm': {},
  'dnn': {'hidden': (7, 5)},
  'deepfm': {'hidden': (7, 5)},
  'dcn': {'hidden': (7, 5), 'cross_layers': 2},
  'dcnv2': {'hidden': (7, 5), 'cross_layers': 2},
  'autoint': {'heads': 2, 'attention_units': 6, 'attention_layers': 2},
  'autoint_plus': {'hidden': (7,), 'heads': 3, 'attention_units': 6, 'attention_layers': 2},
  'final_mlp': {'hidden1': (6,), 'hidden2': (7, 4), 'heads': 2, 'gate': (5,), 'context2': (0,)},
  'fibinet': {'hidden': (7, 5), 'reduction': 2},
  'inner_product': {'hidden': (7, 5)},
  'relation': {'hidden': (7, 5), 'heads': 2},
  'relation_deepfm': {'hidden': (7, 5), 'heads': 1},
  'relation_dcn': {'hidden': (7, 5), 'heads': 2, 'cross_layers': 2},
  'relation_dcnv2': {'hidden': (7, 5), 'mode': 'attentive', 'heads': 2, 'cross_layers': 2},
}
SHALLOW = ('lr', 'fm', 'fwfm')
DEEP = [name for name in SMALL if name not in (*SHALLOW, 'autoint')]
# (fields, dim): the usual, one field, odd widths.
SIZES = [(4, 3), (1, 5), (3, 1)]
# Logged by BARS for Frappe_x1: 5,389 rows of 10 (of 11 with a linear weight), and the net. Their
# 'DNN' was two MLPs side by side, and their DeepFM had no second bias.
ROWS = 5389
LOGGED = {
  'lr': 5_390,
  'fm': 59_280,
  'deepfm': 423_280,
  'dcn': 418_591,
  'dcnv2': 458_391,
  'autoint': 306_051,
  'autoint_plus': 622_180,
  'inner_product': 433_491,
  'fwfm': 107_826,
  'fibinet': 743_480,
}
OPTIONS = {
  'inner_product': {'batch_norm': False},
  'fwfm': {'linear': 'feature'},
  'fibinet': {'bilinear': 'all', 'reduction': 2},
}


def make(name, **more):
  """The net, small and by default without dropout."""
  deep = name not in SHALLOW
  return models.NETS[name](**SMALL[name] | ({'dropout': 0.0} | more if deep else {}))


def vectors_for(net, fields, dim, dtype=np.float32):
  shape = (BATCH, fields, net.width(dim))
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), dtype)


def start(net, vectors):
  """Variables of the net's shapes, none of them at a special value. NumPy, so nothing compiles."""
  rng = np.random.default_rng(1)

  def fill(path, x):
    values = rng.uniform(0.2, 0.8, x.shape)
    may_be_negative = path[-1].key not in ('scale', 'variance')
    sign = rng.choice([-1, 1], x.shape) if may_be_negative else 1
    return jnp.asarray(values * sign, x.dtype)

  init = lambda v: net.init(jax.random.key(0), v, train=False)  # noqa: E731
  return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(init, vectors))


def train(net, variables, vectors, key=4):
  rngs = {'dropout': jax.random.key(key)}
  return net.apply(variables, vectors, train=True, rngs=rngs, mutable=['batch_stats'])


def evaluate(net, variables, vectors):
  return net.apply(variables, vectors, train=False)


def as_float64(tree):
  return jax.tree.map(lambda v: np.asarray(v, np.float64), tree)


def expected_of(name, variables, vectors, is_training):
  there = as_float64(variables)
  stats = there.get('batch_stats', {})
  vectors, params = np.asarray(vectors, np.float64), there['params']
  options = (params, stats, is_training)
  joined = None
  if name == 'fwfm':
    return interactions_reference.fwfm(vectors, params), {}
  if name == 'fibinet':
    return interactions_reference.fibinet(vectors, *options)
  if name == 'final_mlp':
    return interactions_reference.final_mlp(vectors, *options, heads=2, contexts=((0,), (0,)))
  if name.startswith('autoint'):
    heads, scaled = SMALL[name]['heads'], name == 'autoint_plus'
    return interactions_reference.autoint(vectors, *options, heads=heads, scaled=scaled)
  if name == 'inner_product':
    joined = interactions_reference.relations(vectors, [np.eye(vectors.shape[2])])
  elif name.startswith('relation'):
    name = name.removeprefix('relation').lstrip('_')
    seen = vectors[:, :, 1:] if name == 'deepfm' else vectors
    joined = interactions_reference.relation(seen, params['interaction'])
  return reference.logit(name, vectors, *options, joined=joined)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('name', models.NETS)
def test_forward_is_the_reference(name, size):
  if name == 'fibinet' and size[0] == 1:
    pytest.skip('It reads nothing but pairs.')
  net = make(name)
  vectors = vectors_for(net, *size)
  variables = start(net, vectors)
  logit = evaluate(net, variables, vectors)
  assert logit.shape == (BATCH,)
  assert logit.dtype == jnp.float32
  expected, _ = expected_of(name, variables, vectors, False)
  np.testing.assert_allclose(logit, expected, rtol=1e-4, atol=1e-4)

  logit, update = train(net, variables, vectors)
  expected, stats = expected_of(name, variables, vectors, True)
  np.testing.assert_allclose(logit, expected, rtol=1e-4, atol=1e-4)
  found = update.get('batch_stats', {})
  assert jax.tree.structure(found) == jax.tree.structure(stats)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, stats)


@pytest.mark.parametrize('name', models.NETS)
def test_everything_is_float32(name):
  net = make(name)
  variables = start(net, vectors_for(net, 3, 4))
  assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


_SLOW = ('final_mlp', 'autoint_plus')  # To compile.


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=[pytest.mark.long] * (n in _SLOW)) for n in models.NETS]
)
def test_gradient_is_the_slope(name):
  """Along a random direction of parameters and vectors, dropout on, in float64."""
  with jax.enable_x64(True):
    net = make(name, dropout=0.3)
    vectors = vectors_for(net, 3, 4, dtype=np.float64)
    variables = start(net, vectors)
    rest = {k: v for k, v in variables.items() if k != 'params'}

    def loss(at):
      params, vectors = at
      return jnp.sum(jnp.sin(train(net, rest | {'params': params}, vectors)[0]))

    at = (variables['params'], vectors)
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), at)
    gradient = jax.grad(loss)(at)
    slope = sum(
      np.sum(g * d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True)
    )
    move = lambda step: jax.tree.map(lambda x, d: x + step * d, at, direction)  # noqa: E731
    step = 1e-6
    expected = (loss(move(step)) - loss(move(-step))) / (2 * step)
    np.testing.assert_allclose(slope, expected, rtol=1e-5)


@pytest.mark.parametrize('name', LOGGED)
def test_parameters_are_as_many_as_the_benchmark_logged(name):
  net = models.NETS[name](**OPTIONS.get(name, {}))
  vectors = jax.ShapeDtypeStruct((2, 10, net.width(10)), jnp.float32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  init = lambda key, vectors: net.init(key, vectors, train=False)  # noqa: E731
  params = jax.eval_shape(init, key, vectors)['params']
  count = sum(x.size for x in jax.tree.leaves(params))
  assert count + ROWS * net.width(10) == LOGGED[name]


def test_the_dnn_is_one_of_the_two_mlps_that_the_benchmark_logged():
  net = models.NETS['dnn']()
  init = lambda: net.init(jax.random.key(0), jnp.zeros((2, 10, 10)), train=False)  # noqa: E731
  count = sum(x.size for x in jax.tree.leaves(jax.eval_shape(init)['params']))
  assert 2 * count + ROWS * 10 == 781_892


def test_widths():
  widths = {name: models.NETS[name]().width(10) for name in models.NETS}
  linear = {'fm': 11, 'fwfm': 11, 'deepfm': 11, 'relation_deepfm': 11, 'fibinet': 11}
  assert widths == dict.fromkeys(models.NETS, 10) | linear | {'lr': 1}


@pytest.mark.parametrize('name', models.NETS)
def test_a_second_call_does_not_recompile(name):
  net = make(name, dropout=0.2)
  vectors = vectors_for(net, 3, 4)
  variables = start(net, vectors)
  traces = []

  @jax.jit
  def step(variables, vectors, key):
    traces.append(1)
    rngs = {'dropout': key}
    return net.apply(variables, vectors, train=True, rngs=rngs, mutable=['batch_stats'])

  first, update = step(variables, vectors, jax.random.key(0))
  second, _ = step(variables | update, vectors + 1.0, jax.random.key(1))
  assert len(traces) == 1
  assert not np.allclose(first, second)


@pytest.mark.parametrize('name', DEEP)
def test_dropout_depends_on_the_key_in_training_only(name):
  net = make(name, dropout=0.5)
  vectors = vectors_for(net, 3, 4)
  variables = start(net, vectors)
  first, again, other = (train(net, variables, vectors, key)[0] for key in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert not np.allclose(first, other)
  evaluated = evaluate(net, variables, vectors)  # Without a 'dropout' stream.
  assert not np.allclose(first, evaluated)


@pytest.mark.parametrize('name', DEEP)
def test_batch_norm_can_be_left_out(name):
  net = make(name, batch_norm=False)
  vectors = vectors_for(net, 3, 4)
  variables = start(net, vectors)
  assert set(variables) == {'params'}
  expected, _ = expected_of(name, variables, vectors, True)
  np.testing.assert_allclose(train(net, variables, vectors)[0], expected, rtol=1e-4, atol=1e-4)


def test_pairs_are_inner_products_of_pairs():
  vectors = jax.random.normal(jax.random.key(0), (5, 6, 3))
  expected = reference.pairs(np.asarray(vectors, np.float64))
  np.testing.assert_allclose(fm.pairs(vectors), expected, rtol=1e-5, atol=1e-5)
