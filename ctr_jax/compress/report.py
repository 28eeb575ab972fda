"""Exact bytes, before anything is trained: by table and by axis, for training and for serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctr_jax.compress.codec import Codec
from ctr_jax.tables import leaf as leaf_lib


def by_table(plan: Mapping[str, Any]) -> dict[str, int]:
  """Table → bytes of all its leaves. Equals the bytes of the arrays."""
  return {table: leaf_lib.nbytes(part) for table, part in plan.items()}


def by_axis(part: Any) -> dict[str, float]:
  """One table's bytes as rows × bytes per row: what was saved on rows, and on columns and values.

  rows: of all leaves that hold vectors (two ways of m buckets are 2m rows); bytes_per_row: all
  bytes of the table, scales and weights included, over those rows. A dropped table has neither.
  """
  leaves = leaf_lib.flatten(part).values()
  rows = sum(x.rows for x in leaves if x.axes in (leaf_lib.TABLE, ('row', 'byte')))
  return {'rows': rows, 'bytes_per_row': leaf_lib.nbytes(part) / rows if rows else 0.0}


def training(codec: Codec, slots: Mapping[str, Mapping[str, leaf_lib.Leaf]]) -> int:
  """Bytes of tables and of the row optimizer's state."""
  state = sum(leaf.nbytes for leaves in slots.values() for leaf in leaves.values())
  return leaf_lib.nbytes(codec.plan) + state
