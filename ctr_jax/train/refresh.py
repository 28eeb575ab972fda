"""Vectors of pair statistics that are kept fresh: a window of days goes on from the one before.

  parts = [pairs.counted(...) for each day]            # each day is counted once
  graph = graphs.graph.build([pairs.merged(parts[-4:])], ...)
  found = refresh.refresh(previous, graph, config, folder, seed)

Nodes are matched by value: a row that is in place, or where `moved` says, keeps what was learned of
it; new ones are drawn. The encoder's layers and the CrossNet go on; Adam's moments start anew.

Early stopping is what keeps such vectors from learning pairs by heart, and it stops each window,
not all of them together: `keep` below one lets go of a part of each node's own vector ("shrink and
perturb", Ash and Adams, "On Warm-Starting Neural Network Training", 2020).

Which pairs are held out is told by their values, wherever their rows are now (`Graph.numbers`):
while the seed is the same, no pair that is held out now was learned from before. A value that went
and is back counts as a new one, as its vector does.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ctr_jax.graphs import graph as graph_lib
from ctr_jax.graphs import pcf_gnn
from ctr_jax.train import pretrain

_OF_NODES = ('bias', 'embedding')


def refresh(
  previous: pretrain.Pretrained,
  graph: graph_lib.Graph,
  config: pretrain.Config,
  folder: pathlib.Path,
  seed: int,
  *,
  moved: Mapping[str, np.ndarray] | None = None,
  keep: float = 1.0,
  name: str = 'graph',
) -> pretrain.Pretrained:
  """`pretrain.pretrain` of a graph, from what was learned of an earlier one.

  Args:
    previous: of the same pairs of features, method and width.
    graph: of the new window.
    config: as it was, but for steps and learning rates.
    folder: of this training alone.
    seed: as it was, so that the same pairs stay held out.
    moved: table → int32 [rows of the new one], for each the old row of the same value, -1 for a new
      one. Tables that are not named have their old rows in place, and perhaps more.
    keep: share of a node's own vector that is kept; the rest is drawn.
    name: in the progress bar.

  Raises:
    ValueError: as `carried`, and as `pretrain.pretrain`.
  """
  start = carried(previous, graph, config, seed, moved, keep)
  graph = graph._replace(numbers=_numbers(previous.graph, graph, dict(moved or {})))
  return pretrain.pretrain(graph, config, folder, seed, name, start)


def carried(
  previous: pretrain.Pretrained,
  graph: graph_lib.Graph,
  config: pretrain.Config,
  seed: int,
  moved: Mapping[str, np.ndarray] | None = None,
  keep: float = 1.0,
) -> dict[str, Any]:
  """The parameters that training on `graph` starts from; see `refresh`.

  Raises:
    ValueError: other pairs of features or another form, a `moved` that makes no sense, or vectors
      whose encoder was not kept.
  """
  if previous.encoder is None:
    raise ValueError('The encoder of the earlier vectors was not kept: pre-train them again.')
  if previous.graph.relations != graph.relations:
    raise ValueError(
      f'The earlier vectors are of the pairs {previous.graph.relations}, and the graph of '
      f'{graph.relations}: go on with the same pairs in the same order, or pre-train anew.'
    )
  model = pcf_gnn.model(config.method, graph.nodes, len(graph.relations), config.dim, config.layers)
  fresh = jax.tree.map(np.array, pcf_gnn.init(model, jax.random.key(seed)))
  places = _places(previous.graph, graph, dict(moved or {}))
  before = {'encoder': previous.encoder, 'cross': previous.cross}
  if jax.tree.structure(fresh) != jax.tree.structure(before):
    raise ValueError(f'The earlier vectors were not made by {config.method!r}: pre-train anew.')
  known = np.flatnonzero(places >= 0)

  def taken(path, now, then):
    if path[0].key == 'encoder' and path[1].key in _OF_NODES and now.shape[1:] == then.shape[1:]:
      now[known] = np.float32(keep) * then[places[known]] + np.float32(1 - keep) * now[known]
      return now
    if now.shape != then.shape:
      raise ValueError(
        f'The earlier vectors have another {jax.tree_util.keystr(path)} ({then.shape}, and '
        f'{now.shape} here): the width and the layers have to be the same.'
      )
    return np.array(then)

  return jax.tree.map_with_path(taken, fresh, before)


def _numbers(old, new, moved):
  """`Graph.numbers` of `new`: those of `old` where the value was there, else new ones."""
  before = np.arange(old.nodes) if old.numbers is None else old.numbers
  places = _places(old, new, moved)
  fresh = places < 0
  found = before[places]
  found[fresh] = before.max() + 1 + np.arange(fresh.sum())
  return None if np.array_equal(found, np.arange(new.nodes)) else found


def _places(old, new, moved):
  """For each node of `new` the node of `old` of the same value, or -1: int64 [nodes]."""
  unknown = sorted(moved.keys() - new.rows.keys())
  if unknown:
    raise ValueError(f'`moved` has {unknown[0]!r}, which is no table of {sorted(new.rows)}.')
  found = np.full(new.nodes, -1, np.int64)
  for table, rows in new.rows.items():
    count = old.rows.get(table, 0)
    order = moved.get(table)
    if order is None:
      order = np.arange(rows)
      order[count:] = -1
    order = np.asarray(order, np.int64)
    if order.shape != (rows,) or order.min() < -1 or order.max() >= count:
      raise ValueError(
        f'`moved` of table {table!r}: one old row in -1..{count - 1} for each of {rows} rows.'
      )
    here = order >= 0
    # Else held-out pairs of theirs would be told by one number, and be held out together or not.
    if len(np.unique(order[here])) < here.sum():
      raise ValueError(
        f'`moved` of table {table!r} has an old row twice: a value has one row, and new ones -1.'
      )
    start = new.offsets[table]
    found[start : start + rows][here] = old.offsets.get(table, 0) + order[here]
  return found
