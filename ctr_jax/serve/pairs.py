"""Features that are made of a pair of others, as they are when a model is served.

  cross      the id of a pair of values: of the text 'u,v' of their row numbers, or its hash
  statistic  what all of train knows of the pair (`data.crosses`): found by key u · 2³² + v
  score      p(u, v) of pre-trained node vectors (`graphs.pcf_gnn`), which are stored by a chain

A pair with a missing or unseen value has no id, and statistics and scores of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ctr_jax.serve import artifact as artifact_lib
from ctr_jax.serve import remembered, techniques
from ctr_jax.tables import trees

Made = Callable[[np.ndarray, np.ndarray], np.ndarray]


def cross(find: Callable[[list[str]], np.ndarray]) -> Made:
  """(u, v) → ids, int32, by their texts."""
  low = (1 << 32) - 1

  def encode(keys):
    return find([f'{k >> 32},{k & low}' if k else '' for k in keys])

  seen = remembered.Remembered(encode, unknown=True)  # Most pairs are: rare ones have no id.

  def make(u, v):
    return seen(np.where((u > 0) & (v > 0), key(u, v), np.uint64(0)).tolist())

  return make


def statistic(arrays: Mapping[str, np.ndarray], name: str) -> Made:
  """(u, v) → float32, what a lookup has of them.

  Args:
    arrays: 'key' uint64, ascending, and float32 columns beside it.
    name: of the column.
  """
  keys, column = arrays['key'], arrays[name]

  def make(u, v):
    if not len(keys):
      return np.zeros(len(u), np.float32)
    wanted = key(u, v)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, column[place], 0).astype(np.float32)

  return make


def key(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """uint64 of a pair of row numbers."""
  return (u.astype(np.uint64) << np.uint64(32)) | v.astype(np.uint64)


def score(artifact: artifact_lib.Artifact, described: Mapping[str, Any], relation: int) -> Made:
  """(u, v) → float32, p(u, v) of one pair of features.

  Args:
    artifact: with the arrays 'vectors/TABLE/...' and 'cross/...'.
    described: {'method', 'relations', 'tables', 'chains', 'rows', 'width'}.
    relation: the number of the pair.
  """
  first, second = (_vectors(artifact, described, f) for f in described['relations'][relation])
  p = {path: np.array(x) for path, x in artifact.within('cross/').items()}

  def make(u, v):
    there = (u > 0) & (v > 0)
    found = _crossed(p, described, relation, first(u), second(v))
    return np.where(there, found, 0).astype(np.float32)

  return make


def _vectors(artifact, described, feature):
  """Row numbers of a feature's table → its node vectors."""
  table = described['tables'][feature]
  leaf = techniques.Leaf((described['rows'][table], described['width']))
  codec = techniques.build(described['chains'][table], leaf)
  stored = artifact.within(f'vectors/{table}/') or {'': artifact.arrays[f'vectors/{table}']}

  def read(ids):
    index, rows = trees.flatten(codec.address(ids[:, None])), {}
    for path, x in trees.flatten(codec.plan).items():
      at = index[path]
      found = (
        stored[path] if at is techniques.WHOLE else stored[path][np.minimum(at, x.shape[0] - 1)]
      )
      rows[path] = artifact_lib.loaded(np.asarray(found), x.dtype)
    return codec.decode(np, trees.unflatten(codec.plan, rows))[:, 0]

  return read


def _crossed(p, described, relation, h_u, h_v):
  """`graphs.pcf_gnn.CrossNet`."""
  made = p['level'][relation] + h_u[:, 0] + h_v[:, 0]
  h_u, h_v = h_u[:, 1:], h_v[:, 1:]
  if described['method'] == 'biases':
    return made
  if described['method'] == 'gnn_mlp':
    one_hot = np.zeros((len(h_u), len(described['relations'])), np.float32)
    one_hot[:, relation] = 1
    both = np.concatenate([h_u, h_v, one_hot], axis=1)
    hidden = np.maximum(both @ p['hidden/kernel'] + p['hidden/bias'], 0)
    return made + (hidden @ p['output/kernel'] + p['output/bias'])[:, 0]
  return made + np.sum(p['stretch'][relation] * h_u * h_v, axis=1)
