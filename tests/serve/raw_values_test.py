"""Raw values become what the encoder makes of them, or are refused in words."""

import csv
import decimal

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from ctr_jax import serve
from ctr_jax.data import columns as columns_lib
from ctr_jax.data import encode
from ctr_jax.data import schema as schema_lib
from ctr_jax.serve import export, raw_values, score, vocabulary
from tests.serve import cases


@pytest.fixture(scope='module')
def scorer(data, tmp_path_factory):
  folder = tmp_path_factory.mktemp('exported') / 'model'
  return serve.open(export.write(folder, *cases.model(data[0]), data[0]), 'numpy')


def few(**changes):
  """Three rows, some columns changed."""
  return {name: [None] * 3 for name in cases.COLUMNS} | changes


def test_columns_are_those_of_an_encoded_data_set(data, scorer):
  source, rows = data
  expected = source.read('test', source.schema.names, 0, len(rows))
  found = scorer.encode(cases.by_column(rows))
  assert found.keys() == expected.keys()
  for name, column in expected.items():
    np.testing.assert_array_equal(found[name], column, err_msg=name)
    assert found[name].dtype == column.dtype
  assert (expected['user'] == 0).any()
  assert (expected['tags'][:, 0] == 0).any()


# 2.19921875 is as near to 2.1992187 as to 2.1992188, and 44393750 to another float32.
SINGLES = [1.1, 0.2, 2.19921875, 44393752.0, 93995524096.0, 1e-5, 2**-140, 3e20, float('nan'), None]


def trained_and_served(folder, columns, features):
  """Of each feature, its column as encoded from Parquet, and as read from there for serving."""
  pa = pytest.importorskip('pyarrow')
  pq = pytest.importorskip('pyarrow.parquet')
  folder.mkdir(exist_ok=True)
  pq.write_table(pa.table({'label': [0, 1] * 5} | columns), folder / 'all.parquet')
  schema = schema_lib.Schema('typed', tuple(features), files={'train': 'all.parquet'})
  source = encode.encode(schema, folder, folder / 'encoded', progress=False)
  expected = source.read('train', schema.names, 0, 10)
  names = list(dict.fromkeys(f.column for f in features))
  (raw,) = score.batches(folder / 'all.parquet', schema, names, 10)
  return {f.name: (expected[f.name], served(source, f, raw[f.column])) for f in features}


def served(source, feature, column):
  """A raw column as serving encodes it."""
  words = export.words_of(source, feature)
  bucket = feature.kind == 'bucket'
  find = None
  if words is not None and bucket:
    find = vocabulary.of_numbers(vocabulary.numbers(words))
  elif words is not None:
    find = vocabulary.of_texts(vocabulary.texts(words))
  width = source.width(feature.name) if feature.kind == 'ids' else 0
  return raw_values.encode(feature, column, width, find)


def test_numbers_are_read_as_the_text_that_parquet_gives(tmp_path):
  pa = pytest.importorskip('pyarrow')
  doubles = [1.0, 0.1, 1e16, 1e15, 123456789.5, 1e-5, -2.5e-7, 3.0e20, float('nan'), None]
  columns = {
    'x': pa.array(doubles, pa.float64()),
    'half': pa.array([None if x is None else np.float32(x) for x in doubles], pa.float32()),
    'whole': pa.array([-1, 0, 7, 10**12, None] * 2, pa.int64()),
    'yes': pa.array([True, False, None, True, False] * 2),
    'list': pa.array([['a', 'b'], [], None, [''], ['b']] * 2, pa.list_(pa.string())),
    'price': pa.array(doubles, pa.float64()),
  }
  features = [schema_lib.Feature(n) for n in ('x', 'half', 'whole', 'yes')] + [
    schema_lib.Feature('list', 'ids'),
    schema_lib.Feature('price', 'numeric'),
  ]
  for name, (trained, found) in trained_and_served(tmp_path, columns, features).items():
    np.testing.assert_array_equal(found, trained, err_msg=name)


