"""What is remembered is what is encoded; what is not said by `encode` is never found."""

import threading

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from ctr_jax import serve
from ctr_jax.serve import export, raw_values, remembered
from tests.serve import cases

WORDS = st.lists(st.sampled_from(['', 'a', 'b', 'c', 'd', 'e', None, 1, 2, -1]), max_size=12)


def code(values):
  """[n, 2]: unknown are '', None, and 'd'."""
  known = {'a': 1, 'b': 2, 'c': 3, 'e': 5, 1: 6, 2: 7, -1: 8}
  rows = [known.get(x, 0) for x in values]
  return np.array([[row, 2 * row] for row in rows], np.int32).reshape(-1, 2)


@hypothesis.given(
  batches=st.lists(WORDS, max_size=8), unknown=st.booleans(), limit=st.integers(1, 6)
)
def test_batch_after_batch_is_encoded_as_it_is(batches, unknown, limit):
  seen = remembered.Remembered(code, unknown, limit)
  for batch in batches:
    found = seen(batch)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, code(batch))


def asked_of(limit=remembered.LIMIT, *, unknown=False):
  """(a memory, what it asks to be encoded)."""
  asked = []

  def encode(values):
    asked.append(list(values))
    return code(values)

  return remembered.Remembered(encode, unknown, limit), asked


def test_each_value_is_encoded_once():
  seen, asked = asked_of()
  seen(['a', 'b', 'a'])
  seen(['b', 'c', 'a', 'c'])
  seen(['c', 'a'])
  assert asked == [['a', 'b'], ['c']]


def test_values_are_taken_in_turn_whatever_their_index_says():
  """As of a pandas Series of sorted rows, or of those that a filter left."""

  class Indexed(list):
    def __getitem__(self, i):
      return super().__getitem__(len(self) - 1 - i)

  for columns in (Indexed(['a', 'b', 'a', 'e']), dict.fromkeys(['a', 'b', 'c']).keys()):
    seen, _ = asked_of()
    for _ in range(2):
      np.testing.assert_array_equal(seen(columns), code(list(columns)))


def test_lists_of_unknown_values_drive_nothing_out():
  asked = []

  def encode(values):
    asked.append(list(values))
    return np.array([[code([x])[0, 0], -1] for x in values], np.int32)

  seen = remembered.Remembered(encode, limit=2)
  for values in (['a', 'b'], ['d', 'none'], ['a', 'b']):
    seen(values)
  assert asked == [['a', 'b'], ['d', 'none']]


def test_unknown_values_drive_nothing_out():
  seen, asked = asked_of(limit=2)
  seen(['a', 'b'])
  seen([f'none {i}' for i in range(100)])
  seen(['a', 'b'])
  assert len(asked) == 2
  everything, asked = asked_of(unknown=True)
  everything(['d'])
  everything(['d'])
  assert asked == [['d']]


def test_what_is_full_is_forgotten_and_filled_anew():
  seen, asked = asked_of(limit=2)
  seen(['a', 'b'])
  seen(['c'])
  seen(['c', 'a'])
  assert asked == [['a', 'b'], ['c'], ['a']]
  seen(['a', 'b', 'c', 'e'])  # More than the limit at once.
  np.testing.assert_array_equal(seen(['e', 'c', 'b', 'a']), code(['e', 'c', 'b', 'a']))


@pytest.mark.parametrize(
  'long',
  ['x' * remembered.LONGEST, ('x',) * remembered.LONGEST, 10 ** (3 * remembered.LONGEST)],
  ids=['text', 'list', 'integer'],
)
def test_long_values_are_not_kept(long):
  short, asked = ('x', 'y'), []

  def encode(values):
    asked.extend(values)
    return np.ones(len(values), np.int32)

  seen = remembered.Remembered(encode)
  for _ in range(2):
    assert seen([long, 'short', short]).tolist() == [1] * 3
  assert asked == [long, 'short', short, long]


def test_of_wide_lists_fewer_are_kept():
  def wide(values):
    return np.array(values, np.int32)[:, None] * np.ones((1, 100_000), np.int32)

  seen = remembered.Remembered(wide)
  seen(list(range(1, 30)))
  place, held = seen._held
  assert len(place) == len(held) == 10
  np.testing.assert_array_equal(seen([3, 30, 2]), wide([3, 30, 2]))


def test_an_error_names_the_row_of_the_batch():
  def encode(values):
    for row, value in enumerate(values):
      if value == 'bad':
        raise raw_values.BadInput(f'row {row}')
    return code(values)

  seen = remembered.Remembered(encode)
  seen(['a', 'b'])
  with pytest.raises(raw_values.BadInput, match='row 3'):
    seen(['a', 'b', 'a', 'bad'])
  np.testing.assert_array_equal(seen(['a', 'd']), code(['a', 'd']))


def test_threads_that_fill_it_at_once():
  words = [str(i) for i in range(300)]

  def number(values):
    return np.array([int(x) + 1 for x in values], np.int32)

  seen, wrong = remembered.Remembered(number, limit=100), []

  def ask(seed):
    rng = np.random.default_rng(seed)
    for _ in range(200):
      batch = [words[i] for i in rng.integers(0, len(words), 20)]
      if seen(batch).tolist() != number(batch).tolist():
        wrong.append(batch)

  threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not wrong


def test_values_that_python_calls_equal_are_told_apart(data, tmp_path):
  """1, True and 1.0 are one key of a dict, and the texts '1', '1' and '1.0'."""
  folder = export.write(tmp_path / 'model', *cases.model(data[0]), data[0])
  scorer, columns, found = serve.open(folder), cases.by_column(data[1][:1]), []
  for one in (1, True, 1.0, '1', 1, 1.0, '1.0', True):
    asked = columns | {name: [one] for name in ('user', 'item', 'agent')}
    fresh = serve.open(folder).encode(asked)
    for name, column in scorer.encode(asked).items():
      np.testing.assert_array_equal(column, fresh[name], err_msg=f'{name}, {one!r}')
    found.append(int(fresh['item'][0]))
  assert found[0] > 0
  assert found == [found[0] if x in (1, 2, 4, 5, 8) else 0 for x in range(1, 9)]


def test_lists_are_remembered_as_such(data, tmp_path, monkeypatch):
  folder = export.write(tmp_path / 'model', *cases.model(data[0]), data[0])
  texts = cases.by_column(data[1])
  lists = texts | {'tags': [[x for x in cell.split('|') if x] for cell in texts['tags']]}
  scorer, expected = serve.open(folder), serve.open(folder).encode(texts)
  for columns in (lists, lists | {'tags': [tuple(x) for x in lists['tags']]}, texts, lists):
    found = scorer.encode(columns)
    for name, column in expected.items():
      np.testing.assert_array_equal(found[name], column, err_msg=name)
  monkeypatch.setattr(raw_values, '_lists', None)  # All with a known element were here.
  full = np.flatnonzero((expected['tags'] > 0).any(axis=1)).tolist()
  found = scorer.encode({name: [column[i] for i in full] for name, column in lists.items()})
  np.testing.assert_array_equal(found['tags'], expected['tags'][full])
