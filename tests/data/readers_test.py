"""Every format, compression and line end gives the rows that plain CSV gives."""

import csv
import glob
import gzip
import io
import math
import pathlib

import hypothesis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from ctr_jax.data import encode, engine, files, raw, readers
from ctr_jax.data.schema import Feature, Schema
from tests.data import reference

ROWS = reference.make_rows(150, 7)
NAMES = tuple(ROWS[0])
FEATURES = (
  Feature('user'),
  Feature('item'),
  Feature('tags', 'ids'),
  Feature('price', 'numeric'),
  Feature('clicks', 'bucket'),
)
IGNORE = ('previous', 'agent', 'time')


def schema_of(pattern, **options):
  return Schema('s', FEATURES, files={'train': pattern}, ignore=IGNORE, **options)


def checksums(schema, folder, tmp_path):
  """Of the content of every column."""
  out = encode.encode(schema, folder, tmp_path / 'out', progress=False)
  return {name: entry['sha256'] for name, entry in out.manifest['arrays'].items()}


@pytest.fixture(scope='module')
def expected(tmp_path_factory):
  folder = tmp_path_factory.mktemp('plain')
  (folder / 'a.csv').write_bytes(reference.text(ROWS))
  return checksums(schema_of('a.csv'), folder, folder)


def _compress_zstd(data):
  return pa.compress(data, 'zstd', asbytes=True)


CASES = {
  'crlf.csv': (lambda: reference.text(ROWS, end='\r\n'), {}),
  'gzip.csv.gz': (lambda: gzip.compress(reference.text(ROWS)), {}),
  'two_members.csv.gz': (
    lambda: gzip.compress(reference.text(ROWS[:60])) + gzip.compress(_body(ROWS[60:])),
    {},
  ),
  'padded.csv.gz': (lambda: gzip.compress(reference.text(ROWS)) + bytes(512), {}),
  'zstd.csv.zst': (lambda: _compress_zstd(reference.text(ROWS)), {}),
  'no_last_newline.csv': (lambda: reference.text(ROWS)[:-1], {}),
  'blank_lines.csv': (lambda: reference.text(ROWS).replace(b'\n', b'\n\n'), {}),
  'mark.csv': (lambda: b'\xef\xbb\xbf' + reference.text(ROWS), {}),
  'mixed_ends.csv': (lambda: reference.text(ROWS).replace(b'\n', b'\r\n', 70), {}),
  'trailing_delimiter.csv': (lambda: _trailing(reference.text(ROWS)), {}),
  'tabs.tsv': (lambda: reference.text(ROWS, delimiter='\t'), {'quote': '"'}),
  'semicolons.csv': (lambda: reference.text(ROWS, delimiter=';'), {'delimiter': ';'}),
  'headerless.csv': (lambda: _body(ROWS), {'header': False, 'columns': NAMES}),
  'table.parquet': (lambda: _parquet(ROWS), {}),
}


def _body(rows):
  return reference.text(rows, header=False)


def _trailing(text):
  head, body = text.split(b'\n', 1)
  return head + b'\n' + body.replace(b'\n', b',\n')


def _parquet(rows):
  sink = io.BytesIO()
  table = {name: [row[name] or None for row in rows] for name in NAMES}
  table['label'] = [row['label'] == '1' for row in rows]
  table['tags'] = [row['tags'].split('|') for row in rows]
  table['price'] = [float(row['price']) if row['price'] else None for row in rows]
  pq.write_table(pa.table(table), sink)
  return sink.getvalue()


@pytest.mark.parametrize('name', CASES)
def test_equals_plain_csv(name, tmp_path, expected):
  make, options = CASES[name]
  (tmp_path / name).write_bytes(make())
  assert checksums(schema_of(name, **options), tmp_path, tmp_path) == expected


def test_glob_reads_files_in_the_order_of_their_names(tmp_path, expected):
  (tmp_path / 'part_2.csv').write_bytes(reference.text(ROWS[120:]))
  (tmp_path / 'part_0.csv').write_bytes(reference.text(ROWS[:50]))
  (tmp_path / 'part_1.csv.gz').write_bytes(gzip.compress(reference.text(ROWS[50:120])))
  assert checksums(schema_of('part_*.csv'), tmp_path, tmp_path) == expected


