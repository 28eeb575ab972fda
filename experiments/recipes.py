"""What compact is made of: techniques by name, how each is applied, and the trials of them all."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from absl import flags

from ctr_jax import compress
from ctr_jax.data import columns
from ctr_jax.serve import pairs_export
from experiments import (
  adaptive,
  budgets,
  common,
  crossed,
  pcf,
  selection,
  settings,
  sweeps,
  trials,
)

flags.adopt_module_key_flags(crossed)  # So that --help shows them.
flags.adopt_module_key_flags(pcf)
flags.adopt_module_key_flags(selection)
flags.declare_key_flag('net')
flags.declare_key_flag('core_rows')
_WAYS = flags.DEFINE_integer('ways', 2, 'Hashes of each core id.')
_CROSSES = flags.DEFINE_bool('crosses', True, 'Begin with crosses and statistics of pairs.')
_BITS = flags.DEFINE_integer(
  'bits',
  8,
  'Bits of a stored value on the last rung: 8, 4 or 2; or 16, a float16, which is read sooner than '
  'a code and its scale.',
)

STRENGTHS = {
  'relation': 'pairwise',
  'pcf_gnn': '',
  'net': '2',
  'features': 'droprank',
  'multi_hash': '4',
  'budget': '100',
  'dims': '0.003',
}
"""Technique → how it is applied if nothing is said, in the order in which they come."""
TECHNIQUES = flags.DEFINE_list(
  'techniques',
  [name for name in STRENGTHS if name not in ('net', 'budget')],
  'What compact is made with. relation[:pairwise or attentive] relates fields in the net; pcf_gnn '
  'scores pairs by node vectors; net[:how many times fewer hidden units] makes the net smaller; '
  'features[:droprank or fscd] keeps those that gates choose (see --price); multi_hash[:how many '
  'times fewer rows]; budget[:how many times fewer bytes], in its place, chooses a technique and a '
  'size for every table; dims[:price of a table of full width, in nats per sample] cuts '
  'dimensions.',
)

OF_CROSSES = {'relation', 'pcf_gnn'}
BEFORE = OF_CROSSES | {'net'}
"""Techniques that change the columns or the net, so that full tables have to be trained anew."""
PLAIN = (('.*', compress.identity()),)
SMALL, _FEATURES, _HASH, _BUDGET, _DIMS = (
  'node vectors in int8', 'selected features', 'multi-hash', 'a budget of bytes', 'adaptive dims',
)  # fmt: skip
NAMES = {
  'relation': 'relational network',
  'pcf_gnn': 'PCF-GNN',
  'net': 'smaller net',
  'features': _FEATURES,
  'multi_hash': _HASH,
  'budget': _BUDGET,
  'dims': _DIMS,
}


def parsed(techniques: list[str]) -> dict[str, str]:
  """Technique → strength, in their order, of words as --techniques has them.

  Raises:
    ValueError: one is not known, or its strength is none.
  """
  found = {}
  for word in filter(None, techniques):
    name, _, strength = word.partition(':')
    if name not in STRENGTHS:
      known = ', '.join(STRENGTHS)
      raise ValueError(f'--techniques: {name!r} is not known; known are {known}.')
    found[name] = strength or STRENGTHS[name]
    _check(name, found[name])
  if {'multi_hash', 'budget'} <= found.keys():
    raise ValueError('--techniques: multi_hash and budget both say how rows are stored; name one.')
  return {name: found[name] for name in STRENGTHS if name in found}


def asked() -> dict[str, str]:
  """Technique → strength as the flags say; by default not those of crosses with --nocrosses."""
  found = parsed(TECHNIQUES.value)
  if _CROSSES.value or TECHNIQUES.present:
    return found
  return {name: strength for name, strength in found.items() if name not in OF_CROSSES}


def kind() -> str:
  """How values are stored on the last rung."""
  return 'float16' if _BITS.value == 16 else f'int{_BITS.value}'


def _check(name, strength):
  words = {
    'relation': ('attentive', 'pairwise'),
    'features': ('droprank', 'fscd'),
    'pcf_gnn': ('',),
  }
  if name in words:
    wrong = strength not in words[name]
  else:
    try:
      wrong = float(strength) < (0 if name == 'dims' else 1)
    except ValueError:
      wrong = True
  if wrong:
    raise ValueError(f'--techniques: {name}:{strength} has no such strength; see --help.')


class Rung(NamedTuple):
  """What is trained and what is measured of it.

  Attributes:
    name: of its trial and its row.
    source: makes the data that it reads.
    trial: (data, folder of all trials) → what is trained.
    links: measured after it, a row each.
    vectors: what an export needs for the scores among its columns.
    without: in an ablation, which technique compact lacks.
    offset: whether rounded rows have an offset beside their scale; a budget counts them without.
  """

  name: str
  source: Callable[[], columns.Source]
  trial: Callable[[columns.Source, pathlib.Path], trials.Trial]
  links: tuple = ()
  vectors: Callable[[], pairs_export.Vectors | None] = lambda: None
  without: str = ''
  offset: bool = True

  def rounded(self) -> Rung:
    """With its tables rounded after training as a second row."""
    if _BITS.value == 16:
      link = compress.cast('float16')
    else:
      link = compress.int_quantize(_BITS.value, self.offset)
    return self._replace(links=((f'{self.name} + {kind()}', link),))


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How compact is made of a net on some columns, technique by technique.

  Attributes:
    source: makes the data.
    options: of every trial: net, schedule, and so on.
    techniques: name → strength; those of features, rows and columns come after training.
    start: name of the trial of full tables and all features.
    prefix: of the names of trials that only this recipe has.
    vectors: as in `Rung`.
  """

  source: Callable[[], columns.Source]
  options: dict[str, Any]
  techniques: Mapping[str, str]
  start: str
  prefix: str = ''
  vectors: Callable[[], pairs_export.Vectors | None] = lambda: None

  def rungs(self) -> list[Rung]:
    """Features, rows, columns: those that there are, each on top of the ones before."""
    found = []
    if 'features' in self.techniques:
      found.append(self._rung(_FEATURES, self._kept(self.prefix + _FEATURES, lambda _: PLAIN)))
    for technique in ('multi_hash', 'budget'):
      if technique in self.techniques:
        name = NAMES[technique]
        found.append(self._rung(name, self._kept(self.prefix + name, self.first)))
    if 'dims' in self.techniques:
      found.append(self._rung(_DIMS, self._packed))
    return found

  def full(self) -> Rung:
    """Full tables of all features: what its stages start from."""
    return Rung(self.start, self.source, same(self.start, **self.options), (), self.vectors)

  def compact(self) -> Rung:
    """All of its stages, the last of which is rounded."""
    return [self.full(), *self.rungs()][-1].rounded()

  def _rung(self, name, trial):
    offset = 'budget' not in self.techniques
    return Rung(self.prefix + name, self.source, trial, (), self.vectors, offset=offset)

  def first(self, source):
    """Rules of the tables before their dimensions: a hash, or what a budget chooses."""
    if 'multi_hash' in self.techniques:
      return hashed(source, float(self.techniques['multi_hash']))
    if 'budget' in self.techniques:
      full = trials.Trial(self.start, PLAIN, **self.options)
      part = 100 / float(self.techniques['budget'])
      return budgets.choose(full, source, f'{part:.9f}%', kinds=(kind(),)).rules
    return PLAIN

  def _kept(self, name, rules):
    """(data, folder) → the trial of tables stored by rules, of the features that gates left."""

    def trial(source, folder):
      if 'features' not in self.techniques:
        return trials.Trial(name, rules(source), **self.options)
      full = trials.Trial(self.start, **self.options)
      gates = self._gates(selection.Setting(full, source, folder))
      kept = selection.kept(source, rules(source))
      return trials.Trial(name, kept, after=gates, start=trials.afresh, **self.options)

    return trial

  def _gates(self, setting):
    if self.techniques['features'] == 'fscd':
      return selection.fscd(setting, selection.WEIGHT.value)
    return selection.droprank(setting.full, setting.source, selection.WEIGHT.value)

  def _packed(self, source, folder):
    """The trial of what adaptive dimensions leave, after the search for them."""
    price, first = float(self.techniques['dims']), self.first(source)
    rules = adaptive.searching(source, first, price)
    search = self._kept(f'{self.prefix}AMTL search', lambda _: rules)(source, folder)
    return adaptive.packed(self.prefix + _DIMS, search, first, price)


