"""Raw columns → the columns of a model's features: looked up, transformed, made of pairs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ctr_jax.data import schema as schema_lib
from ctr_jax.data import values
from ctr_jax.serve import artifact as artifact_lib
from ctr_jax.serve import pairs, raw_values, remembered, served, vocabulary


class Encoder:
  """What an artifact knows of raw values.

  Attributes:
    columns: raw column → kind of the feature that reads it.
  """

  columns: dict[str, str]

  def __init__(self, artifact: artifact_lib.Artifact, model: served.Model):
    schema = schema_lib.Schema.from_dict(artifact.manifest['schema'])
    described = artifact.manifest['model']
    made = described['made']
    bases = dict.fromkeys(x for how in made.values() for x in (how['first'], how['second']))
    own = [f.name for f in model.features if f.name not in made]
    self._features = [schema.feature(name) for name in dict.fromkeys([*own, *bases])]
    self._encode = {}
    for f in self._features:
      find = _finder(artifact, f, described['all_rows'].get(f.table))
      if f.kind == 'ids':  # Lists may come as such, and their elements come again.
        find = remembered.Remembered(find)
      self._encode[f.name] = functools.partial(
        raw_values.encode, f, width=model.widths.get(f.name, 0), find=find
      )
    self._seen = {
      f.name: remembered.Remembered(self._encode[f.name])
      for f in self._features
      if f.kind != 'numeric'  # Most numbers come once.
    }
    self._made = {
      name: (how['first'], how['second'], _maker(artifact, schema.feature(name), how))
      for name, how in made.items()
    }
    self.columns = raw_values.kinds(self._features)
    self._known = (raw_values.known(schema) - made.keys()) | self.columns.keys()

  def encode(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
    """Raw values → feature → column, as an encoded data set has it (`columns.Source.read`).

    Raises:
      BadInput: see `Scorer.predict`.
    """
    raw_values.check(columns, tuple(self.columns), self._known)
    encoded = {f.name: self._column(f, columns[f.column]) for f in self._features}
    return encoded | {
      name: make(encoded[first], encoded[second])
      for name, (first, second, make) in self._made.items()
    }

  def _column(self, feature, column):
    seen = self._seen.get(feature.name)
    keys = None if seen is None else _keys(column, feature.kind)
    return self._encode[feature.name](column) if keys is None else seen(keys)


def _keys(column, kind):
  """The values as keys of a dict; None where two that differ may be one, as 1, True and 1.0."""
  types = set(map(type, column))
  if types <= {str, int, type(None)}:
    return column
  if kind != 'ids' or types != {list}:
    return None
  texts = set(map(type, itertools.chain.from_iterable(column))) <= {str}
  return list(map(tuple, column)) if texts else None


def _finder(artifact, feature, rows) -> Callable[[Any], np.ndarray] | None:
  """Values of a feature → rows of its table; None for kinds that look nothing up."""
  if feature.kind in ('hash', 'numeric'):
    return None
  arrays = artifact.within(f'vocabulary/{feature.table}/')
  if not arrays:
    return vocabulary.of_row_numbers(rows)
  of = vocabulary.of_numbers if feature.kind == 'bucket' else vocabulary.of_texts
  return of(arrays)


def _maker(artifact, feature, how) -> pairs.Made:
  """(u, v) → a column that is made of them."""
  if how['by'] == 'statistic':
    return pairs.statistic(artifact.within(f'lookup/{how["lookup"]}/'), how['column'])
  if how['by'] == 'score':
    return pairs.score(artifact, artifact.manifest['model']['vectors'], how['relation'])
  if feature.kind == 'hash':
    return pairs.cross(lambda texts: values.hash_rows(feature, texts))
  return pairs.cross(vocabulary.of_texts(artifact.within(f'vocabulary/{feature.table}/')))