def test_a_float32_is_the_double_of_its_own_text(tmp_path):
  pa = pytest.importorskip('pyarrow')
  singles = [None if x is None else np.float32(x) for x in SINGLES]
  halves = [None if x is None or x > 6e4 else np.float16(x) for x in SINGLES]
  columns = {
    'single': pa.array(singles, pa.float32()),
    'half': pa.array(halves, pa.float16()),
    'list': pa.array([None if x is None else [x, 0.7] for x in singles], pa.list_(pa.float32())),
  }
  features = [schema_lib.Feature('list', 'ids')]
  for name in ('single', 'half'):
    bounds = {'transform': 'boundaries', 'boundaries': (0.2, 1.0996094, 1.1)}
    features += [
      schema_lib.Feature(name),
      schema_lib.Feature(f'{name}_bucket', 'bucket', column=name, **bounds),
      schema_lib.Feature(f'{name}_number', 'numeric', column=name),
    ]
  found = trained_and_served(tmp_path, columns, features)
  for name, (trained, served_) in found.items():
    np.testing.assert_array_equal(served_, trained, err_msg=name)
    assert len(np.unique(trained)) > 2
  # What `predict` is given by hand, too.
  source = columns_lib.open_columns(tmp_path / 'encoded')
  for feature in features:
    values = {'single': singles, 'half': halves}.get(feature.column)
    if values:
      typed = np.array([np.nan if x is None else x for x in values], type(values[0]))
      trained = found[feature.name][0]
      np.testing.assert_array_equal(served(source, feature, values), trained)
      # An array has no None; NaN is missing, too.
      np.testing.assert_array_equal(served(source, feature, typed), trained)


def test_types_that_have_only_a_text(tmp_path):
  pa = pytest.importorskip('pyarrow')
  decimals = [decimal.Decimal(x) for x in ('3.5', '-0.01', '0', '1e-8', '12345')]
  micros = [0, 1500, -1, 1_700_000_000_000_000, None]
  data = [b'ab', 'ü'.encode(), b'a\\"\'~ ', b'', None]
  columns = {
    'price': pa.array(decimals * 2, pa.decimal128(20, 10)),
    'date': pa.array([0, 1, -1, 20000, None] * 2, pa.int32()).cast(pa.date32()),
    'second': pa.array([0, 1, -1, 20000, None] * 2, pa.timestamp('s')),
    'micro': pa.array(micros * 2, pa.timestamp('us')),
    'nano': pa.array(micros * 2, pa.timestamp('ns')),
    'hour': pa.array([0, 1, 1_500_000, 86_399_000_000, None] * 2, pa.time64('us')),
    'data': pa.array(data * 2),
    'list': pa.array([[x] for x in decimals] * 2, pa.list_(pa.decimal128(20, 10))),
  }
  features = [schema_lib.Feature(n) for n in columns if n != 'list']
  columns['yes'] = pa.array([[True, False], [False], [], [None], None] * 2)
  features += [
    schema_lib.Feature('list', 'ids'),
    schema_lib.Feature('yes', 'ids'),
    schema_lib.Feature('number', 'numeric', column='price'),
  ]
  for name, (trained, found) in trained_and_served(tmp_path, columns, features).items():
    np.testing.assert_array_equal(found, trained, err_msg=name)
    assert len(np.unique(trained)) > 2
  zoned = {'micro': pa.array(micros * 2, pa.timestamp('us', 'UTC'))}
  with pytest.raises(
    ValueError, match=r"column 'micro' is of the Arrow type timestamp\[us, tz=UTC"
  ):
    trained_and_served(tmp_path / 'zoned', zoned, [schema_lib.Feature('micro')])


