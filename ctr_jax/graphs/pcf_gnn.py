r"""PCF-GNN (arXiv 2105.07752): node vectors from a graph of statistics, and what a pair is worth.

A method is an encoder, graph → node vectors [nodes, 1 + dim] (column 0 is the node's own bias), and
a CrossNet, two vectors → p(u, v). Only the vectors and the CrossNet are kept after training.

| method    | encoder                               | CrossNet                             |
|-----------|---------------------------------------|--------------------------------------|
| biases    | dim = 0                               | c_r + b_u + b_v                      |
| dot       | an embedding                          | c_r + b_u + b_v + Σ_k s_rk h_uk h_vk |
| two_tower | an MLP of the embedding               | as dot                               |
| gnn       | embedding + layers over the graph     | as dot                               |
| gnn_mlp   | as gnn                                | c_r + b_u + b_v + MLP([h_u, h_v, r]) |

A layer is GraphSAGE's mean for several relations: h ← σ(W [h ‖ m_1 ‖ … ‖ m_2R] + w), m_t the mean
of the neighbours' h by messages of kind t (both directions of each relation); the last layer is
linear, and its output is added to the embedding, so that gnn can do what dot can. (The paper leaves
the update open; mean, activation and residual are this project's choice.)
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np

from ctr_jax.graphs import blocks

METHODS = ('biases', 'dot', 'two_tower', 'gnn', 'gnn_mlp')


class Encoder(nn.Module):
  """Graph of messages → vectors.

  Attributes:
    method: of `METHODS`.
    nodes: of the whole graph.
    relations: pairs of features.
    dim: of the vectors beside their bias; not used by `biases`.
    layers: over the graph.
    scale: standard deviation of the embedding's first values.
  """

  method: str
  nodes: int
  relations: int
  dim: int = 8
  layers: int = 2
  scale: float = 0.1

  @nn.compact
  def __call__(self, messages: jraph.GraphsTuple) -> jax.Array:
    """Vectors [n, 1 + dim] of the n nodes of `graph.messages` or of a part of it."""
    if self.method not in METHODS:
      raise ValueError(f'Unknown method {self.method!r}; known are {", ".join(METHODS)}.')
    if self.nodes * 2 * self.relations >= 2**31:
      raise ValueError('Nodes times twice the relations have to be less than 2^31.')
    bias = self.param('bias', nn.initializers.zeros, (self.nodes,))[messages.nodes][:, None]
    if self.method == 'biases':
      return bias
    normal = nn.initializers.normal(self.scale)
    own = self.param('embedding', normal, (self.nodes, self.dim))[messages.nodes]
    if self.method == 'dot':
      return jnp.concatenate([bias, own], axis=1)
    if self.method == 'two_tower':
      hidden = nn.relu(nn.Dense(2 * self.dim, name='hidden')(own))
      made = nn.Dense(1 + self.dim, name='output')(hidden)
      return jnp.concatenate([bias, jnp.zeros_like(own)], axis=1) + made
    return jnp.concatenate([bias, own], axis=1) + self._heard(own, messages)

  def _heard(self, h, messages):
    for i in range(self.layers):
      means = kind_means(h, messages, 2 * self.relations)
      last = i + 1 == self.layers
      layer = nn.Dense(self.dim + last, name=f'layer_{i}')
      h = layer(jnp.concatenate([h, means], axis=1))
      if not last:
        h = nn.relu(h)
    return h


def kind_means(h: jax.Array, messages: jraph.GraphsTuple, kinds: int) -> jax.Array:
  """The means of what each node hears in messages of each kind.

  Block by block, and not with `jraph.segment_sum` of all messages: that would first make a vector
  for every message, many times what the nodes need, and takes twice as long.

  Args:
    h: [n, dim].
    messages: as `graph.messages`, over n nodes.
    kinds: of messages.

  Returns:
    [n, kinds · dim]; zeros for a kind that a node hears nothing of.
  """
  n, dim = h.shape
  slot = messages.receivers * kinds + messages.edges['kind']

  def heard(total, senders, slot, share):
    return total.at[slot].add(h[senders] * share[:, None])

  heard_by_all = jnp.zeros((n * kinds, dim), h.dtype)
  told = (messages.senders, slot, messages.edges['share'])
  return blocks.fold(heard, heard_by_all, told).reshape(n, kinds * dim)


class CrossNet(nn.Module):
  """Two vectors and the number of their relation → p(u, v)."""

  method: str
  relations: int

  @nn.compact
  def __call__(self, h_u: jax.Array, h_v: jax.Array, relation: jax.Array) -> jax.Array:
    """p [n] of vectors [n, 1 + dim] and relations int32 [n]."""
    level = self.param('level', nn.initializers.zeros, (self.relations,))
    p = level[relation] + h_u[:, 0] + h_v[:, 0]
    h_u, h_v = h_u[:, 1:], h_v[:, 1:]
    if self.method == 'biases':
      return p
    if self.method == 'gnn_mlp':
      both = jnp.concatenate([h_u, h_v, jax.nn.one_hot(relation, self.relations)], axis=1)
      hidden = nn.relu(nn.Dense(4 * h_u.shape[1], name='hidden')(both))
      return p + nn.Dense(1, name='output')(hidden)[:, 0]
    stretch = self.param('stretch', nn.initializers.ones, (self.relations, h_u.shape[1]))
    return p + jnp.sum(stretch[relation] * h_u * h_v, axis=1)


class PCF(nn.Module):
  """An encoder and its CrossNet; parameters {'encoder': ..., 'cross': ...}."""

  encoder: Encoder
  cross: CrossNet

  def __call__(self, messages, u: jax.Array, v: jax.Array, relation: jax.Array) -> jax.Array:
    """p [edges] of pairs of nodes (their places in `messages`) and their relations."""
    vectors = self.encoder(messages)
    return self.cross(vectors[u], vectors[v], relation)


def model(method: str, nodes: int, relations: int, dim: int = 8, layers: int = 2) -> PCF:
  """A method of `METHODS` for a graph of so many nodes and relations."""
  return PCF(Encoder(method, nodes, relations, dim, layers), CrossNet(method, relations))


def init(pcf: PCF, key: jax.Array) -> dict:
  """The parameters before training: their shapes do not depend on the graph's edges."""
  one = np.zeros(1, np.int32)
  edges = {'kind': one, 'share': np.ones(1, np.float32)}
  tiny = jraph.GraphsTuple(one, edges, one, one, None, one + 1, one + 1)
  return pcf.init(key, tiny, one, one, one)['params']


def own(params: dict) -> list[jax.Array]:
  """What there is one of for each node: what L2 shrinks."""
  return [x for name, x in params['encoder'].items() if name in ('bias', 'embedding')]
