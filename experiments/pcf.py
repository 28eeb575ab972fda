"""Columns of pre-trained pair scores: a graph for each period, and p(u, v) beside the data.

Scores of a sample come from vectors that were trained on its history alone: a training for each
period (slice of the clock, or fold) and one of all of train, which is what is served. Only that
one's vectors count in bytes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from ctr_jax import compress
from ctr_jax.compress import codec as codec_lib
from ctr_jax.data import additions, beside, columns, crosses
from ctr_jax.data import history as history_lib
from ctr_jax.graphs import graph as graph_lib
from ctr_jax.serve import pairs_export
from ctr_jax.tables import gather, leaf
from ctr_jax.train import pretrain
from experiments import common, crossed

_DIM = flags.DEFINE_integer('vector_dim', 8, 'Of the node vectors, beside their bias.')
_L2 = flags.DEFINE_list(
  'vector_l2',
  ['3', '10', '30'],
  'Pull of node vectors to zero; of several the best on held-out pairs.',
)

INT8 = compress.int_quantize(8)


def config(method: str) -> pretrain.Config:
  """How a method of `pcf_gnn.METHODS` is pre-trained, by the flags; its pull is chosen later."""
  return pretrain.Config(method, dim=_DIM.value)


class Scored(NamedTuple):
  """A source with scores, and what they were made by.

  Attributes:
    source: with a column `first-second.score` for each pair.
    served: the vectors that serving needs, as their codec gives them back.
    nbytes: of the served vectors as stored, and of the CrossNet.
  """

  source: columns.Source
  served: pretrain.Pretrained
  nbytes: int


def trained(source, chosen, config: pretrain.Config, seed: int = 0):
  """Period → what was pre-trained on its history (None where there is none yet); None → on all.

  The pull on vectors is chosen by the held-out pairs of all of train, and is then that of all.
  """
  timed = crossed.clocked(source)
  how = crossed.history(timed, sliced=True)
  tables = {f.name: f.table for f in timed.schema.features}
  *parts, served = crosses.known(timed, chosen, how, engine_name=common.ENGINE.value)

  def train(known, l2):
    graph = graph_lib.build(known.pairs, tables, timed.rows, known.rate)
    one = dataclasses.replace(config, l2=l2)
    name = 'all' if known.period is None else f'period_{known.period}'
    place = crossed.folder('pcf', timed.checksum, chosen, how, one, seed) / name
    with crossed.making(place):
      return pretrain.pretrain(graph, one, place, seed, f'{config.method}, {name}')

  found = {float(l2): train(served, float(l2)) for l2 in _L2.value}
  l2 = _chosen({l2: made.best for l2, made in found.items()})
  made = {None: found[l2]}
  for known in parts:
    some = any(len(x.u) for x in known.pairs)
    made[known.period] = train(known, l2) if some else None
  return made


def _chosen(looks):
  """The pull with the least error on held-out pairs; the strongest where none is held out."""
  told = {l2: best['unseen'] for l2, best in looks.items() if 'unseen' in best}
  return min(told, key=told.__getitem__) if told else max(looks)


def served(
  source: columns.Source, chosen, config: pretrain.Config, technique: codec_lib.Technique | None
) -> pairs_export.Vectors:
  """What an exported model needs to score pairs as `with_scores` does."""
  found = trained(source, chosen, config)[None]
  technique = technique or compress.identity()
  tables = found.graph.split(found.vectors)
  return pairs_export.Vectors(
    relations=found.graph.relations,
    tables=found.graph.tables,
    technique=technique,
    shapes={table: x.shape for table, x in tables.items()},
    stored={t: technique(leaf.Leaf(x.shape)).encode(x) for t, x in tables.items()},
    method=config.method,
    cross=found.cross,
  )


def stored(found: pretrain.Pretrained, technique: codec_lib.Technique | None):
  """(vectors as a codec gives them back, bytes of what it stores)."""
  technique = technique or compress.identity()
  made, nbytes = {}, 0
  for table, vectors in found.graph.split(found.vectors).items():
    codec = technique(leaf.Leaf(vectors.shape))
    index = codec.address(np.arange(len(vectors), dtype=np.int32))
    rows = gather.gather(codec.plan, codec.encode(vectors), index)
    made[table] = np.asarray(codec.decode(rows, train=False))
    nbytes += leaf.nbytes(codec.plan)
  nbytes += sum(x.nbytes for x in _leaves(found.cross))
  return found._replace(vectors=found.graph.join(made)), nbytes


def _leaves(tree):
  return [x for v in tree.values() for x in (_leaves(v) if isinstance(v, dict) else [v])]


def with_scores(
  source: columns.Source,
  chosen,
  config: pretrain.Config,
  technique: codec_lib.Technique | None = None,
) -> Scored:
  """The source with p(u, v) of each pair, from vectors that `technique` stores."""
  timed = crossed.clocked(source)
  how = crossed.history(timed, sliced=True)
  found = trained(source, chosen, config)
  models = {period: x and stored(x, technique)[0] for period, x in found.items()}
  served, nbytes = stored(found[None], technique)
  periods = history_lib.Periods(timed, how)
  names = [f'{a}-{b}.score' for a, b in chosen]

  def of(split, start, stop):
    read = timed.read(split, [name for pair in chosen for name in pair], start, stop)
    period = periods.read(split, start, stop)
    made = {name: np.zeros(stop - start, np.float32) for name in names}
    for one in np.unique(period):
      at, model = np.flatnonzero(period == one), models.get(int(one), served)
      if model is not None:
        for i, (name, (first, second)) in enumerate(zip(names, chosen, strict=True)):
          made[name][at] = pretrain.scores(model, i, read[first][at], read[second][at])
    return made

  made_of = {
    'pairs': [list(pair) for pair in chosen],
    'history': dataclasses.asdict(how),
    'config': dataclasses.asdict(config) | {'l2': _L2.value},
    'stored': technique and compress.describe(technique),
  }
  out = crossed.folder('scores', timed.checksum, made_of)
  lookups = {'node vectors': nbytes}
  with crossed.making(out):
    added = additions.numbers(timed, out, names, made_of, of, lookups)
  return Scored(beside.join(source, added), served, nbytes)


def correlation(source: Any, made: Scored, chosen) -> float:
  """Of scores with planted truth, over samples of test whose pair is not in train; mean over pairs.

  The truth of two features is the sum of the effects that they determine: of themselves, of fields
  that are functions of them (an item's category), and of pairs among these.
  """
  found = []
  parent = {field.name: field.of for field in source.spec.fields}

  def follows(name, pair):
    return name in pair or (bool(parent[name]) and follows(parent[name], pair))

  effects = source.terms('test', 0, source.num_samples('test'))
  for i, pair in enumerate(chosen):
    seen = _keys(source, 'train', pair)
    keys = _keys(source, 'test', pair)
    new = ~np.isin(keys, seen) & (keys % (1 << 32) > 0) & (keys >> 32 > 0)
    if new.sum() < 100:
      continue
    planted = sum(
      effect
      for (kind, *names), effect in effects.items()
      if kind != 'drift' and all(follows(name, pair) for name in names)
    )
    u, v = (keys[new] >> 32).astype(np.int32), (keys[new] % (1 << 32)).astype(np.int32)
    score = pretrain.scores(made.served, i, u, v)
    found.append(float(np.corrcoef(score, planted[new])[0, 1]))
  return float(np.mean(found))


def _keys(source, split, pair):
  read = source.read(split, pair, 0, source.num_samples(split))
  return (read[pair[0]].astype(np.int64) << 32) | read[pair[1]]
