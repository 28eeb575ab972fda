"""The rungs of experiments.massive_to_compact, and compact without each technique."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import flags

from ctr_jax import compress
from ctr_jax.data import columns
from ctr_jax.serve import pairs_export
from experiments import adaptive, common, crossed, pcf, report, selection, settings, trials

flags.adopt_module_key_flags(crossed)  # So that --help shows them.
flags.adopt_module_key_flags(pcf)
flags.adopt_module_key_flags(selection)
_NET = flags.DEFINE_string('net', 'dcn', 'dnn, deepfm, dcn or dcnv2; without crosses any net.')
_WAYS = flags.DEFINE_integer('ways', 2, 'Hashes of each core id.')
_RATIO = flags.DEFINE_float('ratio', 4.0, 'How many times fewer rows a hashed table stores.')
_CORE_ROWS = flags.DEFINE_integer(
  'core_rows', 1000, 'Tables of at least so many rows hold core ids and are hashed.'
)
_CROSSES = flags.DEFINE_bool('crosses', True, 'Begin with crosses and statistics of pairs.')
_SELECTOR = flags.DEFINE_enum(
  'selector', 'droprank', ['droprank', 'fscd'], 'Whose gates choose features; see --price.'
)
_ADAPTIVE = flags.DEFINE_bool('adaptive', True, 'Adaptive dimensions after the hash.')
_DIMS_PRICE = flags.DEFINE_float(
  'dims_price', 0.003, 'Price of a table of full width, in nats per sample; 0 as in AMTL.'
)
_BITS = flags.DEFINE_integer('bits', 8, 'Bits of a stored value on the last rung: 8, 4 or 2.')

_PLAIN = (('.*', compress.identity()),)
_SMALL, _DIMS = 'node vectors in int8', 'adaptive dims'


class Rung(NamedTuple):
  """What is trained and what is measured of it.

  Attributes:
    source: makes the data that it reads.
    trial: (data, folder of all trials) → what is trained.
    links: measured after it, a row each.
    vectors: what an export needs for the scores among its columns.
    without: in an ablation, which technique compact lacks.
  """

  source: Callable[[], columns.Source]
  trial: Callable[[columns.Source, pathlib.Path], trials.Trial]
  links: tuple = ()
  vectors: Callable[[], pairs_export.Vectors | None] = lambda: None
  without: str = ''


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How compact is made, technique by technique, so that any of them can be left out.

  Attributes:
    source: makes the data.
    options: of every trial: net, schedule, and so on.
    first: rules of the tables before their dimensions: the hash.
    before: name of the trial whose features gates choose from; '' to keep all features.
    prefix: of the names of trials that only this recipe has.
    vectors: as in `Rung`.
  """

  source: Callable[[], columns.Source]
  options: dict[str, Any]
  first: compress.Rules
  before: str = ''
  prefix: str = ''
  vectors: Callable[[], pairs_export.Vectors | None] = lambda: None

  def kept(self, name, rules):
    """(data, folder) → the trial of tables stored by rules, of the features that gates left."""

    def trial(source, folder):
      if not self.before:
        return trials.Trial(name, rules, **self.options)
      full = trials.Trial(self.before, **self.options)
      gates = _gates(selection.Setting(full, source, folder))
      kept = selection.kept(source, rules)
      return trials.Trial(name, kept, after=gates, start=trials.afresh, **self.options)

    return trial

  def hashed(self) -> Rung:
    return Rung(
      self.source,
      self.kept(f'{self.prefix}multi-hash', self.first),
      ((f'{self.prefix}multi-hash + {_rounded()[0]}', _rounded()[1]),),
      self.vectors,
    )

  def adaptive(self) -> Rung:
    price = _DIMS_PRICE.value

    def trial(source, folder):
      rules = adaptive.searching(source, self.first, price)
      search = self.kept(f'{self.prefix}AMTL search', rules)(source, folder)
      return adaptive.packed(f'{self.prefix}{_DIMS}', search, self.first, price)

    links = ((f'{self.prefix}{_DIMS} + {_rounded()[0]}', _rounded()[1]),)
    return Rung(self.source, trial, links, self.vectors)

  def compact(self) -> Rung:
    """All of its stages, the last of which is rounded."""
    return self.adaptive() if _ADAPTIVE.value else self.hashed()


