"""What holds of every method: gradients, nodes without edges, messages in blocks, no bias lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax.data import pairs
from ctr_jax.graphs import blocks, graph, pcf_gnn, sample

ROWS = {'a': 12, 'b': 9}
LONELY = (0, 11, 12)  # Nodes of rows without any pair: both rows 0, and the last of `a`.


def small():
  """Two relations of the same two tables, one from a to b and one back."""
  rng = np.random.default_rng(0)
  made = []
  for first, second, sizes in (('a', 'b', (10, 8)), ('b', 'a', (8, 10))):
    cell = rng.choice(80, 30, replace=False)
    u, v = (x.astype(np.int32) + 1 for x in np.divmod(cell, sizes[1]))
    count = rng.integers(1, 30, 30)
    made.append(pairs.Pairs(first, second, u, v, rng.binomial(count, 0.3), count))
  return graph.build(made, {'a': 'a', 'b': 'b'}, ROWS, 0.3)


def start(method):
  """(model, parameters with nothing left at zero, the whole graph as a batch)."""
  found, rng = small(), np.random.default_rng(1)
  model = pcf_gnn.model(method, found.nodes, len(found.relations), dim=3)
  shapes = jax.eval_shape(lambda: pcf_gnn.init(model, jax.random.key(0)))
  params = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape).astype('f4'), shapes)
  return model, params, sample.whole(found, found)


def scored(model, params, batch):
  return model.apply({'params': params}, batch.messages, batch.u, batch.v, batch.relation)


def loss(model, params, batch):
  p = scored(model, params, batch)
  return jnp.sum(batch.weight * jnp.square(batch.target - p)) / jnp.sum(batch.weight)


@pytest.mark.parametrize('method', pcf_gnn.METHODS)
def test_gradients_are_those_of_small_steps(method):
  model, params, batch = start(method)
  gradients = jax.jit(jax.grad(lambda p: loss(model, p, batch)))(params)
  rng = np.random.default_rng(2)
  way = jax.tree.map(lambda x: rng.normal(size=x.shape), params)

  def wide(x):
    return np.asarray(x, np.float64) if x.dtype == np.float32 else x

  with jax.enable_x64(True):
    params, batch = jax.tree.map(wide, (params, batch))

    @jax.jit
    def value(t):
      return loss(model, jax.tree.map(lambda x, d: x + t * d, params, way), batch)

    slope = (value(1e-5) - value(-1e-5)) / 2e-5
  along = sum(
    np.vdot(np.asarray(g, np.float64), d)
    for g, d in zip(jax.tree.leaves(gradients), jax.tree.leaves(way), strict=True)
  )
  np.testing.assert_allclose(along, float(slope), rtol=1e-4)


@pytest.mark.parametrize('method', pcf_gnn.METHODS)
def test_a_node_without_edges_has_a_finite_vector_of_its_own(method):
  model, params, batch = start(method)
  encode = jax.jit(model.encoder.apply)
  vectors = np.asarray(encode({'params': params['encoder']}, batch.messages))
  assert vectors.shape == (21, 1 if method == 'biases' else 4)
  assert np.isfinite(vectors).all()
  assert len(np.unique(vectors[list(LONELY)], axis=0)) == len(LONELY)


@pytest.mark.parametrize('method', ['dot', 'two_tower', 'gnn', 'gnn_mlp'])
def test_every_method_can_be_the_biases(method):
  """With zeros in its last layer it is c_r + b_u + b_v, to the bit."""
  model, params, batch = start(method)
  encoder, cross = params['encoder'], params['cross']
  for name in set(encoder) & {'embedding', 'output', 'layer_1'}:
    encoder[name] = jax.tree.map(jnp.zeros_like, encoder[name])
  for name in set(cross) & {'output'}:
    cross[name] = jax.tree.map(jnp.zeros_like, cross[name])
  p = scored(model, params, batch)
  bias = encoder['bias']
  want = cross['level'][batch.relation] + bias[batch.u] + bias[batch.v]
  np.testing.assert_array_equal(p, want)


@pytest.mark.parametrize('block', [1, 7, 60, 120, 1000])
def test_blocks_of_messages_give_the_same_means(monkeypatch, block):
  messages = graph.messages(small())
  h = np.random.default_rng(0).normal(size=(21, 3)).astype('f4')
  monkeypatch.setattr(blocks, 'SIZE', block)
  found = pcf_gnn.kind_means(jnp.asarray(h), messages, 4).reshape(21, 4, 3)
  want = np.zeros((21, 4, 3))
  for node in range(21):
    for kind in range(4):
      at = (messages.receivers == node) & (messages.edges['kind'] == kind)
      if at.any():
        want[node, kind] = h[messages.senders[at]].mean(axis=0)
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


def test_no_message_at_all_is_a_mean_of_nothing():
  empty = graph.messages(graph.subset(small(), np.zeros(0, np.int64)))
  found = pcf_gnn.kind_means(jnp.ones((21, 3)), empty, 4)
  np.testing.assert_array_equal(found, np.zeros((21, 12)))


def test_messages_are_ordered_and_go_both_ways():
  found = small()
  heard = graph.messages(found)
  slot = heard.receivers * 4 + heard.edges['kind']
  assert (np.diff(slot) >= 0).all()
  np.testing.assert_allclose(np.bincount(slot, heard.edges['share'])[np.unique(slot)], 1, rtol=1e-6)
  one = found.graph
  forth = zip(one.senders, one.receivers, one.edges['relation'], strict=True)
  back = zip(one.receivers, one.senders, one.edges['relation'] + 2, strict=True)
  told = zip(heard.senders, heard.receivers, heard.edges['kind'], strict=True)
  assert sorted(told) == sorted([*forth, *back])


def test_a_pair_is_held_out_in_both_orders():
  found = small()
  held = graph.held_out(found, 0.4, 0)
  pair = np.sort(np.stack([found.graph.senders, found.graph.receivers]), axis=0)
  out, known = (set(map(tuple, pair[:, x].T.tolist())) for x in (held, ~held))
  assert out
  assert not out & known
  assert len(out | known) < pair.shape[1]  # Some pairs are in both relations.


def test_unknown_methods_are_refused():
  with pytest.raises(ValueError, match='known are biases, dot'):
    pcf_gnn.init(pcf_gnn.model('gat', 4, 1), jax.random.key(0))
