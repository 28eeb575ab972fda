"""Everything that can be wrong with a change, and the sentences that say so; nothing is changed."""

import pathlib
import shutil

import numpy as np
import pytest

from ctr_jax.data import (
  adding,
  additions,
  appending,
  beside,
  change,
  columns,
  encode,
  storage,
  versions,
)
from ctr_jax.data.schema import Feature, Schema

SCHEMA = Schema(
  's',
  (Feature('user', min_count=2), Feature('price', 'numeric'), Feature('tags', 'ids')),
  files={'train': 'train.csv'},
  group='user',
)
LINES = ['label,user,price,tags', '1,a,1,x|y', '0,b,2,', '1,a,,y', '0,b,4,x', '0,c,5,z']


def write(path, *lines):
  path.write_text('\n'.join([*lines, '']))
  return path


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp('made')
  write(folder / 'train.csv', *LINES)
  encode.encode(SCHEMA, folder, folder / 'out', progress=False)
  return folder / 'out'


@pytest.fixture
def path(made, tmp_path):
  return pathlib.Path(shutil.copytree(made, tmp_path / 'out'))


def refuses(path, run, *parts, error=ValueError):
  """The change fails with all the parts, and the data set is as it was."""
  manifest = (path / 'manifest.json').read_bytes()
  with pytest.raises(error) as caught:
    run()
  for part in parts:
    assert part in str(caught.value), str(caught.value)
  assert (path / 'manifest.json').read_bytes() == manifest
  assert versions.verify(path, lambda *_: None) == {}
  assert not (path / 'changes').exists()


def by_key(path, *lines, key='user', **how):
  file = write(path.parent / 'users.csv', *lines)
  return adding.by_key(path, Feature('age', 'numeric'), [file], key, progress=False, **how)


def test_keys(path):
  head = 'user,age'
  refuses(path, lambda: by_key(path, head, 'a,1', 'b,2', 'a,3'), "key 'a' has more than one line")
  refuses(
    path,
    lambda: by_key(path, head, 'a,1'),
    '2 samples have a user that is in no line, and 1 have none',
    '--on_missing=missing',
  )
  refuses(path, lambda: by_key(path, head, 'a,x'), "column 'age': 'x': not a number")
  refuses(path, lambda: by_key(path, 'user,old', 'a,1'), "has no column 'age'")
  refuses(
    path,
    lambda: by_key(path, head, 'a,1', key='price'),
    "Column 'price' is of kind 'numeric': only an id tells which line",
  )
  refuses(
    path,
    lambda: by_key(path, head, 'a,1', key='nose'),
    "no column 'nose'; it has user, price, tags.",
    error=KeyError,
  )
  made = by_key(path, head, 'a,7', 'd,9', on_missing='missing')
  assert made.said == [
    '1 of 2 lines have a key that no sample has',
    '2 samples have a user that is in no line, and 1 have none (missing, or too rare to have a '
    'number): their value is missing',
  ]
  found = columns.open_columns(path).read('train', ['age'], 0, 5)['age']
  np.testing.assert_array_equal(found, [7, np.nan, 7, np.nan, np.nan])


@pytest.mark.parametrize('name', ['key=1', 'row=1', 'part=1', 'value=7'])
def test_names_of_folders_are_no_columns(made, tmp_path, name):
  path = shutil.copytree(made, tmp_path / name / 'out')
  by_key(path, 'user,age', 'a,7', on_missing='missing')
  found = columns.open_columns(path).read('train', ['age'], 0, 5)['age']
  np.testing.assert_array_equal(found, [7, np.nan, 7, np.nan, np.nan])


