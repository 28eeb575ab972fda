"""Any sequence of changes is what it is for dicts of lists, and earlier versions stay."""

import random
import shutil

import hypothesis
import hypothesis.strategies as st
import pytest

from ctr_jax.data import adding, appending, change, columns, encode, storage, versions
from ctr_jax.data.schema import Feature, Schema
from tests.data import changes

CHUNK = 8
SCHEMA = Schema(
  's',
  (Feature('user', min_count=2), Feature('price', 'numeric')),
  files={'train': 'train.csv', 'valid': 'valid.csv'},
)
START = {'train': 21, 'valid': 5, 'test': 0}


def texts(rng, rows, size=6):
  """Values of an id column, some missing."""
  return [rng.choice(['', *(f'é{int(size * rng.random() ** 2)}' for _ in range(9))]) for _ in rows]


def prices(rng, rows):
  """Values of a numeric column, some missing."""
  return [rng.choice([None, 0.5, 2.0, -3.0]) for _ in rows]


def write(path, found):
  """A CSV file of columns of texts and numbers."""
  rows = zip(*found.values(), strict=True)
  lines = [','.join('' if x is None else str(x) for x in row) for row in rows]
  path.write_text('\n'.join([','.join(found), *lines, '']))
  return path


def named(values):
  """A function of row numbers."""
  return [f'v{x}' if x else '' for x in values]


def doubled(values):
  """A function of numbers, some of them missing."""
  return [None if x is None else x * 2 + 1 for x in values]


