"""A model as its artifact describes it: which rows a batch reads, and what becomes of them.

`inputs` is the counterpart of `predict.inputs`, `logits` of `predict.logits`; neither needs jax.
They are for graphs of fixed form, where lists are padded; `numpy_scorer` leaves the padding out.
Addresses are computed here, on the host, for every scorer: they are integers and the same bits
everywhere, the values have to be looked up on the host anyway, and so no graph needs a hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ctr_jax.data import schema as schema_lib
from ctr_jax.serve import techniques
from ctr_jax.tables import trees


class Model(NamedTuple):
  """What turns columns into logits.

  Attributes:
    features: those that are read, in the net's order.
    widths: elements of each `ids` feature.
    rows: table → rows of the full table.
    width: of the vectors.
    codecs: table → how it is read.
    leaves: path → what is stored.
    net: description of the net.
  """

  features: tuple[schema_lib.Feature, ...]
  widths: dict[str, int]
  rows: dict[str, int]
  width: int
  codecs: dict[str, techniques.Codec]
  leaves: dict[str, techniques.Leaf]
  net: dict[str, Any]

  def sharing(self, table: str) -> list[tuple[schema_lib.Feature, int]]:
    """The features that read a table, each with its reads for a sample."""
    return [(f, self.widths.get(f.name, 1)) for f in self.features if f.table == table]


def build(described: Mapping[str, Any], schema: schema_lib.Schema) -> Model:
  """The model of a manifest.

  Args:
    described: {'features', 'widths', 'rows', 'chains', 'width', 'net'}, see `export`.
    schema: of the sample.

  Raises:
    ValueError: a technique is not served.
  """
  codecs = {}
  for table, chain in described['chains'].items():
    leaf = techniques.Leaf((described['rows'][table], described['width']))
    try:
      codecs[table] = techniques.build(chain, leaf)
    except ValueError as error:
      raise ValueError(f'Table {table!r}: {error}') from None
  plan = {table: codec.plan for table, codec in codecs.items()}
  return Model(
    tuple(schema.feature(name) for name in described['features']),
    dict(described['widths']),
    dict(described['rows']),
    described['width'],
    codecs,
    trees.flatten(plan),
    dict(described['net']),
  )


class Inputs(NamedTuple):
  """A batch of B samples, ready to be gathered.

  Attributes:
    index: path of a stored leaf that is read by row → int32 [B, reads] or [B, reads, ways]; always
      within the leaf.
    values: feature → float32, of numeric features [B], of `ids` the mask [B, width].
  """

  index: dict[str, np.ndarray]
  values: dict[str, np.ndarray]


def inputs(model: Model, columns: Mapping[str, np.ndarray]) -> Inputs:
  """Columns of a batch → indices and values.

  Args:
    model: what `build` made.
    columns: feature → column, as `columns.Source.read` gives it.
  """
  reads: dict[str, list[np.ndarray]] = {}
  values = {}
  for feature in model.features:
    ids, value = _reads(feature, columns[feature.name])
    reads.setdefault(feature.table, []).append(ids)
    if value is not None:
      values[feature.name] = value
  index = {}
  for table, ids in reads.items():
    index |= addressed(model, table, np.concatenate(ids, axis=1))
  return Inputs(index, values)


def addressed(model: Model, table: str, ids: np.ndarray) -> dict[str, np.ndarray]:
  """Rows of a table, int32 of any shape → path of each leaf that is read by row → int32 index."""
  index = {}
  for path, at in trees.flatten({table: model.codecs[table].address(ids)}).items():
    if at is not techniques.WHOLE:
      # What reads nothing is told by a row too many, and masked after the gather.
      index[path] = np.minimum(at, model.leaves[path].shape[0] - 1).astype(np.int32)
  return index


def _reads(feature, column):
  """A feature's column → (ids [B, reads], values or None), as `predict` has it."""
  if feature.kind == 'numeric':  # Row 1 times the value; row 0 stands for a missing one.
    missing = np.isnan(column)
    value = np.where(missing, 1, column).astype(np.float32)
    return (~missing).astype(np.int32)[:, None], value
  if feature.kind != 'ids':
    return column[:, None], None
  mask = (column >= 0).astype(np.float32)
  mask[:, 0] = 1  # An empty list reads row 0; padding reads the list's first row again.
  first = np.where(column[:, :1] == -1, 0, column[:, :1])
  return np.where(column == -1, first, column), mask


def logits(
  xp: Any, model: Model, net: Any, parameters: Mapping[str, Any], rows: Mapping[str, Any], values
) -> Any:
  """Gathered rows → logits [B].

  Args:
    xp: NumPy, or what writes its operations into a graph.
    model: what `build` made.
    net: what `nets.build` made.
    parameters: of the net, by path.
    rows: path of a stored leaf → loaded rows [B, reads, ...]; leaves without rows as they are.
    values: `Inputs.values`.
  """
  parts = {}
  for table, codec in model.codecs.items():
    own = {table: codec.plan}
    gathered = {p: rows[p] for p in trees.flatten(own)}
    vectors_BxRxD = codec.decode(xp, trees.unflatten(own, gathered)[table])
    start = 0
    for feature, width in model.sharing(table):
      parts[feature.name] = _pooled(xp, feature, vectors_BxRxD, start, width, values)
      start += width
  return net(xp, parameters, xp.stack([parts[f.name] for f in model.features], axis=1))


def _pooled(xp, feature, vectors, start, width, values):
  """Vectors of one feature's reads [B, cols]: lists averaged, numbers scaled."""
  if feature.kind == 'ids':
    mask = xp.expand_dims(values[feature.name], -1)
    own = xp.take(vectors, np.arange(start, start + width), axis=1)
    return xp.sum(own * mask, axis=1) / xp.sum(mask, axis=1)
  own = xp.take(vectors, start, axis=1)
  return own * xp.expand_dims(values[feature.name], -1) if feature.kind == 'numeric' else own