def test_names(path):
  file = write(path.parent / 'x.csv', 'x', *'12345')

  def by_row(feature):
    adding.by_row(path, feature, {'train': [file]}, progress=False)

  refuses(path, lambda: by_row(Feature('price', 'numeric')), "has a column 'price' already")
  refuses(path, lambda: by_row(Feature('x', 'hash', buckets=3, table='user')), 'share table')
  refuses(path, lambda: change.drop(path, ['label']), "no column 'label'", error=KeyError)
  refuses(path, lambda: change.drop(path, ['nose']), "no column 'nose'", error=KeyError)
  refuses(path, lambda: change.drop(path, ['user']), 'GAUC groups by', '--ungroup')
  refuses(path, lambda: change.drop(path, ['user', 'price', 'tags'], ungroup=True), 'would be left')
  refuses(path, lambda: change.rename(path, 'price', 'tags'), "a column 'tags' already")
  refuses(path, lambda: change.rename(path, 'price', 'label'), 'is used by batches')
  refuses(path, lambda: change.rename(path, 'price', '../x'), 'names a folder')


def test_rows(path):
  file = write(path.parent / 'x.csv', 'x', *'1234')

  def by_row(files):
    adding.by_row(path, Feature('x'), files, progress=False)

  refuses(path, lambda: by_row({'train': [file]}), 'x.csv has 4 rows, and train has 5 samples')
  refuses(path, lambda: by_row({'train': [file], 'test': [file]}), 'has 4 rows, and train has 5')
  missing = path.parent / 'y.csv'
  refuses(path, lambda: by_row({'train': [missing]}), 'There is no file', error=FileNotFoundError)
  for values, said in (
    (np.zeros(4), '5 rows and gave (4,) values'),
    (np.full(5, 1e39), 'a number beyond 32 bits'),
    (['a'] * 5, 'not numbers'),
  ):
    refuses(path, lambda values=values: function(path, lambda _: values), said)
  refuses(path, lambda: function(path, lambda _: np.zeros(5), 'id'), 'texts or whole numbers')
  refuses(path, lambda: function(path, len, inputs=['x']), "no column 'x'", error=KeyError)


def function(path, of, kind='numeric', inputs=('price',)):
  return adding.by_function(path, Feature('f', kind), inputs, of, progress=False)


@pytest.mark.parametrize('values', [
  ['p', float('nan'), 'q', None, ''],
  ['p', np.float32('nan'), 'q', '', ''],
  np.array(['p', float('nan'), 'q', None, ''], object),
  np.ma.array(['p', 'x', 'q', 'x', 'y'], mask=[0, 1, 0, 1, 1]),
])  # fmt: skip
def test_what_functions_leave_out(path, values):
  function(path, lambda _: values, 'id')
  source = columns.open_columns(path)
  assert source.vocabulary('f')[0] == ['p', 'q']
  assert source.read('train', ['f'], 0, 5)['f'].tolist() == [1, 0, 2, 0, 0]


def test_objects_of_numpy_are_as_python_s(path):
  halves = np.array([np.float32(0.5), None, None, None, None], object)
  refuses(path, lambda: function(path, lambda _: halves, 'id'), 'such as 0.5')
  yes, no = np.bool_(True), np.bool_(False)
  function(path, lambda _: np.array([yes, no, None, yes, np.float32('nan')], object), 'id')
  assert columns.open_columns(path).vocabulary('f')[0] == ['1', '0']


@pytest.mark.parametrize('value', [b'x', np.array([1.0, 2, 3, 4, 5], object), np.bytes_(b'x')])
def test_functions_give_texts_or_whole_numbers(path, value):
  values = value if isinstance(value, np.ndarray) else np.array([value] * 5)
  refuses(path, lambda: function(path, lambda _: values, 'id'), 'such as ', 'or whole numbers')


def test_yes_and_no_are_ones_and_zeros(path):
  function(path, lambda read: read['price'] > 1, 'id')
  assert columns.open_columns(path).vocabulary('f')[0] == ['1', '0']


def test_a_function_of_a_clock_gives_times(path):
  clock = Feature('f', 'bucket', transform='hour')

  def add(values):
    adding.by_function(path, clock, ['price'], lambda _: np.array(values), progress=False)

  for bad in (99.5, 26013124, 26013200, -1):
    refuses(path, lambda bad=bad: add([26013123, np.nan, bad, 1, 2]), f'{bad}', 'not a time YYMM')
  add([26013123, np.nan, 26013100, 26013123, np.nan])
  assert columns.open_columns(path).vocabulary('f')[0] == ['23', '0']


