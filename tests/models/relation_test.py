"""The relational network: what its formula promises, and that nets take it without other change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax import models
from ctr_jax.models import dcn, dnn, fm, inner_product, relation
from tests.models import interactions_reference as reference

BATCH, FIELDS, DIM, HEADS = 9, 5, 4, 3
PAIRS = FIELDS * (FIELDS - 1) // 2


def draw(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture
def vectors():
  return draw(BATCH, FIELDS, DIM)


def symmetric(seed=1, heads=HEADS):
  halves = draw(heads, DIM, DIM, seed=seed)
  return (halves + halves.transpose(0, 2, 1)) / 2


def squares(vectors, matrices):
  """The columns of `pairs` as [batch, fields, fields, heads], nan where there is no column."""
  columns = np.asarray(relation.pairs(vectors, matrices)).reshape(len(vectors), -1, len(matrices))
  i, j = np.triu_indices(vectors.shape[1], 1)
  full = np.full((len(vectors), vectors.shape[1], vectors.shape[1], len(matrices)), np.nan)
  full[:, i, j] = columns
  return full


def test_a_pair_is_the_same_from_both_sides(vectors):
  # Exchanging two fields moves r_ij to r_ji's place: only a symmetric form leaves its value.
  swapped = vectors[:, jnp.array([1, 0, 2, 3, 4])]
  once, again = squares(vectors, symmetric()), squares(swapped, symmetric())
  np.testing.assert_allclose(again[:, 0, 1], once[:, 0, 1], rtol=1e-4, atol=1e-5)
  lopsided = draw(HEADS, DIM, DIM, seed=1)
  once, again = squares(vectors, lopsided), squares(swapped, lopsided)
  assert not np.allclose(again[:, 0, 1], once[:, 0, 1], rtol=1e-2)


def test_the_module_makes_any_parameter_symmetric(vectors):
  net = relation.Relation(HEADS)
  halves = draw(HEADS, DIM, DIM, seed=3)
  found = [net.apply({'params': {'matrices': a}}, vectors) for a in (halves, halves.mT)]
  np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)
  expected = reference.relation(
    np.asarray(vectors, np.float64), {'matrices': np.asarray(halves, np.float64)}
  )
  np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)


def test_the_identity_gives_inner_products(vectors):
  found = relation.pairs(vectors, jnp.eye(DIM)[None])
  e = np.asarray(vectors, np.float64)
  gram = np.einsum('bid,bjd->bij', e, e)[(slice(None), *np.triu_indices(FIELDS, 1))]
  np.testing.assert_allclose(found, gram, rtol=1e-4, atol=1e-5)
  layer = inner_product.InnerProduct()
  np.testing.assert_array_equal(layer.apply({}, vectors), found)
  np.testing.assert_allclose(jnp.sum(found, axis=1), fm.pairs(vectors), rtol=1e-4, atol=1e-4)


def test_rank_one_is_a_product_of_projections(vectors):
  a = draw(DIM, seed=5)
  found = relation.pairs(vectors, jnp.outer(a, a)[None])
  projected = np.asarray(vectors @ a, np.float64)
  i, j = np.triu_indices(FIELDS, 1)
  np.testing.assert_allclose(found, projected[:, i] * projected[:, j], rtol=1e-3, atol=1e-4)


def test_permuted_fields_permute_the_pairs(vectors):
  order = np.array([3, 0, 4, 1, 2])
  found = squares(vectors[:, jnp.asarray(order)], symmetric())
  plain = squares(vectors, symmetric())
  both = np.where(np.isnan(plain), plain.transpose(0, 2, 1, 3), plain)  # r_ij = r_ji
  i, j = np.triu_indices(FIELDS, 1)
  np.testing.assert_allclose(found[:, i, j], both[:, order[i], order[j]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('fields', [1, 2, 5])
def test_the_backward_is_that_of_the_formula(fields):
  with jax.enable_x64(True):
    vectors, matrices = (
      jnp.asarray(x, jnp.float64) for x in (draw(BATCH, fields, DIM), symmetric())
    )
    columns = fields * (fields - 1) // 2 * HEADS
    weight = jnp.asarray(draw(BATCH, columns, seed=7), jnp.float64)
    i, j = np.triu_indices(fields, 1)

    def plain(vectors, halves):
      s = (halves + halves.mT) / 2
      r = jnp.einsum('bid,hde,bje->bijh', vectors, s, vectors)
      return jnp.sum(weight * r[:, i, j].reshape(BATCH, -1) ** 2)

    def ours(vectors, halves):
      return jnp.sum(weight * relation.pairs(vectors, (halves + halves.mT) / 2) ** 2)

    found, expected = (jax.grad(f, argnums=(0, 1))(vectors, matrices) for f in (ours, plain))
    for a, b in zip(found, expected, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_attention_without_values_is_the_identity(vectors):
  zero, values = jnp.zeros((HEADS, DIM, DIM)), draw(HEADS, DIM, DIM, seed=6)
  np.testing.assert_array_equal(relation.attend(vectors, symmetric(), zero), vectors)
  assert not np.allclose(relation.attend(vectors, symmetric(), values), vectors, atol=0.1)


def test_attention_is_the_reference_and_follows_permuted_fields(vectors):
  values = draw(HEADS, DIM, DIM, seed=6)
  found = relation.attend(vectors, symmetric(), values)
  wide = [np.asarray(x, np.float64) for x in (vectors, symmetric(), values)]
  np.testing.assert_allclose(found, reference.attend(*wide), rtol=1e-3, atol=1e-4)
  order = jnp.array([3, 0, 4, 1, 2])
  permuted = relation.attend(vectors[:, order], symmetric(), values)
  np.testing.assert_allclose(permuted, found[:, order], rtol=1e-3, atol=1e-4)


def test_equal_matrices_weigh_all_fields_alike(vectors):
  # S = 0: softmax is uniform, so every field takes the mean of the vectors.
  values = draw(1, DIM, DIM, seed=6)
  found = relation.attend(vectors, jnp.zeros((1, DIM, DIM)), values)
  mean = np.asarray(vectors).mean(1, keepdims=True) @ np.asarray(values[0])
  np.testing.assert_allclose(found, np.asarray(vectors) + mean, rtol=1e-4, atol=1e-5)


def test_columns_and_parameters_are_as_many_as_said(vectors):
  for mode, columns, matrices in (('pairwise', PAIRS * HEADS, 1), ('attentive', FIELDS * DIM, 2)):
    net = relation.Relation(HEADS, mode)
    y, variables = net.init_with_output(jax.random.key(0), vectors)
    assert y.shape == (BATCH, columns)
    count = sum(x.size for x in jax.tree.leaves(variables))
    assert count == matrices * HEADS * DIM * DIM


def test_heads_start_apart_and_near_inner_products():
  variables = relation.Relation(8).init(jax.random.key(0), jnp.ones((2, 3, 64)))
  noise = np.asarray(variables['params']['matrices']) - np.eye(64)
  assert abs(noise.std() * 8 - 1) < 0.05  # Eight heads do not make the draws smaller.
  assert np.abs(noise[0] - noise[1]).max() > 0.1


def test_an_unknown_mode_is_a_sentence(vectors):
  with pytest.raises(ValueError, match="'pairwise' or 'attentive'"):
    relation.Relation(1, 'other').init(jax.random.key(0), vectors)


def test_a_net_without_interaction_has_the_parameters_it_had(vectors):
  keys = {'params': jax.random.key(0)}
  for net in (dnn.DNN(hidden=(6,)), dcn.DCN(hidden=(6,))):
    shapes = jax.eval_shape(lambda v, net=net: net.init(keys, v, train=False), vectors)
    assert 'interaction' not in shapes['params']
    assert shapes['params']['mlp']['layer_0']['kernel'].shape == (FIELDS * DIM, 6)


def test_the_mlp_reads_the_relation_beside_the_vectors(vectors):
  net = models.NETS['relation_dcn'](hidden=(6,), heads=HEADS, dropout=0.0)
  variables = net.init({'params': jax.random.key(0)}, vectors, train=False)
  kernel = variables['params']['mlp']['layer_0']['kernel']
  assert kernel.shape == (FIELDS * DIM + PAIRS * HEADS, 6)
  # With zeros where the relation enters, what is left is the net without it.
  without = jax.tree.map(lambda x: x, variables)
  del without['params']['interaction']
  without['params']['mlp']['layer_0']['kernel'] = kernel[: FIELDS * DIM]
  variables['params']['mlp']['layer_0']['kernel'] = kernel.at[FIELDS * DIM :].set(0)
  plain = dcn.DCN(hidden=(6,), dropout=0.0).apply(without, vectors, train=False)
  found = net.apply(variables, vectors, train=False)
  np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)
  variables['params']['mlp']['layer_0']['kernel'] = kernel
  assert not np.allclose(net.apply(variables, vectors, train=False), plain, atol=1e-3)
