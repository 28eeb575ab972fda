"""A trained state → the delta of an artifact, from the rows that training has touched.

  delta_export.write('delta_1_2', 'model_1', model, stored, net, touched, link)

Only those rows are read, and only they are encoded where the artifact stores tables by one more
link, so that the work goes with what was trained since the last export and not with the tables. In
place of `export.write` followed by `delta.between`, and equal to it to the bit.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ctr_jax import predict
from ctr_jax.compress import codec as codec_lib
from ctr_jax.serve import artifact as artifact_lib
from ctr_jax.serve import delta
from ctr_jax.tables import leaf as leaf_lib
from ctr_jax.tables import trees

ROW_WISE = ('cast', 'int_quantize')
"""Techniques that store a row by what is in that row alone."""


def write(
  folder: str | pathlib.Path,
  artifact: str | pathlib.Path,
  model: predict.Model,
  stored: Any,
  net: Mapping[str, Any],
  touched: Mapping[str, np.ndarray],
  link: codec_lib.Technique | None = None,
) -> pathlib.Path:
  """Writes the delta from an artifact to what its model has become.

  Args:
    folder: to make; it must not be there.
    artifact: folder of the export that servers have.
    model: that was trained.
    stored: its arrays, laid out as `model.codec.plan`.
    net: the net's variables.
    touched: path of a leaf → its rows that may have changed since that export, ascending, as
      `train.delta_files.moved` finds them. Leaves that are read whole need no entry.
    link: the technique that was appended when the artifact was exported (`compress.extend`); it
      has to be one of ROW_WISE.

  Returns:
    The folder.

  Raises:
    ValueError: the artifact is of another model, a value is not finite or overflows what it is
      stored in, or the link looks at more than one row.
  """
  if link is not None and link.name not in ROW_WISE:
    raise ValueError(
      f'{link} stores a row by what is in others too, so a row that was not touched may change. '
      'Export the model whole, and compare the two: serve.delta.between.'
    )
  base = artifact_lib.open_artifact(artifact)
  tables = dict.fromkeys(f.table for f in model.features)
  plan = leaf_lib.flatten({table: model.codec.plan[table] for table in tables})
  arrays = leaf_lib.flatten({table: stored[table] for table in tables})
  changes = {}
  for path, leaf in plan.items():
    for name, change in _of(path, leaf, arrays[path], touched, link).items():
      changes[f'tables/{name}'] = change
  for path, x in trees.flatten(net).items():
    if hasattr(x, 'shape'):
      changes[f'net/{path}'] = delta.Change(None, np.asarray(x))
  return delta.write(folder, base, changes)


def _of(path, leaf, array, touched, link):
  """Path of a stored array → its change, of one leaf that was trained."""
  if not leaf.by_row:
    return {path: delta.Change(None, np.asarray(array))}
  rows = np.asarray(touched.get(path, ()), np.int32)
  if not len(rows):
    return {}
  values = array[rows]
  if link is None or not leaf.is_table:
    return {path: delta.Change(rows, np.asarray(values))}
  _finite(path, values)
  codec = link(leaf_lib.Leaf(values.shape, leaf.dtype))
  found = leaf_lib.flatten(jax.jit(codec.encode)(values), path)
  for name, x in found.items():
    _finite(name, x)
  return {name: delta.Change(rows, np.asarray(x)) for name, x in found.items()}


def _finite(path, values):
  values = np.asarray(values)
  if values.dtype.kind not in 'iu' and not np.isfinite(values.astype(np.float32)).all():
    raise ValueError(
      f'Rows of {path!r} are not finite, or overflow what they are stored in: the training that '
      'made them has diverged. The artifact stays as it is.'
    )