def test_masked_numbers_are_missing(path):
  function(path, lambda _: np.ma.array([1.0, 2, 3, 4, 1e39], mask=[0, 1, 0, 0, 1]))
  found = columns.open_columns(path).read('train', ['f'], 0, 5)['f']
  np.testing.assert_array_equal(found, [1, np.nan, 3, 4, np.nan])


def append(path, *lines, **how):
  file = write(path.parent / 'day.csv', *lines)
  return appending.append(path, {'train': [file]}, progress=False, **how)


def test_appended_rows(path):
  head = LINES[0]
  refuses(path, lambda: append(path, head, '1,a,cheap,x'), "day.csv:2: column 'price': 'cheap'")
  refuses(path, lambda: append(path, 'label,user,price', '1,a,1'), "has no column 'tags'")
  refuses(path, lambda: append(path, f'{head},city', '1,a,1,x,y'), 'does not know: city')
  refuses(path, lambda: append(path, 'label,nose', '1,a', on_absent='missing'), 'no column that')
  refuses(path, lambda: append(path, head), 'has no rows')
  refuses(path, lambda: appending.append(path, {}), 'Name the files to append')
  refuses(path, lambda: appending.append(path, {'tain': ['x']}), "There is no split 'tain'")
  refuses(
    path,
    lambda: append(path, head, '1,a,1,x', functions={'price': len}),
    "'price' of",
    'is no function of others',
    error=KeyError,
  )
  made = append(
    path, 'label,user,tags', '1,c,x', '0,c,x|y|z|y', '2,a,x', on_absent='missing', on_bad_row='skip'
  )
  assert made.said[0] == 'appended 2 train, 0 valid, 0 test'
  assert {
    'user: 1 new values, 0 seen too seldom, 3 in all',
    'tags: 1 cells have more than 2 elements: cut',
    'price: missing in all 2 rows, it is in no file',
  } <= set(made.said)
  assert made.said[-1].startswith('skipped 1 rows: label is not 0 or 1 (first: ')
  source = columns.open_columns(path, 'full')
  assert source.manifest['skipped'] == {'label is not 0 or 1': 1}
  # `c` was seen too seldom before; it is now, and what was row 0 stays so.
  assert source.read('train', ['user'], 4, 7)['user'].tolist() == [0, 3, 3]
  assert source.vocabulary('user')[1].tolist() == [2, 2, 2]
  assert source.manifest['tables']['user']['coverage'] == 6 / 7


@pytest.mark.parametrize('on_absent', ['error', 'missing'])
def test_files_of_which_some_lack_a_column(path, on_absent):
  one = write(path.parent / 'one.csv', 'label,user,tags', '1,a,x')
  both = write(path.parent / 'both.csv', LINES[0], '1,a,7,x')
  rows = {'train': [both], 'valid': [one]}
  refuses(
    path,
    lambda: appending.append(path, rows, on_absent=on_absent, progress=False),
    f"{one} has no column 'price', which feature 'price' reads, and {both} has it",
    'append these files apart',
  )


def test_a_file_is_appended_to_one_split(path):
  day = write(path.parent / 'day.csv', LINES[0], '1,a,7,x')
  refuses(
    path,
    lambda: appending.append(path, {'train': [day], 'test': [day]}, progress=False),
    f'{day} is a file of both train and test',
  )


