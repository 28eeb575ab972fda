"""Which features of a data set are made of pairs of others, and what an artifact holds for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ctr_jax.compress import codec as codec_lib
from ctr_jax.data import columns
from ctr_jax.serve import pairs
from ctr_jax.tables import trees


class Vectors(NamedTuple):
  """Pre-trained node vectors, whose scores are features `FIRST-SECOND.score`.

  Attributes:
    relations: (first, second) of each pair of features.
    tables: feature → table.
    technique: that the vectors are stored by.
    shapes: table → (rows, 1 + dim).
    stored: table → arrays laid out as the technique's plan.
    method: of the CrossNet, see `graphs.pcf_gnn`.
    cross: its parameters.
  """

  relations: Sequence[tuple[str, str]]
  tables: Mapping[str, str]
  technique: codec_lib.Technique
  shapes: Mapping[str, tuple[int, int]]
  stored: Mapping[str, Any]
  method: str
  cross: Mapping[str, Any]


class Found(NamedTuple):
  """What the manifest says, and the arrays.

  Attributes:
    made: feature → {'by', 'first', 'second', ...}, see `encoder`.
    vectors: of `pairs.score`; {} where there are none.
    arrays: path → array.
  """

  made: dict[str, dict[str, Any]]
  vectors: dict[str, Any]
  arrays: dict[str, np.ndarray]


def find(names: Sequence[str], source: columns.Source, vectors: Vectors | None) -> Found:
  """How the named features are made, those that are."""
  found = Found({}, {}, {})
  for name in names:
    part = source.owner(name) if hasattr(source, 'owner') else source
    made_of = getattr(part, 'manifest', {}).get('made_of', {})
    for x in made_of.get('crosses', ()):
      cross = f'{x["first"]}-{x["second"]}'
      if name in (cross, f'{cross}.hash'):
        found.made[name] = _how('cross', x['first'], x['second'])
    for x in made_of.get('statistics', ()):
      pair, _, column = name.rpartition('.')
      if pair == f'{x["first"]}-{x["second"]}' and column in ('lift', 'seen'):
        found.made[name] = _how('statistic', x['first'], x['second'], lookup=pair, column=column)
        found.arrays.update(_lookup(part, pair))
    for i, (first, second) in enumerate(vectors.relations if vectors else ()):
      if name == f'{first}-{second}.score':
        found.made[name] = _how('score', first, second, relation=i)
  if any(how['by'] == 'score' for how in found.made.values()):
    found.vectors.update(_described(vectors))
    found.arrays.update(_arrays(vectors))
  return found


def _how(by, first, second, **more):
  return {'by': by, 'first': first, 'second': second, **more}


def _lookup(part, pair):
  read = part.lookup(pair)
  keys = pairs.key(read['u'], read['v'])
  order = np.argsort(keys)
  arrays = {'key': keys, 'lift': read['lift'], 'seen': read['seen']}
  return {f'lookup/{pair}/{name}': x[order] for name, x in arrays.items()}


def _used(vectors):
  return sorted({vectors.tables[f] for pair in vectors.relations for f in pair})


def _described(vectors):
  tables = _used(vectors)
  return {
    'method': vectors.method,
    'relations': [list(pair) for pair in vectors.relations],
    'tables': {f: vectors.tables[f] for pair in vectors.relations for f in pair},
    'chains': {t: codec_lib.describe(vectors.technique) for t in tables},
    'rows': {t: int(vectors.shapes[t][0]) for t in tables},
    'width': int(vectors.shapes[tables[0]][1]),
  }


def _arrays(vectors):
  kept = {t: vectors.stored[t] for t in _used(vectors)}
  arrays = {f'vectors/{p}': np.asarray(x) for p, x in trees.flatten(kept).items()}
  cross = trees.flatten(vectors.cross)
  return arrays | {f'cross/{p}': np.asarray(x) for p, x in cross.items()}
