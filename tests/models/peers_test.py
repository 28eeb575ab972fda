"""What the peers' options change: linear parts, bilinear kinds, gates and fusion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax.models import autoint, fibinet, final_mlp, fm, fwfm
from tests.models import interactions_reference as reference

BATCH, FIELDS, DIM = 11, 4, 3


def draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def start(net, *arguments, seed=1, **options):
  """Parameters of the net's shapes, none of them at a special value."""
  shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), *arguments, **options))
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes)


def as_float64(tree):
  return jax.tree.map(lambda v: np.asarray(v, np.float64), tree)


def close(found, expected):
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_fwfm_with_weights_of_one_is_the_factorization_machine():
  vectors = draw(BATCH, FIELDS, DIM + 1)
  pairs = FIELDS * (FIELDS - 1) // 2
  variables = {'params': {'bias': jnp.zeros(1), 'pairs': jnp.ones(pairs)}}
  plain = fm.FM().apply({'params': {'bias': jnp.zeros(1)}}, vectors, train=False)
  close(fwfm.FwFM().apply(variables, vectors, train=False), plain)


def test_fwfm_has_three_linear_parts():
  v, w, bias = draw(BATCH, FIELDS, DIM), draw(BATCH, FIELDS, DIM, seed=2), 0.3
  pairs = draw(FIELDS * (FIELDS - 1) // 2, seed=3)
  params = {'bias': jnp.array([bias]), 'pairs': pairs}
  nothing = jnp.zeros((BATCH, FIELDS, 1))
  crossed = reference.fwfm(*as_float64((jnp.concatenate([nothing, v], 2), params)))

  by_feature = fwfm.FwFM('feature')
  assert by_feature.width(DIM) == 2 * DIM
  found = by_feature.apply({'params': params}, jnp.concatenate([w, v], 2), train=False)
  close(found, crossed + np.sum(np.asarray(w * v, np.float64), axis=(1, 2)))

  by_field = fwfm.FwFM('field')
  assert by_field.width(DIM) == DIM
  weights = draw(FIELDS * DIM, 1, seed=4)
  found = by_field.apply({'params': params | {'linear': weights}}, v, train=False)
  close(found, crossed + np.asarray(v.reshape(BATCH, -1) @ weights, np.float64)[:, 0])

  with pytest.raises(ValueError, match='weight, field, feature'):
    fwfm.FwFM('other').width(DIM)


@pytest.mark.parametrize(('kind', 'matrices'), [('all', 1), ('each', 3), ('interaction', 6)])
def test_bilinear_kinds_differ_in_what_pairs_share(kind, matrices):
  vectors, net = draw(BATCH, FIELDS, DIM), fibinet.Bilinear(kind)
  variables = start(net, vectors)
  kernel = variables['params']['kernel']
  assert kernel.shape == (matrices, DIM, DIM)
  found = net.apply(variables, vectors).reshape(BATCH, -1)
  close(found, reference.bilinear(*as_float64((vectors, kernel))))
  # The same matrix everywhere is what 'all' does.
  same = {'params': {'kernel': jnp.broadcast_to(kernel[:1], kernel.shape)}}
  shared = fibinet.Bilinear('all').apply({'params': {'kernel': kernel[:1]}}, vectors)
  close(net.apply(same, vectors), shared)


def test_bilinear_asks_for_a_kind_and_two_fields():
  with pytest.raises(ValueError, match='all, each, interaction'):
    start(fibinet.Bilinear('other'), draw(BATCH, FIELDS, DIM))
  with pytest.raises(ValueError, match='two fields'):
    start(fibinet.Bilinear(), draw(BATCH, 1, DIM))


def logits(net, variables, vectors):
  return np.asarray(net.apply(variables, vectors, train=False))


def final(**options):
  small = {'hidden1': (4,), 'hidden2': (6,), 'heads': 2, 'gate': (5,), 'dropout': 0.0}
  return final_mlp.FinalMLP(batch_norm=False, **small | options)


@pytest.mark.parametrize('contexts', [((), ()), ((0, 2), (3,)), ((1,), ())])
def test_final_mlp_contexts_are_fields_or_a_constant(contexts):
  net = final(context1=contexts[0], context2=contexts[1])
  vectors = draw(BATCH, FIELDS, DIM)
  variables = start(net, vectors, train=False)
  params = as_float64(variables['params'])
  expected, _ = reference.final_mlp(
    np.asarray(vectors, np.float64), params, {}, False, heads=2, contexts=contexts
  )
  close(logits(net, variables, vectors), expected)


@pytest.mark.parametrize('contexts', [((0,), (FIELDS,)), ((FIELDS + 2, 0), ())])
def test_final_mlp_refuses_a_context_that_is_no_field(contexts):
  net, vectors = final(context1=contexts[0], context2=contexts[1]), draw(BATCH, FIELDS, DIM)
  with pytest.raises(ValueError, match=f'reads the field number .*there are {FIELDS}'):
    start(net, vectors, train=False)


def test_final_mlp_without_gates_is_gates_of_one():
  vectors, gated, plain = draw(BATCH, FIELDS, DIM), final(), final(gate=None)
  variables = start(gated, vectors, train=False)
  for name in ('gate1', 'gate2'):  # 2σ(0) = 1
    output = variables['params'][name]['output']
    variables['params'][name]['output'] = jax.tree.map(jnp.zeros_like, output)
  kept = {k: v for k, v in variables['params'].items() if not k.startswith('gate')}
  close(logits(plain, {'params': kept}, vectors), logits(gated, variables, vectors))


def test_final_mlp_gates_may_have_columns_of_their_own():
  net, own = final(), final(shared=False)
  assert (net.width(DIM), own.width(DIM)) == (DIM, 2 * DIM)
  vectors, other = draw(BATCH, FIELDS, DIM), draw(BATCH, FIELDS, DIM, seed=5)
  variables = start(net, vectors, train=False)
  twice = jnp.concatenate([vectors, vectors], axis=2)
  close(logits(own, variables, twice), logits(net, variables, vectors))
  apart = jnp.concatenate([vectors, other], axis=2)
  found = logits(own, variables, apart)
  assert not np.allclose(found, logits(own, variables, twice), atol=1e-2)
  # Only the columns of the context fields, 0 and 1, are read.
  rest = apart.at[:, 2:, DIM:].set(0.0)
  np.testing.assert_array_equal(logits(own, variables, rest), found)


def test_fusion_of_one_head_is_the_full_bilinear_form():
  x, y = draw(BATCH, 4), draw(BATCH, 6, seed=2)
  variables = start(final_mlp.Fusion(1), x, y)
  params = as_float64(variables['params'])
  linear = np.concatenate([x, y], 1) @ params['linear']['kernel'] + params['linear']['bias']
  form = np.einsum('bx,xy,by->b', x, params['kernel'].reshape(4, 6), y)
  close(final_mlp.Fusion(1).apply(variables, x, y), linear[:, 0] + form)


def test_fusion_heads_have_to_divide_the_streams():
  with pytest.raises(ValueError, match='3 heads have to divide'):
    start(final_mlp.Fusion(3), draw(BATCH, 4), draw(BATCH, 6))


def test_attention_of_one_field_attends_to_itself():
  # One field: the weight is 1 whatever query and key say.
  x, layer = draw(BATCH, 1, DIM), autoint.Attention(units=4, heads=2)
  variables = start(layer, x, train=False)
  params = variables['params']
  expected = np.maximum(np.asarray(x @ params['value'] + x @ params['residual']), 0)
  close(layer.apply(variables, x, train=False), expected)


def test_attention_heads_have_to_divide_its_units():
  with pytest.raises(ValueError, match='3 heads cannot share 4 units'):
    start(autoint.Attention(units=4, heads=3), draw(BATCH, FIELDS, DIM), train=False)


def test_attention_drops_weights_in_training_only():
  x, layer = draw(BATCH, FIELDS, 4), autoint.Attention(units=4, heads=2, rate=0.5)
  variables = start(layer, x, train=False)
  dropped = [
    layer.apply(variables, x, train=True, rngs={'dropout': jax.random.key(k)}) for k in (0, 0, 1)
  ]
  np.testing.assert_array_equal(dropped[0], dropped[1])
  assert not np.allclose(dropped[0], dropped[2])
  assert not np.allclose(dropped[0], layer.apply(variables, x, train=False))
