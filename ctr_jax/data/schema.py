"""The one description of a sample: which features it has, what becomes of their raw values, and
where the raw files are.

A schema is written in Python or in TOML:

    name = 'clicks'
    label = 'clicked'
    group = 'user'                       # GAUC groups by this feature
    ignore = ['request_id']              # raw columns that are known and not wanted

    [files]                              # relative to the data folder; .gz and .zst are tried too
    train = 'day_0[1-6].csv'
    valid = 'day_07.csv'
    test = 'day_08.csv'

    [[features]]
    name = 'user'
    min_count = 2

    [[features]]
    name = 'genres'
    kind = 'ids'
    separator = '|'

Kinds, and the encoding of a missing (empty) and of an unseen (not kept) value:

| kind    | stored              | rows of its table        | missing             | unseen |
|---------|---------------------|--------------------------|---------------------|--------|
| id      | int32 [n]           | kept values + 1          | row 0               | row 0  |
| ids     | int32 [n, width]    | kept values + 1          | row 0, then padding | row 0  |
| bucket  | int32 [n]           | kept buckets + 1         | row 0               | row 0  |
| hash    | int32 [n]           | buckets + 1              | row 0               | never  |
| numeric | float32 [n]         | 2 (0 missing, 1 present) | NaN                 | never  |

Row 0 is missing-or-unseen; rows 1, 2, ... are values, most frequent in train first, ties in the
order of the values' text. Values that came with rows appended later follow, by the same rule among
themselves. Padding of `ids` is -1.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
import re
import tomllib
import typing
from collections.abc import Mapping
from typing import Any

SPLITS = ('train', 'valid', 'test')
# Elements kept of an `ids` cell where the schema gives no width.
MAX_WIDTH = 64
KINDS = ('id', 'ids', 'numeric', 'bucket', 'hash')
TRANSFORMS = ('log2', 'boundaries', 'hour', 'weekday', 'weekend')
# Names that a batch uses itself.
RESERVED = ('label', 'weight', 'probability', 'day')


def _one_of(what, value, known):
  if value not in known:
    raise ValueError(f'{what} is {value!r}; it must be one of {", ".join(map(repr, known))}.')


def _is_number(value):
  try:
    return not math.isnan(float(value))
  except (TypeError, ValueError):
    return False


@dataclasses.dataclass(frozen=True)
class Feature:
  """One feature of a sample.

  Attributes:
    name: what everything downstream calls it.
    kind: 'id', 'ids', 'numeric', 'bucket' or 'hash'; see the module's table.
    column: raw column it is read from; by default its name.
    table: embedding table it reads; by default its name. Features that share a table are counted
      together and must agree in how their values become rows.
    min_count: values seen in train fewer times than this have no row of their own.
    separator: between the elements of `ids`.
    width: elements kept of `ids`; 0 = the longest in train, at most MAX_WIDTH. Later elements are
      cut.
    transform: how a `bucket` turns its number x into an integer: 'log2': floor(ln(x)^2) for
      x > 2 and floor(x) - 3 otherwise, so that small numbers stay apart; 'boundaries': how many
      boundaries are <= x; 'hour', 'weekday' (0 = Monday), 'weekend' (0 or 1): of x = YYMMDDHH.
    boundaries: ascending numbers for 'boundaries'.
    buckets: rows 1..buckets of a `hash`.
  """

  name: str
  kind: str = 'id'
  column: str = ''
  table: str = ''
  min_count: int = 1
  separator: str = '|'
  width: int = 0
  transform: str = 'log2'
  boundaries: tuple[float, ...] = ()
  buckets: int = 0

  def __post_init__(self):
    object.__setattr__(self, 'column', self.column or self.name)
    object.__setattr__(self, 'table', self.table or self.name)
    object.__setattr__(self, 'boundaries', tuple(float(b) for b in self.boundaries))
    for name in (self.name, self.table):
      if not re.fullmatch(r'\w[\w.-]*', name):
        raise ValueError(
          f'Feature name {name!r}: use letters, digits, "_", "." and "-"; it names a folder.'
        )
    if self.name in RESERVED:
      raise ValueError(
        f'Feature name {self.name!r} is used by batches; give it another name and set '
        f'column={self.name!r}.'
      )
    _one_of(f'Feature {self.name!r}: kind', self.kind, KINDS)
    _one_of(f'Feature {self.name!r}: transform', self.transform, TRANSFORMS)
    if self.min_count < 1 or self.width < 0:
      raise ValueError(f'Feature {self.name!r}: min_count is at least 1 and width at least 0.')
    if self.kind == 'ids' and not self.separator:
      raise ValueError(f'Feature {self.name!r}: kind "ids" needs a separator.')
    if self.kind == 'hash' and not 0 < self.buckets < 2**31 - 1:
      raise ValueError(f'Feature {self.name!r}: kind "hash" needs buckets in 1..2^31-2.')
    ascending = self.boundaries and list(self.boundaries) == sorted(set(self.boundaries))
    if self.kind == 'bucket' and self.transform == 'boundaries' and not ascending:
      raise ValueError(f'Feature {self.name!r}: boundaries must be ascending and not empty.')

  @property
  def rule(self) -> tuple:
    """What features that share a table must have in common."""
    kind = 'id' if self.kind == 'ids' else self.kind
    how = (self.transform, self.boundaries) if kind == 'bucket' else ()
    return (kind, self.buckets) if kind == 'hash' else (kind, self.min_count, *how)


@dataclasses.dataclass(frozen=True)
class Split:
  """Which rows are train, valid and test.

  Attributes:
    by: 'file': `Schema.files` says; 'time': rows before the first cut are train, before the second
      valid, the rest test; 'random': by a hash of (seed, row number).
    column: the raw column with the time.
    type: 'number', or 'text' for times that sort as text (ISO 8601).
    cuts: the first time of valid and the first time of test; empty = cut by `fractions`.
    fractions: of train, valid and test.
    seed: of the random split.
  """

  by: str = 'file'
  column: str = ''
  type: str = 'number'
  cuts: tuple[Any, ...] = ()
  fractions: tuple[float, ...] = (0.8, 0.1, 0.1)
  seed: int = 0

  def __post_init__(self):
    object.__setattr__(self, 'cuts', tuple(self.cuts))
    object.__setattr__(self, 'fractions', tuple(float(f) for f in self.fractions))
    _one_of('Split: by', self.by, ('file', 'time', 'random'))
    _one_of('Split: type', self.type, ('number', 'text'))
    if self.by == 'time' and not self.column:
      raise ValueError('A split by time needs the column that holds the time.')
    for cut in self.cuts if self.by == 'time' else ():
      self._check_cut(cut)
    if self.cuts and (len(self.cuts) != 2 or self.cuts[0] > self.cuts[1]):
      raise ValueError('Split: cuts are two times in order: the first of valid, the first of test.')
    if len(self.fractions) != 3 or min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-6:
      raise ValueError('Split: fractions are three numbers, for train, valid, test, that add to 1.')

  def _check_cut(self, cut):
    if self.type == 'text' and not isinstance(cut, str):
      raise ValueError(
        f'Split: cut {cut} is not a text: put it in quotes, spelt as in column {self.column!r}.'
      )
    if self.type == 'number' and not _is_number(cut):
      raise ValueError(
        f'Split: cut {cut} is not a number; times that are texts want type = "text" and cuts in '
        'quotes.'
      )


@dataclasses.dataclass(frozen=True)
class Schema:
  """A sample and its raw files.

  Attributes:
    name: of the data set.
    features: in the order in which nets see them.
    label: raw column with the label, 0 or 1; '' = none, for files that add columns to samples.
    files: split (or 'all' where `split` is not by file) -> glob, or several, relative to the data
      folder. For a pattern P, `P.gz` and `P.zst` are found as well.
    split: which rows are train, valid and test.
    group: feature by which GAUC groups; '' = none.
    ignore: raw columns that are known and not wanted; '*' = all that no feature reads.
    format: 'csv', 'tsv', 'parquet', 'libsvm' or 'libffm'; '' = by the file name, else csv.
    delimiter: '' = by the format.
    quote: '"' or '' for none; by default '"' for csv and none for tsv.
    header: whether text files begin with column names.
    columns: the column names where there is no header.
  """

  name: str
  features: tuple[Feature, ...]
  label: str = 'label'
  files: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  split: Split = dataclasses.field(default_factory=Split)
  group: str = ''
  ignore: tuple[str, ...] = ()
  format: str = ''
  delimiter: str = ''
  quote: str | None = None
  header: bool = True
  columns: tuple[str, ...] = ()

  def __post_init__(self):
    files = {k: (v,) if isinstance(v, str) else tuple(v) for k, v in dict(self.files).items()}
    object.__setattr__(self, 'files', files)
    for name in ('features', 'ignore', 'columns'):
      value = getattr(self, name)
      object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
    if not self.features:
      raise ValueError(f'Schema {self.name!r} has no features.')
    _one_of('Schema: format', self.format, ('', 'csv', 'tsv', 'parquet', 'libsvm', 'libffm'))
    names = SPLITS if self.split.by == 'file' else ('all',)
    if files and not ({names[0]} <= set(files) <= set(names)):
      raise ValueError(
        f'Schema {self.name!r}: files are named {names} for a split by {self.split.by}, and '
        f'{names[0]!r} is needed; these are {tuple(files)}.'
      )
    self._check_features()

  def _check_features(self):
    seen, tables = set(), {}
    for f in self.features:
      if f.name in seen:
        raise ValueError(f'Schema {self.name!r} has two features named {f.name!r}; rename one.')
      seen.add(f.name)
      first = tables.setdefault(f.table, f)
      if first.rule != f.rule or (first is not f and f.kind == 'numeric'):
        raise ValueError(
          f'Features {first.name!r} and {f.name!r} share table {f.table!r} but turn values into '
          f'rows differently ({first.rule} and {f.rule}); make them agree or part the tables.'
        )
    if self.group and self.group not in seen:
      raise ValueError(f'Schema {self.name!r}: group {self.group!r} is not a feature.')
    if self.group in (f.name for f in self.features if f.kind == 'ids'):
      raise ValueError(
        f'Schema {self.name!r}: samples have several values of {self.group!r}, so they cannot be '
        'grouped by it: name a feature of one value as the group.'
      )

  @property
  def names(self) -> tuple[str, ...]:
    """The features' names, in order."""
    return tuple(f.name for f in self.features)

  @property
  def tables(self) -> dict[str, tuple[Feature, ...]]:
    """Table -> the features that read it, in order of first use."""
    tables = {}
    for f in self.features:
      tables.setdefault(f.table, []).append(f)
    return {table: tuple(features) for table, features in tables.items()}

  def feature(self, name: str) -> Feature:
    """The feature of that name."""
    for f in self.features:
      if f.name == name:
        return f
    raise KeyError(f'Schema {self.name!r} has no feature {name!r}; it has {", ".join(self.names)}.')

  def table_of(self, name: str) -> str:
    """The table that a feature reads."""
    return self.feature(name).table

  def to_json(self) -> str:
    """Canonical JSON: sorted keys, and no fields left at their defaults, so that a field added
    later leaves the digests of older schemas alone."""
    return json.dumps(self.to_dict(), sort_keys=True, separators=(',', ':'))

  def to_dict(self) -> dict:
    """As plain dicts and lists, without defaults; the inverse of `from_dict`."""
    return _plain(self)

  @property
  def digest(self) -> str:
    """SHA-256 of the canonical JSON."""
    return hashlib.sha256(self.to_json().encode()).hexdigest()

  @classmethod
  def from_json(cls, text: str) -> 'Schema':
    """The inverse of `to_json`."""
    return cls.from_dict(json.loads(text))

  @classmethod
  def from_toml(cls, path) -> 'Schema':
    """Reads a schema file; its name defaults to the file's."""
    path = pathlib.Path(path)
    with path.open('rb') as file:
      try:
        tree = tomllib.load(file)
      except tomllib.TOMLDecodeError as e:
        raise ValueError(f'{path} is not valid TOML: {e}') from e
    try:
      return cls.from_dict({'name': path.stem, **tree})
    except (TypeError, ValueError) as e:
      raise ValueError(f'{path}: {e}') from e

  @classmethod
  def from_dict(cls, tree: Mapping[str, Any]) -> 'Schema':
    """Builds a schema from plain dicts, naming any field it does not know."""
    tree = dict(tree)
    features, split = tree.pop('features', ()), tree.pop('split', {})
    if not isinstance(features, (list, tuple)):
      raise ValueError('Features are a list: write [[features]], with two brackets, above each.')
    features, split = tuple(_build(Feature, f) for f in features), _build(Split, split)
    return _build(cls, {**tree, 'features': features, 'split': split})