def hashed(source: columns.Source, ratio: float) -> compress.Rules:
  """Rules that store each core table in `ratio` times fewer rows, by multi-hash."""

  def technique(table):
    return compress.multi_hash(max(1, int(source.rows[table] / ratio / _WAYS.value)), _WAYS.value)

  return sweeps.on(sweeps.large(source), technique)


class Base:
  """A data set, its pairs, and what models of it read and are made of."""

  def __init__(self, source: columns.Source):
    chosen = settings.of(common.data_name())
    self.source = source
    self.crosses = _CROSSES.value
    self.pairs = crossed.pairs(source) if self.crosses else []
    self.shared = {
      'net': sweeps.NET.value,
      'net_options': chosen.net_options(sweeps.NET.value),
      'dim': chosen.dim,
      'optimizer': chosen.optimizer,
      'schedule': common.schedule(chosen.epochs, chosen.batch_size),
    }

  def options(self, techniques: Mapping[str, str]) -> dict[str, Any]:
    """Of a trial, with the relational network and the smaller net of these techniques or not."""
    net, of_net = self.shared['net'], dict(self.shared['net_options'])
    if 'relation' in techniques:
      net = 'relation' if net == 'dnn' else f'relation_{net}'
      mode = techniques['relation']
      of_net |= {} if mode == STRENGTHS['relation'] else {'mode': mode}
    if 'net' in techniques:
      if 'hidden' not in of_net:
        raise ValueError(f'--techniques: net: {net} has no one MLP to make smaller; leave it out.')
      fewer = float(techniques['net'])
      of_net['hidden'] = tuple(max(1, round(units / fewer)) for units in of_net['hidden'])
    return self.shared | {'net': net, 'net_options': of_net}

  def told(self, ids=()) -> columns.Source:
    """With click rates of pairs, and ids of them."""
    source = crossed.with_crosses(self.source, ids) if ids else self.source
    return crossed.with_statistics(source, self.pairs)

  def scored(self, technique=None) -> columns.Source:
    """With scores of pairs by node vectors as `technique` stores them."""
    return pcf.with_scores(self.source, self.pairs, pcf.config('gnn'), technique).source

  def vectors(self, technique=None) -> pairs_export.Vectors:
    return pcf.served(self.source, self.pairs, pcf.config('gnn'), technique)

  def massive(self) -> Rung:
    """Full tables; with crosses, ids and click rates of pairs too."""
    return Rung('massive', self._all, same('massive', **self.shared))

  def _all(self):
    return self.told(self.pairs) if self.crosses else self.source

  def recipe(self, techniques: Mapping[str, str], start: str, prefix: str = '') -> Recipe:
    """Compact by these techniques; what is not among them, nothing takes the place of.

    Raises:
      ValueError: techniques that replace crosses, where there are none.
    """
    wrong = OF_CROSSES & set(techniques) if not self.crosses else ()
    if wrong:
      raise ValueError(
        f'--nocrosses: {", ".join(sorted(wrong))} of --techniques replaces crosses; leave it out.'
      )
    source, vectors = (lambda: self.source), (lambda: None)
    if 'pcf_gnn' in techniques:
      source, vectors = (lambda: self.scored(pcf.INT8)), (lambda: self.vectors(pcf.INT8))
    made = Recipe(source, self.options(techniques), techniques, start, prefix, vectors)
    made.first(self.source)  # What it refuses is said before hours of training.
    return made


def same(name: str, **options):
  """(data, folder) → the trial of full tables with these options: a rung's `trial`."""
  return lambda source, folder: trials.Trial(name, **options)
