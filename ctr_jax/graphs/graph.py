"""Statistics of pairs → a graph of feature values (PCF-GNN, arXiv 2105.07752).

Nodes are the rows of the tables that are paired; an edge is a pair of values that were seen
together, its attribute a(u, v) what is known of their clicks. A pair of features is a relation.

Invariants, with N nodes, E edges and R relations:
  node of row i of table t = offsets[t] + i;   0 <= senders, receivers < N
  edges['relation'][e] in 0..R-1, ascending;   edges['target'], edges['weight'] float32 [E]
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jraph
import numpy as np

from ctr_jax.data import draws
from ctr_jax.data import pairs as pairs_lib


class Graph(NamedTuple):
  """Feature values and what is known of their pairs.

  Attributes:
    graph: nodes are node ids, int32 [N]; edges as the module says; arrays are NumPy's.
    relations: (first feature, second feature) of each relation.
    tables: feature → table.
    offsets: table → its first node.
    rows: table → its rows.
    numbers: int64 [N], what held-out pairs are told by; None: the nodes. Of a graph that follows
      another one, the numbers that the same values had there.
  """

  graph: jraph.GraphsTuple
  relations: tuple[tuple[str, str], ...]
  tables: dict[str, str]
  offsets: dict[str, int]
  rows: dict[str, int]
  numbers: np.ndarray | None = None

  @property
  def nodes(self) -> int:
    return sum(self.rows.values())

  def node(self, feature: str, row: np.ndarray) -> np.ndarray:
    """Node ids of rows of a feature's table, int32.

    Raises:
      ValueError: a row is outside of the table.
    """
    table = self.tables[feature]
    low, high = int(row.min(initial=0)), int(row.max(initial=0))
    if low < 0 or high >= self.rows[table]:
      raise ValueError(
        f'Feature {feature!r}: row {low if low < 0 else high} is outside its table {table!r} of '
        f'{self.rows[table]} rows: the pairs are of another data set than the tables.'
      )
    return (self.offsets[table] + row).astype(np.int32)

  def split(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Node vectors [N, width] → table → [rows, width]."""
    return {t: vectors[at : at + self.rows[t]] for t, at in self.offsets.items()}

  def join(self, tables: Mapping[str, np.ndarray]) -> np.ndarray:
    """The inverse of `split`."""
    return np.concatenate([np.asarray(tables[t]) for t in self.offsets])


def build(
  statistics: Sequence[pairs_lib.Pairs],
  tables: Mapping[str, str],
  rows: Mapping[str, int],
  prior: float,
  strength: float = 20.0,
) -> Graph:
  """The graph of some pairs of features.

  Args:
    statistics: one for each relation.
    tables: feature → table, of all features that are paired.
    rows: table → rows.
    prior: click rate that an edge's is held against.
    strength: samples that the prior counts for; the target is `pairs.lift`, the weight log(1 + n).

  Raises:
    ValueError: no pairs at all, or rows outside of a table.
  """
  if not sum(len(x.u) for x in statistics):
    raise ValueError('There is no pair of values to make a graph of: the history is empty.')
  used = {f: tables[f] for x in statistics for f in (x.first, x.second)}
  sizes = {table: rows[table] for table in dict.fromkeys(used.values())}
  starts = np.cumsum([0, *sizes.values()])
  offsets = dict(zip(sizes, map(int, starts), strict=False))
  relations = tuple((x.first, x.second) for x in statistics)
  bare = Graph(None, relations, used, offsets, sizes)
  count = np.concatenate([x.count for x in statistics])
  clicks = np.concatenate([x.clicks for x in statistics])
  edges = {
    'relation': np.repeat(
      np.arange(len(statistics), dtype=np.int32), [len(x.u) for x in statistics]
    ),
    'target': pairs_lib.lift(clicks, count, prior, strength),
    'weight': np.log1p(count).astype(np.float32),
  }
  graph = jraph.GraphsTuple(
    nodes=np.arange(bare.nodes, dtype=np.int32),
    edges=edges,
    senders=np.concatenate([bare.node(x.first, x.u) for x in statistics]),
    receivers=np.concatenate([bare.node(x.second, x.v) for x in statistics]),
    globals=None,
    n_node=np.array([bare.nodes], np.int32),
    n_edge=np.array([len(count)], np.int32),
  )
  return bare._replace(graph=graph)


def subset(graph: Graph, chosen: np.ndarray) -> Graph:
  """The graph with some of its edges, all nodes staying."""
  edges = {name: x[chosen] for name, x in graph.graph.edges.items()}
  kept = graph.graph._replace(
    edges=edges,
    senders=graph.graph.senders[chosen],
    receivers=graph.graph.receivers[chosen],
    n_edge=np.array([len(edges['target'])], np.int32),
  )
  return graph._replace(graph=kept)


def messages(graph: Graph) -> jraph.GraphsTuple:
  """The graph along which vectors are averaged: every edge, in both directions.

  Each direction of a relation is a kind of its own, 0..2R-1; edges['share'] is 1 over the number of
  messages of that kind that the receiver gets, so that a sum of shares is a mean. Messages are
  ordered by receiver and kind: sums over them then take a third of the time (no cache is missed).
  """
  one, relations = graph.graph, len(graph.relations)
  receivers = np.concatenate([one.receivers, one.senders])
  kind = np.concatenate([one.edges['relation'], one.edges['relation'] + np.int32(relations)])
  order = np.argsort(receivers.astype(np.int64) * (2 * relations) + kind, kind='stable')
  receivers, kind = receivers[order], kind[order]
  return one._replace(
    senders=np.concatenate([one.senders, one.receivers])[order],
    receivers=receivers,
    edges={'kind': kind, 'share': shares(receivers, kind, 2 * relations)},
    n_edge=np.array([len(order)], np.int32),
  )


def shares(receivers: np.ndarray, kind: np.ndarray, kinds: int) -> np.ndarray:
  """1 / how many messages of its kind each message's receiver gets, float32."""
  slot = receivers.astype(np.int64) * kinds + kind
  return (1.0 / np.bincount(slot)[slot]).astype(np.float32)


def held_out(graph: Graph, part: float, seed: int) -> np.ndarray:
  """Which edges are held out, bool [E]: a function of the seed and of the pair's `numbers`.

  Of the pair in either order, and in every relation: where features share a table, a pair that is
  unseen in one relation is not known from another.
  """
  one, other = graph.graph.senders, graph.graph.receivers
  if graph.numbers is not None:
    one, other = graph.numbers[one], graph.numbers[other]
  low, high = (pick(one, other).astype(np.uint64) for pick in (np.minimum, np.maximum))
  bits = draws.hashed(draws.key(seed, 'held out', ''), low << np.uint64(32) | high)
  return draws.uniform(bits) < part


def digest(graph: Graph) -> str:
  """SHA-256 of everything that training reads."""
  one = graph.graph
  found = hashlib.sha256(repr((graph.relations, graph.offsets, graph.rows)).encode())
  numbers = () if graph.numbers is None else (graph.numbers,)
  edges = (one.edges[name] for name in sorted(one.edges))
  for array in (one.senders, one.receivers, *edges, *numbers):
    found.update(np.ascontiguousarray(array))
  return found.hexdigest()