def test_kinds_and_what_is_not_read(scorer):
  assert scorer.columns == {
    'user': 'id', 'item': 'id', 'previous': 'id', 'tags': 'ids', 'price': 'numeric',
    'age': 'bucket', 'time': 'bucket', 'agent': 'hash',
  }  # fmt: skip
  without = {n: c for n, c in few().items() if n not in ('clicked', 'request')}
  np.testing.assert_array_equal(scorer.predict(without), scorer.predict(few()))


def test_values_of_many_types_mean_the_same(scorer):
  texts = few(item=['1', '2', ''], price=['2', '', 'nan'], tags=['ü1|ü0', '', 'ü3'])
  typed = few(item=[1, np.int64(2), None], price=[2, None, np.float32('nan')],
              tags=[['ü1', 'ü0'], [], ('ü3',)])  # fmt: skip
  np.testing.assert_array_equal(scorer.predict(texts), scorer.predict(typed))
  as_array = few(price=np.array([2, np.nan, np.nan]), item=np.array(['1', '2', '']),
                 tags=texts['tags'])  # fmt: skip
  np.testing.assert_array_equal(scorer.predict(texts), scorer.predict(as_array))


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'item': [1, {}, 2]}, "Column 'item', row 1: {} is a dict"),
    ({'user': [['u1'], 'u2', 'u3']}, "Column 'user', row 0: .* is a list"),
    ({'user': ['\ud800', '', '']}, "Column 'user', row 0: .* is not Unicode"),
    ({'tags': ['a', ['b', 1j], 'c']}, "Column 'tags', row 1: 1j is a complex"),
    ({'tags': ['a', ['b'], np.array(3)]}, "Column 'tags', row 2: array.3. is a ndarray"),
    ({'tags': ['a', ['b', 'ü', '\ud800'], 'c']}, "Column 'tags', row 1: .* is not Unicode"),
    ({'price': [1, 2, 'cheap']}, "Column 'price', row 2: 'cheap' is not a number"),
    ({'price': [1, 2, '1_0']}, "Column 'price', row 2: '1_0' is not a number"),
    ({'price': [1, 2, '1' * 401]}, "Column 'price', row 2: '1{39}... has 401 characters"),
    ({'price': [1, 2, 1e39]}, "Column 'price', row 2: 1e[+]39 is larger than a float32"),
    ({'price': [1, 2, 10**400]}, "Column 'price', row 2: 1000.* is not a number"),
    ({'price': [1, [2], 3]}, "Column 'price', row 1: .2. is not a number"),
    ({'time': [24101012, 24101399, None]}, "Column 'time', row 1: .* is not a time YYMMDDHH"),
    ({'item': ['1', '2']}, "Column 'item' has 2 rows and column 'user' has 3"),
    ({'item': 'abc'}, "Column 'item' is a str, not a list"),
    ({'item': 3}, "Column 'item' is a int, not a list"),
    ({'colour': [1, 2, 3]}, "Column 'colour' is unknown; the model reads user, item"),
  ],
)
def test_bad_input_names_column_and_row(scorer, changes, words):
  with pytest.raises(serve.BadInput, match=words):
    scorer.predict(few(**changes))


def test_a_long_number_is_read_in_linear_time():
  # A quadratic expression takes minutes.
  assert not raw_values._NUMBER.fullmatch('1' * 300_000 + 'x')
  assert not raw_values._NUMBER.fullmatch(' ' * 300_000 + '1.' + '1' * 300_000 + 'e')
  assert all(
    map(raw_values._NUMBER.fullmatch, ('1', '1.', '.5', '1.5', '-1e5', ' +1.5E-3 ', 'nan'))
  )
  assert not any(map(raw_values._NUMBER.fullmatch, ('.', '', '1e', 'e5', '1.5.5', '--1', '1_0')))


def test_missing_columns_and_no_columns(scorer):
  columns = few()
  del columns['age']
  with pytest.raises(serve.BadInput, match="Column 'age' is missing"):
    scorer.predict(columns)
  with pytest.raises(ValueError, match='Columns are a mapping'):
    scorer.predict([1, 2])