def _gates(setting):
  if _SELECTOR.value == 'fscd':
    return selection.fscd(setting, selection.WEIGHT.value)
  return selection.droprank(setting.full, setting.source, selection.WEIGHT.value)


def _rounded():
  return f'int{_BITS.value}', compress.int_quantize(_BITS.value)


def hashed(source: columns.Source) -> compress.Rules:
  """Rules that store each core table in `ratio` times fewer rows, by multi-hash."""
  rules = []
  for table, rows in source.rows.items():
    if rows >= _CORE_ROWS.value:
      buckets = max(1, int(rows / _RATIO.value / _WAYS.value))
      rules.append((table.replace('.', r'\.'), compress.multi_hash(buckets, _WAYS.value)))
  if not rules:
    raise ValueError(
      f'No table has {_CORE_ROWS.value} rows (the largest has {max(source.rows.values())}): '
      'lower --core_rows.'
    )
  return (*rules, *_PLAIN)


class Ladder(NamedTuple):
  """What to train, in order.

  Attributes:
    rungs: from massive to compact, and those beside them.
    beside: names of rows that are no rungs.
    ablation: compact without each technique that costs a training to leave out.
    free: technique → name of the row that is compact without it.
  """

  rungs: list[Rung]
  beside: list[str]
  ablation: list[Rung]
  free: dict[str, str]


def ladder(source: columns.Source) -> Ladder:
  """The ladder that the flags ask for."""
  chosen = settings.of(common.data_name())
  shared = {
    'net': _NET.value,
    'net_options': chosen.net_options(_NET.value),
    'dim': chosen.dim,
    'optimizer': chosen.optimizer,
    'schedule': common.schedule(chosen.epochs, chosen.batch_size),
  }
  rules, rounded = hashed(source), _rounded()[0]
  free, beside = {rounded: 'multi-hash'}, []
  if _ADAPTIVE.value:
    free = {rounded: _DIMS, 'adaptive dims': f'multi-hash + {rounded}'}
    beside = [f'multi-hash + {rounded}']
  if not _CROSSES.value:
    recipe = Recipe(lambda: source, shared, rules)
    rungs = [Rung(lambda: source, _same('massive', **shared)), *_last(recipe)]
    return Ladder(rungs, beside, [_without(recipe, 'multi-hash', first=_PLAIN)], free)
  pairs = crossed.pairs(source)
  related = shared | {'net': 'relation' if _NET.value == 'dnn' else f'relation_{_NET.value}'}

  def told(ids=()):
    return crossed.with_statistics(crossed.with_crosses(source, ids) if ids else source, pairs)

  def scored(technique=None):
    return pcf.with_scores(source, pairs, pcf.config('gnn'), technique).source

  def vectors(technique=None):
    return pcf.served(source, pairs, pcf.config('gnn'), technique)

  def small():
    return scored(pcf.INT8)

  recipe = Recipe(small, related, rules, _SMALL, vectors=lambda: vectors(pcf.INT8))
  rungs = [
    Rung(lambda: told(pairs), _same('massive', **shared)),
    Rung(told, _same('relational network', **related)),
    Rung(scored, _same('PCF-GNN', **related), vectors=vectors),
    Rung(small, _same(_SMALL, **related), vectors=recipe.vectors),
    Rung(small, recipe.kept('selected features', _PLAIN), vectors=recipe.vectors),
    *_last(recipe),
    Rung(lambda: source, _same(report.BESIDE, **shared)),
  ]
  ablation = [
    _without(recipe, 'relational network', options=shared, before='base'),
    _without(recipe, 'PCF-GNN', source=lambda: source, before='base', vectors=lambda: None),
    _without(recipe, 'selected features', before=''),
    _without(recipe, 'multi-hash', first=_PLAIN),
  ]
  return Ladder(rungs, [*beside, report.BESIDE], ablation, free)


def _last(recipe):
  return [recipe.hashed(), *([recipe.adaptive()] if _ADAPTIVE.value else [])]


def _without(recipe, technique, before=None, **changes):
  """The rung of compact without a technique; `before` 'base': its features are chosen anew."""
  prefix = f'without {technique}, '
  if before is not None:
    changes['before'] = before and prefix + before
  changed = dataclasses.replace(recipe, prefix=prefix, **changes)
  return changed.compact()._replace(without=technique)


def _same(name, **options):
  return lambda source, folder: trials.Trial(name, **options)
