"""Changes in plain Python, for comparison: a data set is a dict of lists."""

import collections
import copy

from ctr_jax.data import columns


class Table:
  """A data set with one id, one number and what is added, as dicts of lists.

  Attributes:
    columns: split -> column -> list of row numbers or numbers (None = missing).
    words: table -> {value: row number}.
    counts: table -> {value: count in train}.
  """

  def __init__(self):
    self.columns = {split: {} for split in ('train', 'valid', 'test')}
    self.words, self.counts, self.text = {}, {}, {}

  def copy(self):
    """As it is now, for later comparison."""
    return copy.deepcopy(self)

  def extend(self, name, texts, min_count, admit=None):
    """Rows of an id column: {split: texts}, '' = missing; values of train get numbers."""
    words = self.words.setdefault(name, {})
    counts = self.counts.setdefault(name, {})
    found = collections.Counter(x for x in texts.get('train', ()) if x)
    enough = admit or min_count
    new = [x for x, n in found.items() if x not in words and n >= enough]
    for value in sorted(new, key=lambda x: (-found[x], x.encode())):
      words[value], counts[value] = len(words) + 1, 0
    for value, n in found.items():
      if value in words:
        counts[value] += n
    for split, values in texts.items():
      self.columns[split].setdefault(name, []).extend(words.get(x, 0) for x in values)

  def numbers(self, name, values):
    """Rows of a numeric column: {split: numbers}, None = missing."""
    for split, found in values.items():
      self.columns[split].setdefault(name, []).extend(found)

  def drop(self, name):
    """Without a column."""
    for split in self.columns.values():
      del split[name]
    self.words.pop(name, None)
    self.counts.pop(name, None)

  def rename(self, old, new):
    """A column under another name."""
    for found in (*self.columns.values(), self.words, self.counts):
      if old in found:
        found[new] = found.pop(old)


def equal(source: columns.Columns, table: Table, block: int = 7):
  """Asserts that a data set reads as the table, whole and in small steps."""
  assert set(source.schema.names) == set(table.columns['train']) - {'label'}
  for name, words in table.words.items():
    values, counts = source.vocabulary(name)
    assert values == list(words), name
    assert counts.tolist() == [table.counts[name][x] for x in words]
    assert source.rows[name] == len(words) + 1
  for split, expected in table.columns.items():
    total = len(expected['label'])
    assert source.num_samples(split) == total
    names = list(expected)
    whole = source.read(split, names, 0, total)
    steps = [
      source.read(split, names, start, min(start + block, total))
      for start in range(0, total, block)
    ]
    for name in names:
      assert _plain(whole[name]) == expected[name], (split, name)
      assert [x for step in steps for x in _plain(step[name])] == expected[name]


def _plain(array):
  return [None if x != x else x for x in array.tolist()]
