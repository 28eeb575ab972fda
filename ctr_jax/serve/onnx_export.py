"""The forward function as an ONNX graph over the artifact's own files.

The graph is written by the very functions that the NumPy scorer runs (`served.logits`), with an
`onnx_graph.Graph` in place of NumPy. Tables and parameters are external data: nothing is there
twice, and the runtime maps what it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ctr_jax.serve import artifact, nets, onnx_graph, served
from ctr_jax.tables import trees

_FLOATS = ('float16', 'bfloat16', 'float32')


def program(model: served.Model, arrays: Mapping[str, Mapping[str, Any]]) -> bytes:
  """The model, serialised: inputs 'index/PATH' and 'values/FEATURE', output 'logit' [batch].

  Args:
    model: what `served.build` made.
    arrays: path → {'shape', 'dtype'}, of the manifest.

  Raises:
    ValueError: the net, or an operation of it, cannot be written; the sentence says which.
  """
  xp = onnx_graph.Graph()
  net = nets.build(model.net)
  try:
    rows = {path: _loaded(xp, path, leaf, arrays, model) for path, leaf in model.leaves.items()}
    values = {}
    for feature in model.features:
      if feature.kind in ('ids', 'numeric'):
        shape = (None, model.widths[feature.name]) if feature.kind == 'ids' else (None,)
        values[feature.name] = xp.input(f'values/{feature.name}', shape, 'float32')
    parameters = {
      path.removeprefix('net/'): _stored(xp, path, entry)
      for path, entry in arrays.items()
      if path.startswith('net/')
    }
    logit = served.logits(xp, model, net, parameters, rows, values)
  except (AttributeError, NotImplementedError, TypeError) as error:
    raise ValueError(
      f'this model uses an operation that is not written into ONNX graphs ({error}): add it to '
      "ctr_jax/serve/onnx_graph.py, or score with scorer='numpy'."
    ) from error
  return xp.model(logit, 'ctr_jax').SerializeToString(deterministic=True)


def _stored(xp, path, entry):
  return xp.array(path, artifact.file_of(path), entry['shape'], entry['dtype'])


def _loaded(xp, path, leaf, arrays, model):
  """The rows of a leaf that the index asks for, as floats where they are."""
  rows = _stored(xp, f'tables/{path}', arrays[f'tables/{path}'])
  if leaf.by_row:
    reads = sum(width for _, width in model.sharing(path.split('/')[0]))
    index = xp.input(f'index/{path}', (None, reads, *_ways(path, model)), 'int32')
    rows = xp.take(rows, index, axis=0)
  return rows.astype('float32') if leaf.dtype in _FLOATS else rows


def _ways(path, model):
  """(ways,) of an address that has several rows for each id, else ()."""
  table = path.split('/')[0]
  address = {table: model.codecs[table].address(np.zeros((1, 1), np.int32))}
  index = trees.flatten(address)[path]
  return index.shape[2:]
