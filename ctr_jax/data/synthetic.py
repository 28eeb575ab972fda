"""Clicks with a known, planted truth; every row follows from (seed, row number), nothing is stored.

A row's ids are drawn by power laws, so that row numbers of tables are frequency ranks. Its click is
drawn with probability sigmoid(logit), where

  logit = bias + Σ main(value) + Σ drift(value, day) + Σ pair(value, value) + Σ cross(value, value)

  main   one effect per value (per number: a slope)
  drift  an effect per value that turns slowly with the day
  pair   product of two hidden vectors of 4 numbers, one per value: what embeddings can learn
  cross  one effect per pair of values, which says nothing of any other pair: to be memorised

Every effect is a hash of its values, so a field of 10^9 values costs what one of 10 costs. Fields
without effects are noise, unless they are functions of others (redundant) or others are functions
of them (sources): `Spec.roles` tells. Since the probability is known, so is the best AUC that any
model can reach: `best`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import numpy as np

from ctr_jax.data import draws
from ctr_jax.data import schema as schema_lib

# Of the generator: raised whenever the same spec yields other rows.
VERSION = 1
# Rows made at a time: their arrays fit the cache.
_BLOCK = 1 << 14


@dataclasses.dataclass(frozen=True)
class Field:
  """A feature and its own effects.

  Attributes:
    name: of the feature.
    kind: 'id', 'ids' or 'numeric'.
    values: rows 1..values of its table. Row r has probability ∝ ∫ x^-exponent dx from r to r + 1.
    exponent: of the power law; 0 = all values are equally frequent.
    missing: probability of row 0 (of NaN, if numeric).
    of: the field that this one is a function of; '' = drawn by itself.
    width: elements of `ids`, at most; their number is uniform in 1..width.
    main: standard deviation of the effects of its values; of `numeric`, the slope.
    drift: standard deviation of the effects that turn with the day.
  """

  name: str
  kind: str = 'id'
  values: int = 1
  exponent: float = 1.0
  missing: float = 0.002
  of: str = ''
  width: int = 1
  main: float = 0.0
  drift: float = 0.0


_FIELDS = (
  Field('user', values=20_000, exponent=1.0, main=0.5),
  Field('city', values=300, exponent=1.1, of='user', main=0.2),
  Field('item', values=100_000, exponent=1.15, main=0.55, drift=0.3),
  Field('category', values=200, exponent=1.1, of='item', main=0.25),
  Field('brand', values=5_000, of='item'),
  Field('query', values=5_000, exponent=1.1, main=0.4),
  Field('page', values=300, exponent=0.9, main=0.25),
  Field('section', values=30, of='page'),
  Field('campaign', values=1_000, exponent=1.0, main=0.25, drift=0.3),
  Field('device', values=8, exponent=0.7, main=0.2),
  Field('hour', values=24, exponent=0.2, missing=0.0, main=0.2),
  Field('slot', values=6, exponent=0.5, missing=0.0, main=0.35),
  Field('tags', 'ids', values=2_000, exponent=1.0, missing=0.02, width=5, main=0.35),
  Field('price', 'numeric', missing=0.05, main=-0.35),
  Field('noise', values=100_000, exponent=1.0),
  Field('noise_small', values=50, exponent=0.6),
)
_PAIRS = (
  ('user', 'category', 0.4),
  ('page', 'category', 0.7),
  ('city', 'campaign', 0.6),
  ('query', 'page', 0.5),
)
_CROSSES = (('device', 'hour', 0.35), ('slot', 'page', 0.35), ('city', 'category', 0.3))


@dataclasses.dataclass(frozen=True)
class Spec:
  """What a synthetic source is made of.

  Attributes:
    name: of the source.
    seed: of everything.
    samples: of train, valid and test, which follow one another in time.
    days: over all splits, equally long.
    fields: in the order of the features.
    pairs: (field, field, standard deviation) of the products of hidden vectors.
    crosses: (field, field, standard deviation) of the effects of single pairs of values.
    bias: logit of a row without effects.
    turn: days in which the drifting effects go once round.
    group: feature by which GAUC groups.
  """

  name: str = 'synthetic'
  seed: int = 0
  samples: tuple[int, int, int] = (300_000, 50_000, 50_000)
  days: int = 16
  fields: tuple[Field, ...] = _FIELDS
  pairs: tuple[tuple[str, str, float], ...] = _PAIRS
  crosses: tuple[tuple[str, str, float], ...] = _CROSSES
  bias: float = -1.4
  turn: float = 60.0
  group: str = 'user'

  def __post_init__(self):
    kinds = {field.name: field.kind for field in self.fields}
    used = {name for a, b, _ in (*self.pairs, *self.crosses) for name in (a, b)}
    used |= {field.of for field in self.fields if field.of}
    wrong = sorted(name for name in used if kinds.get(name) != 'id')
    if wrong:
      raise ValueError(
        f'Spec {self.name!r}: {wrong} are used in pairs, crosses or `of` '
        'and are no fields of kind "id".'
      )
    seen = set()
    for field in self.fields:
      if field.of and field.of not in seen:
        raise ValueError(f'Field {field.name!r} is a function of {field.of!r}; list it after that.')
      seen.add(field.name)
      if field.values < 1 or field.values > 2**31 - 2:
        raise ValueError(f'Field {field.name!r}: values must be in 1..2^31-2, got {field.values}.')

  @property
  def roles(self) -> dict[str, tuple[str, ...]]:
    """Field -> which of 'main', 'drift', 'pair' and 'cross' it has; without any, 'source' (a field
    that has some is a function of it), 'redundant' (a function of a field that is not noise) or
    'noise'. All but noise tells of the click."""
    found = {field.name: self._effects(field) for field in self.fields}
    for field in reversed(self.fields):  # A function is listed after what it is a function of.
      if field.of and found[field.name]:
        found[field.of] = found[field.of] or ('source',)
    for field in self.fields:
      redundant = field.of and found[field.of] != ('noise',)
      found[field.name] = found[field.name] or ('redundant' if redundant else 'noise',)
    return found

  def _effects(self, field):
    found = [what for what in ('main', 'drift') if getattr(field, what)]
    found += ['pair'] if any(field.name in pair[:2] for pair in self.pairs) else []
    found += ['cross'] if any(field.name in cross[:2] for cross in self.crosses) else []
    return tuple(found)


def small(seed: int = 0, samples: tuple[int, int, int] = (4_000, 1_000, 1_000)) -> Spec:
  """A few thousand clicks with one field of each role; for tests."""
  fields = (
    Field('user', values=300, exponent=0.8, main=0.7),
    Field('item', values=200, exponent=0.9, main=0.7, drift=0.3),
    Field('category', values=20, of='item'),
    Field('hour', values=24, exponent=0.2, main=0.3),
    Field('tags', 'ids', values=50, width=3, missing=0.02, main=0.5),
    Field('price', 'numeric', missing=0.05, main=-0.5),
    Field('noise', values=1_000),
  )
  pairs, crosses = (('user', 'item', 0.8),), (('item', 'hour', 0.3),)
  return Spec('synthetic_small', seed, samples, 12, fields, pairs, crosses)


def large_ids(seed: int = 0, values: int = 20_000_000) -> Spec:
  """The default with two million clicks and `values` items."""
  fields = tuple(
    dataclasses.replace(field, values=values) if field.name == 'item' else field
    for field in _FIELDS
  )
  return Spec('synthetic_large_ids', seed, (2_000_000, 100_000, 100_000), fields=fields)


def selection(seed: int = 0, samples: tuple[int, int, int] = (200_000, 40_000, 40_000)) -> Spec:
  """Clicks that judge a selection of features: what each field is good for is known.

  Useful fields of several strengths and sizes; redundant ones; noise, up to tables as large as
  train, which embeddings learn by heart; and twins: `twin_cheap`, of 500 rows, is all that matters
  of `twin_dear`, of 50,000, so that each tells of the click what the other does.
  """
  fields = (
    Field('user', values=5_000, main=0.5),
    Field('city', values=20, of='user'),
    Field('item', values=20_000, exponent=1.1, main=0.6),
    Field('brand', values=100, of='item'),
    Field('query', values=1_000, main=0.35),
    Field('page', values=200, exponent=0.8, main=0.35),
    Field('campaign', values=20, exponent=0.5),
    Field('hour', values=24, exponent=0.2, missing=0.0, main=0.3),
    Field('slot', values=10, exponent=0.5, missing=0.0, main=0.4),
    Field('tags', 'ids', values=1_000, missing=0.02, width=4, main=0.4),
    Field('price', 'numeric', missing=0.05, main=-0.2),
    # Few samples have values so rare that only the group can be learned.
    Field('twin_dear', values=50_000, exponent=1.4),
    Field('twin_cheap', values=500, exponent=1.1, of='twin_dear', main=0.5),
    Field('noise_10', values=10, exponent=0.5),
    Field('noise_1k', values=1_000),
    Field('noise_50k', values=50_000),
    Field('noise_200k', values=200_000, exponent=0.8),
    Field('noise_tags', 'ids', values=1_000, missing=0.02, width=4),
    Field('noise_number', 'numeric', missing=0.05),
  )
  pairs = (('slot', 'campaign', 0.5), ('page', 'hour', 0.3))
  return Spec('synthetic_selection', seed, samples, fields=fields, pairs=pairs, crosses=())


class Synthetic:
  """A Source of clicks that are made when they are read.

  Attributes (beyond a Source's):
    spec: what it is made of.
    title: how to name it beside a result.
  """

  # float64 'probability', with which the label was drawn, and int32 'day', from 0.
  extras = ('probability', 'day')

  def __init__(self, spec: Spec | None = None):
    self.spec = spec = Spec() if spec is None else spec
    self.rows = {f.name: 1 + (1 if f.kind == 'numeric' else f.values) for f in spec.fields}
    features = tuple(
      schema_lib.Feature(f.name, f.kind, width=f.width if f.kind == 'ids' else 0)
      for f in spec.fields
    )
    self.schema = schema_lib.Schema(spec.name, features, group=spec.group)
    text = json.dumps([VERSION, dataclasses.asdict(spec)], sort_keys=True)
    self.checksum = hashlib.sha256(text.encode()).hexdigest()
    self.title = f'{spec.name}, seed {spec.seed}'

  def num_samples(self, split: str) -> int:
    """Samples of 'train', 'valid' or 'test'."""
    return self.spec.samples[self._number(split)]

  def read(self, split: str, names: Sequence[str], start: int, stop: int) -> dict[str, np.ndarray]:
    """Samples start..stop of a split; see `columns.Source`."""
    known = (*self.schema.names, 'label', *self.extras)
    unknown = [name for name in names if name not in known]
    if unknown:
      raise KeyError(f'{self.spec.name} has no column {unknown[0]!r}; it has {", ".join(known)}.')
    return self._blocks(split, start, stop, lambda rows: {n: rows.column(n) for n in names})

  def terms(self, split: str, start: int, stop: int) -> dict[tuple[str, ...], np.ndarray]:
    """What the logit, less the bias, is the sum of: ('main', field), ('drift', field), ('pair',
    field, field) and ('cross', field, field) -> float64 [n]."""
    return self._blocks(split, start, stop, lambda rows: rows.terms())

  def _made(self, rows):
    return Rows(self.spec, rows)

  def _number(self, split):
    if split not in schema_lib.SPLITS:
      raise ValueError(f'There is no split {split!r}; there are {", ".join(schema_lib.SPLITS)}.')
    return schema_lib.SPLITS.index(split)

  def _blocks(self, split, start, stop, make):
    samples = self.num_samples(split)
    if not 0 <= start <= stop <= samples:
      raise ValueError(
        f'Rows {start}..{stop} are not in {split!r} of {self.spec.name}, which has {samples}.'
      )
    before = sum(self.spec.samples[: self._number(split)])
    found = {}
    for first in range(start, max(stop, start + 1), _BLOCK):
      last = min(first + _BLOCK, stop)
      part = make(self._made(np.arange(before + first, before + last, dtype=np.uint64)))
      for name, column in part.items():
        if name not in found:
          found[name] = np.empty((stop - start, *column.shape[1:]), column.dtype)
        found[name][first - start : last - start] = column
    return found


class Rows:
  """Some rows: each column is made once, when it is first asked for."""

  def __init__(self, spec: Spec, rows: np.ndarray):
    self._spec, self._rows = spec, rows
    self._fields = {field.name: field for field in spec.fields}
    self._made = {}

  def column(self, name: str) -> np.ndarray:
    if name not in self._made:
      self._made[name] = self._make(name)
    return self._made[name]

  def terms(self) -> dict[tuple[str, ...], np.ndarray]:
    found = {}
    for field in self._spec.fields:
      if field.main:
        found['main', field.name] = field.main * self._main(field)
      if field.drift:
        found['drift', field.name] = field.drift * self._drift(field)
    for a, b, strength in self._spec.pairs:
      found['pair', a, b] = strength * draws.dot(self._hidden(a), self._hidden(b))
    for a, b, strength in self._spec.crosses:
      first = draws.hashed(self._key('cross', f'{a}&{b}'), self.column(a))
      found['cross', a, b] = strength * draws.normal(draws.hashed(first, self.column(b)))
    return found

  def _key(self, what: str, name: str) -> np.uint64:
    return draws.key(self._spec.seed, what, name)

  def _uniform(self, what: str, name: str) -> np.ndarray:
    return draws.uniform(draws.hashed(self._key(what, name), self._rows))

  def _make(self, name: str) -> np.ndarray:
    if name == 'day':
      return (self._rows * self._spec.days // sum(self._spec.samples)).astype(np.int32)
    if name == 'probability':
      # Added in the order of the fields, so that no bit depends on what else is read.
      logit = self._spec.bias + sum(self.terms().values())
      return 1 / (1 + np.exp(-logit))
    if name == 'label':
      return (self._uniform('label', '') < self.column('probability')).astype(np.float32)
    field = self._fields[name]
    if field.of:
      return _grouped(self._key('group', name), self.column(field.of), field)
    if field.kind == 'numeric':
      number = np.sqrt(12) * (self._uniform('value', name) - 0.5)  # Variance one.
      present = self._uniform('missing', name) >= field.missing
      return np.where(present, number, np.nan).astype(np.float32)
    if field.kind == 'ids':
      return self._ids(field)
    return _with_missing(self._uniform('value', name), field)

  def _ids(self, field: Field) -> np.ndarray:
    several = [_rank(self._uniform(f'value {j}', field.name), field) for j in range(field.width)]
    u = self._uniform('count', field.name)
    missing = u < field.missing
    count = 1 + (u * field.width * 1024).astype(np.int32) % field.width
    column = np.stack(several, axis=1)
    column[np.arange(field.width) >= np.where(missing, 1, count)[:, None]] = -1
    column[missing, 0] = 0
    return column

  def _main(self, field: Field) -> np.ndarray:
    column = self.column(field.name)
    if field.kind == 'numeric':
      return np.nan_to_num(column, nan=0.0).astype(np.float64)
    effect = draws.normal(draws.hashed(self._key('main', field.name), column))
    if field.kind == 'ids':
      kept = column >= 0
      total = sum(np.where(kept, effect, 0.0)[:, j] for j in range(field.width))
      return total / np.sqrt(kept.sum(axis=1))
    return effect

  def _drift(self, field: Field) -> np.ndarray:
    angle = 2 * np.pi / self._spec.turn * np.arange(self._spec.days)
    day, column = self.column('day'), self.column(field.name)
    one = draws.normal(draws.hashed(self._key('drift one', field.name), column))
    two = draws.normal(draws.hashed(self._key('drift two', field.name), column))
    return np.cos(angle)[day] * one + np.sin(angle)[day] * two

  def _hidden(self, name: str) -> list[np.ndarray]:
    if ('hidden', name) not in self._made:
      self._made['hidden', name] = draws.vector(
        draws.hashed(self._key('hidden', name), self.column(name))
      )
    return self._made['hidden', name]


def _rank(u: np.ndarray, field: Field) -> np.ndarray:
  return draws.power_law(u, field.values, field.exponent)


def _with_missing(u: np.ndarray, field: Field) -> np.ndarray:
  rest = np.maximum(u - field.missing, 0.0) / (1 - field.missing)
  return np.where(u < field.missing, 0, _rank(rest, field)).astype(np.int32)


def _grouped(key, parent: np.ndarray, field: Field) -> np.ndarray:
  """A function of the parent's row; missing stays missing.

  The parent's most frequent values found a group each, and the others join them by the power law,
  so that groups, too, are numbered by frequency.
  """
  joined = _rank(draws.uniform(draws.hashed(key, parent)), field)
  return np.where(parent <= field.values, parent, joined).astype(np.int32)


def best(source: Synthetic, split: str) -> dict[str, float]:
  """AUC and log loss of the true probability on a split: what no model can beat but by chance."""
  return best_of(source.read(split, ('label', 'probability'), 0, source.num_samples(split)))


def best_of(found) -> dict[str, float]:
  """`best` of some samples: their 'label' and 'probability'."""
  click, p = found['label'] == 1, found['probability']
  high, low = np.sort(p[click]), np.sort(p[~click])
  wins = np.searchsorted(low, high, 'left').sum() + np.searchsorted(low, high, 'right').sum()
  return {
    'auc': float(wins / (2 * high.size * low.size)),
    'log_loss': float(-np.mean(np.log(np.where(click, p, 1 - p)))),
  }