class Both:
  """A data set and its reference, changed alike.

  Attributes:
    kinds: column -> (kind, raw column, min_count).
    functions: column -> (inputs, function of the array, the same of a list).
    past: version -> the reference as it was then.
  """

  def __init__(self, folder):
    self.folder, self.path = folder, folder / 'out'
    self.table, self.functions, self.past = changes.Table(), {}, {}
    self.kinds = {'user': ('id', 'user', 2), 'price': ('numeric', 'price', 1)}
    rng = random.Random(0)
    for split in ('train', 'valid'):
      rows = range(START[split])
      found = {'label': [i % 2 for i in rows], 'user': texts(rng, rows), 'price': prices(rng, rows)}
      write(folder / f'{split}.csv', found)
      self.table.numbers('price', {split: found['price']})
      self.table.numbers('label', {split: found['label']})
      self.table.extend('user', {split: found['user']}, 2)
    for name in ('label', 'user', 'price'):
      self.table.columns['test'][name] = []

  def copy(self, folder):
    """Both, to be changed."""
    other = object.__new__(Both)
    other.__dict__ |= self.__dict__
    other.folder, other.path = folder, folder / 'out'
    other.table, other.past = self.table.copy(), {}
    other.kinds, other.functions = dict(self.kinds), dict(self.functions)
    shutil.copytree(self.path, other.path)
    return other

  def sizes(self):
    return {split: len(found['label']) for split, found in self.table.columns.items()}

  def free(self, rng):
    """A name that no column has, and no column is read from."""
    raw = {column for _, column, _ in self.kinds.values()}
    return rng.choice([x for x in 'abcdefghijk' if x not in self.kinds and x not in raw])

  def of_kind(self, kind):
    return sorted(name for name, (k, _, _) in self.kinds.items() if k == kind)

  def put(self, name, kind, found, min_count=1, admit=0):
    """What was added, in the reference."""
    if kind == 'id':
      self.table.extend(name, found, min_count, admit)
    else:
      self.table.numbers(name, found)

  def row(self, rng):
    name, kind = self.free(rng), rng.choice(['id', 'numeric'])
    make = texts if kind == 'id' else prices
    found = {split: make(rng, range(size)) for split, size in self.sizes().items()}
    files = {
      split: [write(self.folder / f'{name}_{split}.csv', {'raw': values, 'other': values})]
      for split, values in found.items()
      if values
    }
    adding.by_row(self.path, Feature(name, kind, column='raw'), files, progress=False)
    self.kinds[name] = (kind, 'raw', 1)
    # Read from the column `raw` again when rows are appended: two such columns are alike then.
    self.put(name, kind, found)

  def key(self, rng):
    keys, name, kind = self.of_kind('id'), self.free(rng), rng.choice(['id', 'numeric'])
    if not keys:
      return
    key = rng.choice(keys)
    lines = [x for x in (*self.table.words[key], 'nobody') if rng.random() < 0.8] or ['nobody']
    values = (texts if kind == 'id' else prices)(rng, lines)
    file = write(self.folder / f'{name}.csv', {'k': lines, name: values})
    feature = Feature(name, kind)
    adding.by_key(
      self.path, feature, [file], key, key_column='k', on_missing='missing', progress=False
    )
    nothing = '' if kind == 'id' else None
    of_word = dict(zip(lines, values, strict=True))
    of_row = {row: of_word.get(x, nothing) for x, row in self.table.words[key].items()}
    found = {s: [of_row.get(x, nothing) for x in c[key]] for s, c in self.table.columns.items()}
    self.kinds[name] = (kind, name, 1)
    self.put(name, kind, found)

  def function(self, rng):
    name, kind = self.free(rng), rng.choice(['id', 'numeric'])
    inputs = self.of_kind('id') if kind == 'id' else [*self.of_kind('numeric'), 'label']
    if not inputs:
      return
    first = rng.choice(inputs)
    if kind == 'id':
      array, plain = (lambda read: named(read[first].tolist())), named
    else:
      array, plain = (lambda read: read[first] * 2 + 1), doubled
    adding.by_function(self.path, Feature(name, kind), [first], array, progress=False)
    self.kinds[name] = (kind, name, 1)
    self.functions[name] = (first, array, plain)
    self.put(name, kind, {s: plain(c[first]) for s, c in self.table.columns.items()})

  def drop(self, rng):
    if len(self.kinds) == 1:
      return
    name = rng.choice(sorted(self.kinds))
    change.drop(self.path, [name])
    self.table.drop(name)
    del self.kinds[name]
    self.functions = {k: f for k, f in self.functions.items() if name not in (k, f[0])}

  def rename(self, rng):
    old, new = rng.choice(sorted(self.kinds)), self.free(rng)
    change.rename(self.path, old, new)
    self.table.rename(old, new)
    self.kinds[new] = self.kinds.pop(old)
    self.functions = {
      new if k == old else k: (new if first == old else first, *f)
      for k, (first, *f) in self.functions.items()
    }

  def append(self, rng):
    if set(self.kinds) == set(self.functions):
      return
    admit = rng.choice([0, 2])
    sizes = {'train': rng.randint(1, 13), 'valid': rng.choice([0, 2]), 'test': rng.choice([0, 9])}
    sizes = {split: size for split, size in sizes.items() if size}
    files, raw = {}, {split: {} for split in sizes}
    for split, size in sizes.items():
      raw[split]['label'] = [rng.randint(0, 1) for _ in range(size)]
      for name in [name for name in self.kinds if name not in self.functions]:
        kind, column, _ = self.kinds[name]
        # What a numeric and an id column both read is a number.
        mixed = any(k == 'numeric' and c == column for k, c, _ in self.kinds.values())
        make = prices if mixed or kind == 'numeric' else lambda r, n: texts(r, n, 9)
        raw[split].setdefault(column, make(rng, range(size)))
      files[split] = [write(self.folder / f'more_{split}.csv', raw[split])]
    given = {name: array for name, (_, array, _) in self.functions.items()}
    appending.append(self.path, files, functions=given, min_count=admit, progress=False)
    before = self.sizes()
    self.table.numbers('label', {split: found['label'] for split, found in raw.items()})
    for name in self.kinds:
      kind, column, min_count = self.kinds[name]
      if name not in self.functions:
        found = {split: raw[split][column] for split in raw}
        if kind == 'id':
          found = {s: ['' if x is None else str(x) for x in v] for s, v in found.items()}
        self.put(name, kind, found, min_count, admit)
    later = [name for name in self.kinds if name in self.functions]
    while later:
      name = later.pop(0)
      first, _, plain = self.functions[name]
      if first in later:
        later.append(name)
        continue
      found = {s: plain(c[first][before[s] :]) for s, c in self.table.columns.items()}
      self.put(name, self.kinds[name][0], found, 1, admit)


@pytest.fixture(scope='module')
def start(tmp_path_factory):
  both = Both(tmp_path_factory.mktemp('start'))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(storage, 'CHUNK', CHUNK)
    encode.encode(SCHEMA, both.folder, both.path, progress=False)
  return both


OPERATIONS = ('row', 'key', 'function', 'drop', 'rename', 'append')
EVERYTHING = [('function', 3), ('rename', 1), ('append', 4), ('key', 5), ('append', 6), ('drop', 7)]


@hypothesis.settings(max_examples=hypothesis.settings.default.max_examples // 4)
@hypothesis.example(EVERYTHING)
@hypothesis.given(
  st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 999)), min_size=2, max_size=4)
)
def test_changes_are_those_of_lists(start, tmp_path_factory, operations):
  both = start.copy(tmp_path_factory.mktemp('both'))
  both.past[1] = both.table.copy()
  for name, seed in operations:
    getattr(both, name)(random.Random(seed))
    newest = versions.known(both.path)[-1]
    both.past.setdefault(newest, both.table.copy())
  for version, table in both.past.items():
    changes.equal(columns.open_columns(both.path, 'full', version), table)
  assert versions.known(both.path) == list(both.past)
  assert versions.verify(both.path, lambda *_: None) == {}