def test_a_value_is_compared_byte_by_byte():
  words = ['b', 'a', 'ab', 'ü', 'long' * 50]
  arrays = vocabulary.texts(words)
  find = vocabulary.of_texts(arrays)
  asked = ['ü', '', 'a', 'c', 'ab', 'b', 'long' * 50, 'long' * 51]
  assert find(asked).tolist() == [4, 0, 2, 0, 3, 1, 5, 0]
  assert find([]).tolist() == []
  # Another text with the hash of 'a' is not 'a'.
  text = np.array(arrays['text'])
  at = int(arrays['start'][list(arrays['row']).index(2)])
  text[at] = ord('z')
  assert vocabulary.of_texts(arrays | {'text': text})(['a']).tolist() == [0]
  assert vocabulary.of_texts(vocabulary.texts([]))(['a']).tolist() == [0]
  with pytest.raises(ValueError, match="cannot tell 'a' from 'a'"):
    vocabulary.texts(['a', 'a'])


class _Odd(str):
  """A text that says it equals any other, and cannot be hashed."""

  def __eq__(self, other):
    return True


def test_texts_of_a_subclass_are_the_text_they_hold():
  find = vocabulary.of_texts(vocabulary.texts(['b', 'a']))
  feature = schema_lib.Feature('item', 'id', column='item')
  column = [_Odd('a'), 'b', _Odd('b')] * 50
  assert raw_values.encode(feature, column, 0, find).tolist() == [2, 1, 1] * 50


def test_elements_that_are_cut_are_not_looked_up():
  feature = schema_lib.Feature('tags', 'ids', column='tags', separator='|')
  asked = []

  def find(words):
    asked.extend(words)
    return np.ones(len(words), np.int32)

  raw_values.encode(feature, ['a|b|c', ['d'] * 1000], 2, find)
  assert asked == ['a', 'b', 'd', 'd']


_WORDS = st.lists(st.sampled_from('abcdü'), max_size=5)


@hypothesis.given(
  cells=st.lists(
    st.one_of(
      st.none(),
      _WORDS.map('|'.join),
      _WORDS,
      st.lists(_WORDS.map('||'.join), max_size=3).map(tuple),
      st.lists(st.sampled_from([1, 2.5, True, None, 'a|b']), max_size=3),
    ),
    max_size=6,
  ),
  width=st.integers(1, 4),
)
def test_lists_are_the_first_elements_of_each_cell(cells, width):
  feature = schema_lib.Feature('tags', 'ids', column='tags', separator='|')
  rows = {word: i + 1 for i, word in enumerate(['a', 'b', '1', '2.5'])}
  expected = np.full((len(cells), width), -1, np.int32)
  for i, cell in enumerate(cells):
    parts = cell if isinstance(cell, (list, tuple)) else [cell]
    texts = ['' if x is None else str(int(x)) if x is True else str(x) for x in parts]
    elements = [word for text in texts for word in text.split('|') if word] or ['']
    for j, word in enumerate(elements[:width]):
      expected[i, j] = rows.get(word, 0)

  def find(words):
    return np.array([rows.get(word, 0) for word in words], np.int32)

  found = raw_values.encode(feature, cells, width, find)
  np.testing.assert_array_equal(found, expected)
  assert found.dtype == np.int32


def test_row_numbers_where_there_is_no_vocabulary():
  find = vocabulary.of_row_numbers(10)
  assert find(['3', '9', '10', '-1', 'x', '', '99999999999']).tolist() == [3, 9, 0, 0, 0, 0, 0]


def test_csv_rows_are_what_predict_takes(data, scorer, tmp_path):
  (tmp_path / 'rows.csv').write_text('user,item\nu1,\n')
  with (tmp_path / 'rows.csv').open() as file:
    row = next(csv.DictReader(file))
  assert scorer.predict(few(user=[row['user']] * 3, item=[row['item']] * 3)).shape == (3,)