def test_rows_without_a_header_and_with_an_added_column(tmp_path):
  write(tmp_path / 'train.csv', '1,a', '0,b')
  schema = Schema(
    's', (Feature('user'),), files={'train': 'train.csv'}, header=False, columns=('label', 'user')
  )
  path = tmp_path / 'out'
  encode.encode(schema, tmp_path, path, progress=False)
  ages = write(tmp_path / 'ages.csv', 'age', '5', '6')
  adding.by_row(path, Feature('age', 'numeric'), {'train': [ages]}, progress=False)
  says = r'has no column .age.* \(such as --columns=label,user,age\), or let it'
  with pytest.raises(ValueError, match=says):
    append(path, '1,b,7')
  append(path, '1,b,7', columns=['label', 'user', 'age'])
  append(path, '0,a', on_absent='missing')
  found = columns.open_columns(path).read('train', ['user', 'age'], 0, 4)
  np.testing.assert_array_equal(found['user'], [1, 2, 2, 1])
  np.testing.assert_array_equal(found['age'], [5, 6, 7, np.nan])


def test_files_with_a_header_name_their_columns_themselves(path):
  names = ['label', 'user', 'price', 'tags']
  refuses(path, lambda: append(path, *LINES[:2], columns=names), 'leave out --columns')


def test_functions_are_given_again(path):
  function(path, lambda read: read['price'] + 1)
  lines = (LINES[0], '1,a,1,x')
  with pytest.raises(KeyError, match=r"Column 'f' of .* is .*\(price\): give that"):
    append(path, *lines)
  # Its function goes with what it reads: then it is a column as others are.
  assert change.drop(path, ['price']).said == [
    'f was a function of price: rows that are appended must have it in their files'
  ]
  with pytest.raises(ValueError, match="has no column 'f', which feature 'f' reads"):
    append(path, *lines)
  # What was dropped may still be in the files.
  append(path, f'{LINES[0]},f', '1,a,1,x,5')
  assert columns.open_columns(path).read('train', ['f'], 4, 6)['f'].tolist() == [6, 5]


def test_columns_beside(path, tmp_path):
  source = columns.open_columns(path)

  def of(split, start, stop):
    return {'twice': np.zeros(stop - start, np.float32)}

  part = additions.numbers(source, tmp_path / 'twice', ['twice'], {}, of)
  change.drop(path, ['price'])
  # Of what has the same samples, but maybe another `price`.
  with pytest.raises(FileExistsError, match=r'another version of the data set.* join them'):
    additions.numbers(columns.open_columns(path), tmp_path / 'twice', ['twice'], {}, of)
  joined = beside.join(columns.open_columns(path), part)
  assert joined.schema.names == ('user', 'tags', 'twice')
  with pytest.raises(ValueError, match='made of another data set: make others'):
    change.drop(tmp_path / 'twice', ['twice'])
  append(path, 'label,user,tags', '1,a,x', '0,a,x')
  with pytest.raises(ValueError, match='samples'):
    beside.join(columns.open_columns(path), part)


def test_a_column_may_be_named_as_the_reader_of_keys(path):
  file = write(path.parent / 'users.csv', 'user,key', 'a,1', 'b,2')
  feature = Feature('key', 'numeric', table='the_key')
  adding.by_key(path, feature, [file], 'user', on_missing='missing', progress=False)
  found = columns.open_columns(path).read('train', ['key'], 0, 5)['key']
  np.testing.assert_array_equal(found, [1, 2, 1, 2, np.nan])


def test_a_column_is_dropped_once(path):
  assert change.drop(path, ['price', 'price']).version == 2
  assert columns.open_columns(path).schema.names == ('user', 'tags')


@pytest.mark.parametrize('where', ['close', 'manifest'])
def test_full_disk(path, monkeypatch, where):
  def fail(*_):
    raise OSError(28, 'No space left on device')

  if where == 'close':
    monkeypatch.setattr(storage.Writer, 'close', fail)
  else:
    monkeypatch.setattr(versions, '_sync', fail)
  lines = ('user,age', 'a,1', 'b,2', 'c,3')
  refuses(
    path,
    lambda: by_key(path, *lines, on_missing='missing'),
    f'No more could be written in {path}',
    'the data set is as it was',
    error=OSError,
  )


def test_a_url_is_read_only():
  with pytest.raises(ValueError, match='is read-only here: change a copy on a disk'):
    change.drop('gs://bucket/path', ['x'])