@pytest.mark.parametrize('pattern', ['logs/**/*.csv', 'logs/**'])
def test_glob_of_any_folders(tmp_path, expected, pattern):
  for name, rows in (('c.csv', ROWS[120:]), ('a/b/x.csv', ROWS[:50]), ('b/y.csv', ROWS[50:120])):
    path = tmp_path / 'logs' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(reference.text(rows))
  assert checksums(schema_of(pattern), tmp_path, tmp_path) == expected


@pytest.mark.parametrize('name', ['a [1] {x}.csv', "it's?.csv", 'a*.parquet'])
def test_odd_names(tmp_path, expected, name):
  folder = tmp_path / 'data [0] *'
  folder.mkdir()
  (folder / name).write_bytes(_parquet(ROWS) if 'parquet' in name else reference.text(ROWS))
  assert checksums(schema_of(glob.escape(name)), folder, tmp_path) == expected


@pytest.mark.parametrize('name', ['a.csv', 'a.parquet'])
@pytest.mark.parametrize('value', ['label=1', 'user=x', 'c1=7'])
def test_names_of_folders_are_no_columns(tmp_path, expected, name, value):
  folder = tmp_path / value
  folder.mkdir()
  (folder / name).write_bytes(_parquet(ROWS) if 'parquet' in name else reference.text(ROWS))
  assert checksums(schema_of(f'{value}/{name}'), tmp_path, folder) == expected


def test_slow_reader_equals_fast_one(tmp_path, expected, monkeypatch):
  def fail(*_):
    raise raw.duckdb.InvalidInputException('as for a malformed row')

  monkeypatch.setattr(readers, 'scan', fail)
  monkeypatch.setattr(engine, 'BATCH', 40)
  (tmp_path / 'a.csv').write_bytes(reference.text(ROWS))
  assert checksums(schema_of('a.csv'), tmp_path, tmp_path) == expected


def vocabularies(folder, table, features):
  """The values of features of a Parquet file, by rank."""
  pq.write_table(pa.table({'label': [1, 0, 1]} | table), folder / 'a.parquet')
  source = encoded(folder, 'a.parquet', features)
  return {name: source.vocabulary(name)[0] for name in source.schema.names}, source


def encoded(folder, name, features, on_bad_row='error'):
  schema = Schema('s', features, files={'train': name}, ignore=('*',))
  return encode.encode(schema, folder, folder / 'out', on_bad_row, progress=False)


def test_lists_in_parquet(tmp_path):
  table = {
    'l': [['a|b', 'c'], [], None],
    'n': pa.array([[0.5, math.nan], [True], [None]], pa.list_(pa.float32())),
    'b': [[True, False], [True], None],
    'one': [['x', 'y'], [], None],
  }
  features = (
    Feature('l', 'ids', separator=', '),
    Feature('n', 'ids'),
    Feature('b', 'ids'),
    Feature('one'),
  )
  found, source = vocabularies(tmp_path, table, features)
  assert found == {'l': ['a|b', 'c'], 'n': ['0.5', '1.0'], 'b': ['1', '0'], 'one': ['x|y']}
  read = source.read('train', ('l', 'one'), 0, 3)
  assert read['l'].tolist() == [[1, 2], [0, -1], [0, -1]]
  assert read['one'].tolist() == [1, 0, 0]


@pytest.mark.parametrize('rows', [[[], []], [[None], [None, None]], [[], None]])
def test_lists_of_nothing_in_parquet(tmp_path, rows):
  # As is written where no sample of a file has any.
  table = {'label': [1, 0], 'tags': pa.array(rows, pa.list_(pa.null()))}
  pq.write_table(pa.table(table), tmp_path / 'a.parquet')
  source = encoded(tmp_path, 'a.parquet', (Feature('tags', 'ids'),))
  assert source.vocabulary('tags')[0] == []
  assert source.read('train', ['tags'], 0, 2)['tags'].tolist() == [[0], [0]]


def test_separators_in_lists(tmp_path):
  table = {'label': [1, 0, 1], 'tags': [['a', 'b'], ['a,b'], ['c|d']]}
  pq.write_table(pa.table(table), tmp_path / 'a.parquet')
  features = (Feature('tags', 'ids', separator=','),)
  what = r"a\.parquet, row 1: column 'tags': \['a,b'\]: an element contains the separator ','"
  with pytest.raises(ValueError, match=what):
    encoded(tmp_path, 'a.parquet', features)
  source = encoded(tmp_path, 'a.parquet', features, 'skip')
  assert source.vocabulary('tags')[0] == ['a', 'b', 'c|d']


