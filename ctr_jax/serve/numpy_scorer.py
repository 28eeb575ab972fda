"""The reference: NumPy alone, and of the tables the rows that are asked for.

Lists are read without their padding. Small tables are decoded when a model is opened, so that a
batch reads their vectors, where it would read codes and scales by one or two hashes first. Leaves
that are read whole (codebooks, the values of `sparse_rows`) are held as float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ctr_jax.data import schema as schema_lib
from ctr_jax.serve import artifact as artifact_lib
from ctr_jax.serve import nets, served
from ctr_jax.tables import trees

DECODED = 16 << 20
"""Bytes of vectors that are made when a model is opened: of the smallest tables that fit."""

TOGETHER = 1024
"""Samples that are scored, and rows that are decoded, at once: arrays stay in a core's cache."""


def make(artifact: artifact_lib.Artifact, model: served.Model, decoded: int = DECODED):
  """Columns of B samples → logits, float32 [B].

  Raises:
    ValueError: the net is not written without jax.
  """
  net = nets.build(model.net)
  tables = artifact.within('tables/')
  whole = {
    path: artifact_lib.loaded(np.asarray(tables[path]), leaf.dtype)
    for path, leaf in model.leaves.items()
    if not leaf.by_row
  }
  parameters = {path: np.array(x) for path, x in artifact.within('net/').items()}

  def read(table, ids):
    """Rows of a table, int32 [n] → vectors, float32 [n, width]."""
    codec, index, rows = model.codecs[table], served.addressed(model, table, ids), {}
    for path in trees.flatten({table: codec.plan}):
      if path in index:
        found = np.asarray(tables[path][index[path]])
        rows[path] = artifact_lib.loaded(found, model.leaves[path].dtype)
      else:
        rows[path] = whole[path]
    return codec.decode(np, trees.unflatten({table: codec.plan}, rows)[table])

  vectors = {table: tables[table] for table in model.codecs if model.codecs[table].is_plain}
  for table in small(model, decoded):
    ids = np.arange(model.rows[table], dtype=np.int32)
    # A few at a time: what a vector is made of may be a hundred times as large (`deep_hash`).
    parts = [read(table, ids[i : i + TOGETHER]) for i in range(0, len(ids), TOGETHER)]
    vectors[table] = np.concatenate(parts)
  sharing = {table: [f for f, _ in model.sharing(table)] for table in model.codecs}

  def score(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    own = {f.name: columns[f.name] for f in model.features}
    rows = len(own[model.features[0].name])
    parts = [
      few({name: x[i : i + TOGETHER] for name, x in own.items()}) for i in range(0, rows, TOGETHER)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)

  def few(columns):
    pooled = {}
    for table, features in sharing.items():
      reads = [_reads(f, columns[f.name]) for f in features]
      if not reads:  # Its features were dropped.
        continue
      ids = reads[0].ids if len(reads) == 1 else np.concatenate([x.ids for x in reads])
      found = np.take(vectors[table], ids, axis=0) if table in vectors else read(table, ids)
      start = 0
      for feature, own in zip(features, reads, strict=True):
        pooled[feature.name] = own.pool(found[start : start + len(own.ids)])
        start += len(own.ids)
    vectors_BxFxD = np.stack([pooled[f.name] for f in model.features], axis=1)
    with np.errstate(over='ignore', invalid='ignore'):  # Of numbers that are too large: `fault`.
      return net(np, parameters, vectors_BxFxD)

  return score


def small(model: served.Model, budget: int) -> list[str]:
  """Tables to decode: the smallest first, as many as fit into `budget` bytes."""
  found = []
  for table in sorted(model.codecs, key=model.rows.__getitem__):
    if model.codecs[table].is_plain or not model.sharing(table):
      continue
    budget -= 4 * model.width * model.rows[table]
    if budget < 0:
      break
    found.append(table)
  return found


class _Reads(NamedTuple):
  """What a feature reads for B samples.

  Attributes:
    ids: int32 [n], rows of its table.
    start: int64 [B], each sample's first read, where they are lists.
    value: float32 [B], what its vector is multiplied by, where it is a number.
  """

  ids: np.ndarray
  start: np.ndarray | None = None
  value: np.ndarray | None = None

  def pool(self, vectors: np.ndarray) -> np.ndarray:
    """Vectors of the reads → of the samples: lists averaged, numbers scaled."""
    if self.value is not None:
      return vectors * self.value[:, None]
    if self.start is None or len(self.ids) == len(self.start):
      return vectors
    counts = np.diff(self.start, append=len(self.ids)).astype(np.float32)
    return np.add.reduceat(vectors, self.start, axis=0) / counts[:, None]


def _reads(feature: schema_lib.Feature, column: np.ndarray) -> _Reads:
  """A feature's column, as `columns.Source.read` has it → its reads."""
  if feature.kind == 'numeric':  # Row 1 times the value; row 0 stands for a missing one.
    missing = np.isnan(column)
    return _Reads(
      (~missing).astype(np.int32), value=np.where(missing, 1, column).astype(np.float32)
    )
  if feature.kind != 'ids':
    return _Reads(column)
  there = column >= 0
  there[:, 0] = True  # An empty list reads row 0.
  counts = there.sum(axis=1)
  return _Reads(np.maximum(column[there], 0), np.cumsum(counts) - counts)
