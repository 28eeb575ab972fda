"""Part of a graph at a time, where the whole does not fit: some edges, and what their ends hear.

A step reads `edges` target edges, their end nodes, and `hops` rounds of up to `fanout` messages to
each node (all of them where there are no more, else drawn with replacement). A kind of which none
is drawn gives no mean, so where some are drawn their mean counts for more: right on average, rare
kinds too. Everything is padded to sizes that depend on the graph and on these numbers alone, so
nothing is compiled twice. What is drawn is a function of (seed, step).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jraph
import numpy as np

from ctr_jax.graphs import graph as graph_lib


class Batch(NamedTuple):
  """Target edges and the part of the graph that their vectors are made of.

  Attributes:
    messages: as `graph.messages`, over the nodes of the part; padding has share 0.
    u, v: int32 [edges], places of the ends among the part's nodes.
    relation: int32 [edges].
    target: float32 [edges].
    weight: float32 [edges], 0 for padding.
  """

  messages: jraph.GraphsTuple
  u: np.ndarray
  v: np.ndarray
  relation: np.ndarray
  target: np.ndarray
  weight: np.ndarray


def whole(graph: graph_lib.Graph, targets: graph_lib.Graph) -> Batch:
  """All edges of `targets` at once, over all messages of `graph`."""
  return aim(Batch(graph_lib.messages(graph), *5 * [None]), targets)


def aim(batch: Batch, targets: graph_lib.Graph) -> Batch:
  """The batch with all edges of `targets` in place of its own, its messages staying."""
  one = targets.graph
  return batch._replace(u=one.senders, v=one.receivers, **one.edges)


class Sampler:
  """Draws batches of a graph's edges, with neighbours from the same graph."""

  def __init__(self, graph: graph_lib.Graph, edges: int, hops: int, fanout: int, seed: int):
    self._graph, self._edges, self._hops, self._fanout = graph, edges, hops, fanout
    self._seed, self._kinds = seed, 2 * len(graph.relations)
    heard = graph_lib.messages(graph)
    self._sender, self._kind = heard.senders, heard.edges['kind']  # Ordered by receiver.
    self._share = heard.edges['share']
    counts = np.bincount(heard.receivers, minlength=graph.nodes)
    self._first = np.concatenate([[0], np.cumsum(counts)])
    self.steps_per_epoch = max(1, len(graph.graph.senders) // edges)
    self._order = functools.lru_cache(maxsize=1)(self._permutation)

  def batch(self, step: int) -> Batch:
    """The batch of a step; epochs are permutations of the edges."""
    epoch, at = divmod(step, self.steps_per_epoch)
    chosen = self._order(epoch)[at * self._edges : (at + 1) * self._edges]
    return self._around(chosen, np.random.default_rng([self._seed, epoch, 1 + at]))

  def _permutation(self, epoch):
    return np.random.default_rng([self._seed, epoch]).permutation(len(self._graph.graph.senders))

  def _around(self, chosen, rng):
    one = self._graph.graph
    ends = np.concatenate([one.senders[chosen], one.receivers[chosen]])
    frontier = nodes = np.unique(ends)
    heard = [self._neighbours(frontier[:0], rng)]  # Without hops there is none.
    for _ in range(self._hops):
      heard.append(self._neighbours(frontier, rng))
      frontier = np.setdiff1d(heard[-1][0], nodes)
      nodes = np.union1d(nodes, frontier)
    messages = self._padded(nodes, *(np.concatenate(x) for x in zip(*heard, strict=True)))
    place = np.searchsorted(nodes, ends).astype(np.int32)
    edges = {name: x[chosen] for name, x in one.edges.items()}
    u, v = place[: len(chosen)], place[len(chosen) :]
    missing = self._edges - len(chosen)
    made = (u, v, edges['relation'], edges['target'], edges['weight'])
    return Batch(messages, *(np.pad(x, (0, missing)) for x in made))

  def _neighbours(self, nodes, rng):
    """(sender, receiver, kind, chance) of what the nodes hear: all, or `fanout` drawn messages.

    The chance is that of drawing any of its kind, (1 - part of the kind)^fanout missing to 1.
    """
    first, degree = self._first[nodes], self._first[nodes + 1] - self._first[nodes]
    few = degree <= self._fanout
    every = np.arange(self._fanout)
    place = np.where(
      few[:, None], every[None], (rng.random((len(nodes), self._fanout)) * degree[:, None])
    ).astype(np.int64)
    there = place < degree[:, None]
    message = (first[:, None] + place)[there]
    receiver = np.broadcast_to(nodes[:, None], place.shape)[there]
    part = 1 / (self._share[message] * np.broadcast_to(degree[:, None], place.shape)[there])
    chance = np.where(
      np.broadcast_to(few[:, None], place.shape)[there], 1.0, 1 - (1 - part) ** self._fanout
    )
    return self._sender[message], receiver, self._kind[message], chance

  def _padded(self, nodes, sender, receiver, kind, chance):
    receivers = np.searchsorted(nodes, receiver).astype(np.int32)
    share = graph_lib.shares(receivers, kind, self._kinds) / chance.astype(np.float32)
    part = jraph.GraphsTuple(
      nodes=nodes.astype(np.int32),
      edges={'kind': kind, 'share': share},
      senders=np.searchsorted(nodes, sender).astype(np.int32),
      receivers=receivers,
      globals=None,
      n_node=np.array([len(nodes)], np.int32),
      n_edge=np.array([len(sender)], np.int32),
    )
    # A node hears at most once, and at most `fanout` messages.
    powers = [self._fanout**k for k in range(self._hops + 1)]
    hearing = min(self._graph.nodes, 2 * self._edges * sum(powers[:-1]))
    known = min(self._graph.nodes, 2 * self._edges * sum(powers))
    heard = min(len(self._sender), self._fanout * hearing)
    return jraph.pad_with_graphs(part, known + 1, heard)