# Type of a field -> what is taken for it, and how that is called.
_TAKEN = {
  str: (str, 'a text'),
  int: (int, 'a whole number'),
  float: ((int, float), 'a number'),
  bool: (bool, 'true or false'),
}


def _check_type(whose, name, kind, value):
  """Refuses a value of another type: what is read from a file may be anything."""
  origin = typing.get_origin(kind)
  if origin is Mapping and not isinstance(value, Mapping):
    raise ValueError(f'{whose}: {name} is {value!r}; it is a table of its own, as [{name}].')
  if origin is tuple and not isinstance(value, (str, list, tuple)):
    raise ValueError(f'{whose}: {name} is {value!r}; it must be a list.')
  values = value if origin is tuple and not isinstance(value, str) else [value]
  kind = typing.get_args(kind)[0] if origin is tuple else kind
  taken, called = _TAKEN.get(kind, (object, ''))
  for one in values:
    if not isinstance(one, taken):
      raise ValueError(f'{whose}: {name} is {value!r}; {one!r} is not {called}.')


def _build(cls, tree):
  fields = {f.name: f for f in dataclasses.fields(cls)}
  if not isinstance(tree, Mapping):
    raise ValueError(
      f'A {cls.__name__} is a table of its fields, not {tree!r}: in a schema file they are lines '
      f'below {"[split]" if cls is Split else "[[features]]"}.'
    )
  unknown = sorted(set(tree) - set(fields))
  if unknown:
    name = tree.get('name', '')
    raise ValueError(
      f'{cls.__name__} {name!r} has unknown fields {unknown}; the known ones are {list(fields)}.'
    )
  if 'name' in fields and not tree.get('name'):
    raise ValueError(f'A {cls.__name__} needs a name: {dict(tree)}.')
  whose = f'{cls.__name__} {tree["name"]!r}' if 'name' in tree else cls.__name__
  for name, value in tree.items():
    _check_type(whose, name, fields[name].type, value)
  return cls(**tree)


def _plain(value):
  """A dataclass as nested dicts without its defaults."""
  if isinstance(value, tuple):
    return [_plain(v) for v in value]
  if isinstance(value, Mapping):
    return {k: _plain(v) for k, v in value.items()}
  if not dataclasses.is_dataclass(value):
    return value
  tree = {}
  for field in dataclasses.fields(value):
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
      default = field.default_factory()
    if field.name in ('column', 'table') and isinstance(value, Feature):
      default = value.name
    if getattr(value, field.name) != default:
      tree[field.name] = _plain(getattr(value, field.name))
  return tree
