"""Graphs of pairs, against dictionaries; the encoder, against a loop; parts, against the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax.data import pairs
from ctr_jax.graphs import graph, pcf_gnn, sample

ROWS = {'a': 9, 'b': 7, 'c': 5}
TABLES = {'a': 'a', 'b': 'b', 'again': 'b', 'c': 'c'}


def statistics(first, second, edges, seed):
  rng = np.random.default_rng(seed)
  sizes = ROWS[TABLES[first]], ROWS[TABLES[second]]
  cells = rng.choice((sizes[0] - 1) * (sizes[1] - 1), edges, replace=False)
  u, v = (x.astype(np.int32) + 1 for x in np.divmod(cells, sizes[1] - 1))
  count = rng.integers(1, 50, edges)
  return pairs.Pairs(first, second, u, v, rng.binomial(count, 0.3), count)


def small():
  """Three relations, of which two share a table; a node or two has no edge."""
  made = [
    statistics('a', 'b', 20, 0), statistics('b', 'again', 8, 1), statistics('c', 'a', 12, 2)
  ]  # fmt: skip
  return graph.build(made, TABLES, ROWS, 0.3), made


def test_edges_are_the_pairs():
  found, made = small()
  offset = {'a': 0, 'b': 9, 'c': 16}
  assert (found.offsets, found.nodes) == (offset, 21)
  want = {}
  for r, one in enumerate(made):
    for u, v, k, n in zip(one.u, one.v, one.clicks, one.count, strict=True):
      rate = (k + 20 * 0.3) / (n + 20)
      lift = np.log(rate / (1 - rate)) - np.log(0.3 / 0.7)
      ends = offset[TABLES[one.first]] + u, offset[TABLES[one.second]] + v
      want[(r, *ends)] = (lift, np.log(1 + n))
  g = found.graph
  keys = zip(g.edges['relation'], g.senders, g.receivers, strict=True)
  got = {tuple(map(int, k)): (t, w) for k, t, w in zip(
    keys, g.edges['target'], g.edges['weight'], strict=True)}  # fmt: skip
  assert got.keys() == want.keys()
  for key, values in got.items():
    np.testing.assert_allclose(values, want[key], rtol=1e-5)


def test_vectors_part_by_table_and_join_again():
  found, _ = small()
  vectors = np.random.default_rng(0).normal(size=(21, 3)).astype('f4')
  parts = found.split(vectors)
  assert {t: len(x) for t, x in parts.items()} == ROWS
  np.testing.assert_array_equal(parts['c'][2], vectors[18])
  np.testing.assert_array_equal(found.join(parts), vectors)


def test_what_makes_no_graph_is_refused():
  _, made = small()
  with pytest.raises(ValueError, match='row 8 is outside its table'):
    graph.build(made, TABLES, ROWS | {'a': 8}, 0.3)
  empty = made[0]._replace(u=made[0].u[:0])
  with pytest.raises(ValueError, match='the history is empty'):
    graph.build([empty], TABLES, ROWS, 0.3)


def test_held_out_edges_follow_from_pair_and_seed():
  found, made = small()
  held = graph.held_out(found, 0.4, 7)
  assert 0 < held.sum() < held.size
  turned = [pairs.Pairs(x.first, x.second, *(y[::-1] for y in x[2:])) for x in made]
  turned = graph.build(turned, TABLES, ROWS, 0.3)
  again = graph.held_out(turned, 0.4, 7)
  key = lambda g, h: set(zip(g.graph.senders[h], g.graph.receivers[h], strict=True))  # noqa: E731
  assert key(found, held) == key(turned, again)
  assert key(found, held) != key(found, graph.held_out(found, 0.4, 8))


def loop_encoder(params, found, layers):
  """float64, node by node, kind by kind, edge by edge."""
  own = np.asarray(params['embedding'], np.float64)
  g, relations = found.graph, len(found.relations)
  heard = {}
  for u, v, r in zip(g.senders, g.receivers, g.edges['relation'], strict=True):
    heard.setdefault((v, r), []).append(u)
    heard.setdefault((u, r + relations), []).append(v)
  h = own
  for i in range(layers):
    kernel, bias = (np.asarray(params[f'layer_{i}'][x], np.float64) for x in ('kernel', 'bias'))
    rows = []
    for node in range(found.nodes):
      parts = [h[node]]
      for kind in range(2 * relations):
        near = heard.get((node, kind))
        parts.append(h[near].mean(axis=0) if near else np.zeros(h.shape[1]))
      rows.append(np.concatenate(parts) @ kernel + bias)
    h = np.stack(rows)
    if i + 1 < layers:
      h = np.maximum(h, 0)
  made = np.concatenate([np.asarray(params['bias'], np.float64)[:, None], own], axis=1)
  return made + h


@pytest.mark.parametrize('layers', [1, 2, 3])
def test_gnn_is_a_mean_over_neighbours(layers):
  found, _ = small()
  model = pcf_gnn.model('gnn', found.nodes, 3, 4, layers)
  params = pcf_gnn.init(model, jax.random.key(0))['encoder']
  params['bias'] = jax.random.normal(jax.random.key(1), (found.nodes,))
  vectors = model.encoder.apply({'params': params}, graph.messages(found))
  np.testing.assert_allclose(vectors, loop_encoder(params, found, layers), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize('method', ['dot', 'gnn', 'gnn_mlp', 'two_tower'])
def test_scores_are_those_of_the_formula(method):
  found, _ = small()
  model = pcf_gnn.model(method, found.nodes, 3, 4)
  params = pcf_gnn.init(model, jax.random.key(0))
  g = found.graph
  p = model.apply({'params': params}, graph.messages(found), g.senders, g.receivers,
                  g.edges['relation'])  # fmt: skip
  h = np.asarray(model.encoder.apply({'params': params['encoder']}, graph.messages(found)), 'f8')
  cross = jax.tree.map(lambda x: np.asarray(x, np.float64), params['cross'])
  for i in (0, 7, 25, 39):
    r, u, v = g.edges['relation'][i], h[g.senders[i]], h[g.receivers[i]]
    want = cross['level'][r] + u[0] + v[0]
    if method == 'gnn_mlp':
      hidden = np.concatenate([u[1:], v[1:], np.eye(3)[r]]) @ cross['hidden']['kernel']
      want += np.maximum(hidden + cross['hidden']['bias'], 0) @ cross['output']['kernel'][:, 0]
    else:
      want += (cross['stretch'][r] * u[1:] * v[1:]).sum()
    np.testing.assert_allclose(p[i], want, rtol=1e-4, atol=1e-6)


def test_without_vectors_dot_is_biases():
  found, _ = small()
  g, h = found.graph, graph.messages(found)
  dot, biases = (pcf_gnn.model(m, found.nodes, 3, 4) for m in ('dot', 'biases'))
  params = pcf_gnn.init(dot, jax.random.key(0))
  bias = jax.random.normal(jax.random.key(1), (found.nodes,))
  level = jnp.array([0.1, 0.2, 0.3])
  params['encoder'] = {'bias': bias, 'embedding': jnp.zeros((found.nodes, 4))}
  params['cross']['level'] = level
  ends = (g.senders, g.receivers, g.edges['relation'])
  one = dot.apply({'params': params}, h, *ends)
  few = {'encoder': {'bias': bias}, 'cross': {'level': level}}
  np.testing.assert_array_equal(one, biases.apply({'params': few}, h, *ends))


def test_a_part_with_all_neighbours_gives_the_vectors_of_the_whole():
  found, _ = small()
  model = pcf_gnn.model('gnn', found.nodes, 3, 4, 2)
  params = pcf_gnn.init(model, jax.random.key(0))
  whole = sample.whole(found, found)
  want = model.apply({'params': params}, whole.messages, whole.u, whole.v, whole.relation)
  sampler = sample.Sampler(found, edges=6, hops=2, fanout=40, seed=3)
  assert sampler.steps_per_epoch == 6
  edge = zip(whole.relation, whole.u, whole.v, strict=True)
  score, seen, shapes = dict(zip(edge, want, strict=True)), [], set()
  for step in range(6):
    batch = sampler.batch(step)
    p = model.apply({'params': params}, batch.messages, batch.u, batch.v, batch.relation)
    shapes.add(str(jax.tree.map(np.shape, batch)))
    nodes = batch.messages.nodes
    for r, i, j, one in zip(batch.relation, batch.u, batch.v, p, strict=True):
      seen.append((r, nodes[i], nodes[j]))
      np.testing.assert_allclose(one, score[seen[-1]], rtol=1e-4, atol=1e-5)
  assert len(set(seen)) == 36  # Each edge once in an epoch.
  assert len(shapes) == 1


def test_few_neighbours_are_drawn_and_padding_changes_nothing():
  found, _ = small()
  sampler = sample.Sampler(found, edges=4, hops=2, fanout=2, seed=3)
  one, again = sampler.batch(5), sampler.batch(5)
  jax.tree.map(np.testing.assert_array_equal, one, again)
  heard = np.bincount(one.messages.receivers[one.messages.edges['share'] > 0])
  assert heard.max() == 2
  model = pcf_gnn.model('gnn', found.nodes, 3, 4, 2)
  params = {'params': pcf_gnn.init(model, jax.random.key(0))}
  real, padding = one.messages.n_edge
  assert padding > 0
  edges = {name: x[:real] for name, x in one.messages.edges.items()}
  bare = one.messages._replace(
    edges=edges, senders=one.messages.senders[:real], receivers=one.messages.receivers[:real]
  )
  ends = (one.u, one.v, one.relation)
  np.testing.assert_allclose(
    model.apply(params, one.messages, *ends), model.apply(params, bare, *ends), rtol=1e-6
  )


def test_means_of_drawn_neighbours_are_right_on_average():
  rare = pairs.Pairs('a', 'b', np.array([1]), np.array([1]), np.array([1]), np.array([2]))
  many = np.arange(1, 10)
  often = pairs.Pairs('a', 'c', np.ones(9, int), many, np.ones(9, int), np.full(9, 2))
  tables = {'a': 'a', 'b': 'b', 'c': 'c'}
  found = graph.build([rare, often], tables, {'a': 2, 'b': 2, 'c': 10}, 0.3)
  sampler = sample.Sampler(found, edges=1, hops=1, fanout=3, seed=0)
  means = []
  for step in range(800):
    part = sampler._around(np.array([0]), np.random.default_rng(step)).messages
    here = part.nodes[part.receivers] == 1  # The one that has ten neighbours of two kinds.
    slots = part.edges['kind'][here]
    means.append(np.bincount(slots, part.edges['share'][here], minlength=4))
  got, error = np.mean(means, 0), np.std(means, 0) / len(means) ** 0.5
  whole = graph.messages(found)
  here = whole.receivers == 1
  want = np.bincount(whole.edges['kind'][here], whole.edges['share'][here], minlength=4)
  np.testing.assert_array_less(np.abs(got - want), 4 * error + 1e-6)


@pytest.mark.parametrize('hops', [0, 1])
def test_the_draws_of_a_batch_are_not_those_of_the_order(hops, monkeypatch):
  found, made = small()[0], []
  generator = np.random.default_rng
  monkeypatch.setattr(np.random, 'default_rng', lambda key: made.append(key) or generator(key))
  sample.Sampler(found, edges=4, hops=hops, fanout=2, seed=3).batch(0)
  first = [generator(key).random() for key in made]
  assert len(first) == len(set(first)) == 2