@pytest.mark.parametrize('name', ['a.parquet', 'a.libsvm', 'a.ffm'])
def test_separators_that_disagree(tmp_path, name):
  value = ':1' * (name == 'a.ffm')
  if name == 'a.parquet':
    pq.write_table(pa.table({'label': [1], 'tags': [['a', 'b']]}), tmp_path / name)
  else:
    (tmp_path / name).write_text(f'1 tags:a{value} tags:b{value}\n')
  features = (Feature('tags', 'ids'), Feature('others', 'ids', column='tags', separator=','))
  with pytest.raises(ValueError, match=r"column 'tags' has several values .* Give them one\."):
    encoded(tmp_path, name, features)


def test_bytes_that_are_no_text(tmp_path):
  pq.write_table(pa.table({'label': [1, 0], 'user': [b'a', b'b\xff']}), tmp_path / 'a.parquet')
  with pytest.raises(ValueError, match=r'a\.parquet cannot be read as Parquet: .* not valid UTF8'):
    encoded(tmp_path, 'a.parquet', (Feature('user'),))


@pytest.mark.parametrize('name', ['a.libsvm', 'a.ffm'])
def test_libsvm_is_utf8(tmp_path, name):
  pair = b'user:@:1' if name == 'a.ffm' else b'user:@'
  lines = [b'1 ' + pair.replace(b'@', x) + b' # \xff\n' for x in (b'\xc3\xbc', b'a\xff')]
  (tmp_path / name).write_bytes(b''.join(lines))
  with pytest.raises(ValueError, match=rf'{name}:2: .* is not UTF-8'):
    encoded(tmp_path, name, (Feature('user'),))
  source = encoded(tmp_path, name, (Feature('user'),), 'skip')
  assert source.manifest['skipped'] == {'not UTF-8': 1}
  assert source.vocabulary('user')[0] == ['ü']


def test_columns_of_parquet(tmp_path):
  table = {
    'a': ['x', 'y', 'z'],
    'A': ['p', 'p', 'q'],
    'bytes': pa.array(['ü'.encode(), None, b'b'], pa.binary()),
    'two': pa.array([b'yy', b'xx', None], pa.binary(2)),
    'number': [1.0, math.nan, 3.0],
    'small': pa.array([0.1, -math.nan, math.nan], pa.float32()),
    'ignored': pa.array([b'\xff'] * 3, pa.binary()),
  }
  names = [name for name in table if name != 'ignored']
  assert vocabularies(tmp_path, table, tuple(map(Feature, names)))[0] == {
    'a': ['x', 'y', 'z'],
    'A': ['p', 'q'],
    'bytes': ['b', 'ü'],
    'two': ['xx', 'yy'],
    'number': ['1.0', '3.0'],
    'small': ['0.1'],
  }


def test_libsvm(tmp_path):
  lines = '1 3:x 7:2.5 9:a|b # remark\n0 7:-1\n\n1 9:b 3:y\n'
  (tmp_path / 'a.libsvm').write_text(lines)
  table = 'label,3,7,9\n1,x,2.5,a|b\n0,,-1,\n1,y,,b\n'
  (tmp_path / 'a.csv').write_text(table)
  features = (
    Feature('f3', column='3'),
    Feature('f7', 'numeric', column='7'),
    Feature('f9', 'ids', column='9'),
  )
  found = [
    checksums(Schema('s', features, files={'train': name}), tmp_path, tmp_path / name[2:])
    for name in ('a.libsvm', 'a.csv')
  ]
  assert found[0] == found[1]


def test_libffm(tmp_path):
  lines = '1 0:17:1 1:5:2.5 2:8:1 2:9:1\n0 0:18:1 1:5:-1\n1 2:9:1 0:17:1\n'
  (tmp_path / 'a.ffm').write_text(lines)
  table = 'label,0,1,2\n1,17,2.5,8|9\n0,18,-1,\n1,17,,9\n'
  (tmp_path / 'a.csv').write_text(table)
  features = (
    Feature('user', column='0'),
    Feature('age', 'numeric', column='1'),
    Feature('tags', 'ids', column='2'),
  )
  found = [
    checksums(Schema('s', features, files={'train': name}), tmp_path, tmp_path / name[2:])
    for name in ('a.ffm', 'a.csv')
  ]
  assert found[0] == found[1]


@pytest.mark.parametrize('name', ['a.libsvm', 'a.ffm'])
def test_values_that_are_named_twice(tmp_path, name):
  value = ':0.5' if name == 'a.ffm' else ''
  lines = [f'1 0:a|b{value} 0:c{value} 1:x{value} 1:y{value}', f'0 1:x{value}']
  (tmp_path / name).write_text('\n'.join([*lines, '']))
  features = (Feature('tags', 'ids', column='0', separator='::'), Feature('one', column='1'))
  schema = Schema('s', features, files={'train': name})
  source = encode.encode(schema, tmp_path, tmp_path / 'out', progress=False)
  assert source.vocabulary('tags')[0] == ['a|b', 'c']
  assert source.vocabulary('one')[0] == ['x', 'x|y']


@pytest.mark.parametrize('end', ['\n', '\r\n'])
@pytest.mark.parametrize('header', [True, False])
@pytest.mark.parametrize('compress', [bytes, gzip.compress, _compress_zstd])
def test_lines_are_those_of_an_editor(tmp_path, end, header, compress):
  lines = ['label,a', '1,x', '0,"two', 'lines"', '', '1,z']
  lines = lines if header else lines[1:]
  suffix = {gzip.compress: '.gz', _compress_zstd: '.zst'}.get(compress, '')
  path = tmp_path / f'a.csv{suffix}'
  path.write_bytes(compress((end.join(lines) + end).encode()))
  schema = Schema('s', (Feature('a'),), header=header, columns=() if header else ('label', 'a'))
  layout = readers.layout(schema, path)
  found = [(line, fields[1]) for line, fields in readers.records(layout, None)]
  first = 2 if header else 1
  assert found == [(first, 'x'), (first + 1, f'two{end}lines'), (first + 4, 'z')]


@hypothesis.given(
  st.lists(
    st.tuples(st.sampled_from('01'), st.text(), st.text()).filter(lambda r: '\0' not in ''.join(r)),
    min_size=1,
    max_size=20,
  )
)
def test_any_text_survives(tmp_path_factory, rows):
  rows = [[c.encode('utf-8', 'ignore').decode() for c in row] for row in rows]
  folder = tmp_path_factory.mktemp('any')
  with (folder / 'a.csv').open('w', newline='', encoding='utf-8') as file:
    csv.writer(file, quoting=csv.QUOTE_ALL).writerows([['label', 'a', 'b'], *rows])
  schema = Schema('s', (Feature('a'), Feature('b')))
  layout = readers.layout(schema, pathlib.Path(folder / 'a.csv'))
  assert [fields for _, fields in readers.records(layout, None)] == rows
  con = engine.connect(folder, '1GB')
  with engine.quiet():
    fast = [tuple(row.values()) for row in engine.rows(con, readers.scan(con, layout, 'scanned'))]
  con.con.close()
  assert fast == [tuple(c or None for c in row) for row in rows]


def test_no_files(tmp_path):
  with pytest.raises(
    FileNotFoundError, match=r"No train files of 's': nothing in .* matches a\.csv or a\.csv\.gz"
  ):
    files.find(schema_of('a.csv'), tmp_path)
  with pytest.raises(ValueError, match='names no files'):
    files.find(Schema('s', FEATURES), tmp_path)


def test_a_file_that_two_patterns_match_is_read_once(tmp_path):
  (tmp_path / 'a.csv').write_bytes(b'x')
  for patterns in (('a.csv', './a.csv'), ('a.csv', f'{tmp_path}/*.csv')):
    assert files.find(schema_of(patterns), tmp_path) == {'train': [tmp_path / 'a.csv']}


def test_plain_and_compressed_twins(tmp_path):
  (tmp_path / 'a.csv').write_bytes(b'x')
  (tmp_path / 'a.csv.gz').write_bytes(b'x')
  with pytest.raises(ValueError, match=r'a\.csv is there both plain and compressed'):
    files.find(schema_of('a.csv'), tmp_path)
