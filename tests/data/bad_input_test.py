"""Everything that can be wrong with raw files, and the sentences that say so."""

import gzip
import pathlib
import re
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_jax.data import encode, ingest, readers, storage
from ctr_jax.data.schema import Feature, Schema, Split

FEATURES = (Feature('user'), Feature('price', 'numeric'), Feature('clicks', 'bucket'))
HEAD = 'label,user,price,clicks'
GOOD = ['1,a,1.5,3', '0,b,,', '1,a,2,7']


def lines_of(*extra, header=True, at=2):
  """Good rows with others among them; the first of those is at index `at` of the rows."""
  rows = [*GOOD[:at], *extra, *GOOD[at:]]
  return [HEAD, *rows] if header else rows


def write(folder, lines, name='train.csv', end='\n'):
  """A raw file of these lines."""
  data = (end.join(lines) + end).encode()
  (folder / name).write_bytes(gzip.compress(data) if name.endswith('.gz') else data)


def run(folder, on_bad_row='error', features=FEATURES, **options):
  """Encodes `train.csv` of a folder."""
  schema = Schema('s', features, files={'train': 'train.csv'}, **options)
  return encode.encode(schema, folder, folder / 'out', on_bad_row, progress=False)


def refuses(folder, *parts, error=ValueError, **options):
  """Encoding fails, the message has all the parts, and nothing is left that looks complete."""
  with pytest.raises(error) as caught:
    run(folder, **options)
  for part in parts:
    assert part in str(caught.value), str(caught.value)
  assert [p.name for p in folder.iterdir() if p.name.startswith('out')] == []


BAD_ROWS = {
  'too_few': ('1,a,2', ('3 fields, not 4', '1,a,2'), 'wrong number of fields'),
  'too_many': ('1,a,2,3,4', ('5 fields, not 4', '1,a,2,3,4'), 'wrong number of fields'),
  'numeric': ('1,a,cheap,3', ("column 'price': 'cheap': not a number",), 'not a number'),
  'infinite': ('1,a,1e999,3', ("column 'price': '1e999': not a number",), 'not a number'),
  'underscore': ('1,a,1_000,3', ("column 'price': '1_000': not a number",), 'not a number'),
  'bucket': ('1,a,2,3x', ("column 'clicks': '3x': not a number",), 'not a number'),
  'label': ('2,a,2,3', ("column 'label': '2': label is not 0 or 1",), 'label is not 0 or 1'),
  'no_label': (',a,2,3', ("column 'label': '': label is not 0 or 1",), 'label is not 0 or 1'),
  'word': ('yes,a,2,3', ("column 'label': 'yes': label is not 0",), 'label is not 0 or 1'),
  'quotes': ('1,"a"b,2,3', ('expected after',), 'broken quotes'),
  'return': ('1,a\rb,2,3', ('a carriage return that ends no line',), 'broken quotes'),
}


@pytest.mark.parametrize('name', BAD_ROWS)
def test_malformed_row(name, tmp_path):
  row, parts, reason = BAD_ROWS[name]
  write(tmp_path, lines_of(row))
  refuses(tmp_path, f'{tmp_path}/train.csv:4: ', *parts, '--on_bad_row=skip')
  source = run(tmp_path, 'skip')
  assert source.manifest['skipped'] == {reason: 1}
  assert f'{tmp_path}/train.csv:4: ' in source.manifest['skipped_first'][reason]
  assert f'skipped 1 rows: {reason} (first: ' in encode.report(source)
  (tmp_path / 'good').mkdir()
  write(tmp_path / 'good', lines_of())
  good = run(tmp_path / 'good')
  assert source.checksum == good.checksum


@pytest.mark.parametrize('end', ['\n', '\r\n'])
@pytest.mark.parametrize('header', [True, False])
@pytest.mark.parametrize('name', ['train.csv', 'train.csv.gz'])
@pytest.mark.parametrize('row', ['1,a', '1,a,x,3'])
def test_line_numbers(tmp_path, end, header, name, row):
  # A blank line and a value of two lines come before.
  write(tmp_path, lines_of('', f'1,"a{end}b",1,1', row, header=header), name, end)
  options = {} if header else {'header': False, 'columns': HEAD.split(',')}
  line = 7 if header else 6
  refuses(tmp_path, f'{tmp_path}/{name}:{line}: ', **options)


def test_second_file_of_a_glob(tmp_path):
  write(tmp_path, lines_of(), 'train_0.csv')
  write(tmp_path, lines_of('1,a,x,3'), 'train_1.csv')
  schema = Schema('s', FEATURES, files={'train': 'train_*.csv'})
  with pytest.raises(ValueError, match=r"train_1\.csv:4: column 'price': 'x': not a number"):
    encode.encode(schema, tmp_path, tmp_path / 'out', progress=False)


def test_a_file_in_two_splits(tmp_path):
  write(tmp_path, lines_of(), 'day_1.csv')
  write(tmp_path, lines_of(), 'day_2.csv')
  schema = Schema('s', FEATURES, files={'train': 'day_*.csv', 'valid': 'day_2.csv'})
  message = rf'{tmp_path}/day_2\.csv is a file of both train and valid'
  with pytest.raises(ValueError, match=message):
    encode.encode(schema, tmp_path, tmp_path / 'out', progress=False)


def test_skips_are_counted_by_reason(tmp_path):
  write(tmp_path, lines_of('1', '5,a,1,1', '1,a,x,1', '1,a,1', '1,a,1,y', '7,a,x,y'))
  source = run(tmp_path, 'skip')
  assert source.manifest['skipped'] == {
    'wrong number of fields': 2,
    'label is not 0 or 1': 2,
    'not a number': 2,
  }
  assert source.num_samples('train') == 3
  # The line is right although other rows before it were skipped.
  assert 'train.csv:5: ' in source.manifest['skipped_first']['label is not 0 or 1']


@pytest.mark.parametrize('size', [200_000, 3_000_000])
def test_long_rows_are_no_bad_rows(tmp_path, size):
  # Beyond Python's limit of a field, and DuckDB's of a line.
  write(tmp_path, lines_of(f'1,{"a" * size},1,1', '1'))
  source = run(tmp_path, 'skip')
  assert source.manifest['skipped'] == {'wrong number of fields': 1}
  assert f'{tmp_path}/train.csv:5: ' in source.manifest['skipped_first']['wrong number of fields']
  assert source.num_samples('train') == 4
  (tmp_path / 'other').mkdir()
  write(tmp_path / 'other', lines_of(f'1,{"a" * size},1,1', '7,a,1,1'))
  refuses(tmp_path / 'other', "train.csv:5: column 'label': '7'")


def test_a_file_that_has_become_shorter(tmp_path):
  write(tmp_path, lines_of())
  layout = readers.layout(Schema('s', FEATURES), tmp_path / 'train.csv')
  with pytest.raises(ValueError, match=r'train\.csv has become shorter while it was read'):
    ingest._locate(layout, 3, 'user')


def test_a_header_with_broken_quotes(tmp_path):
  write(tmp_path, ['label,user,price,"clicks', '1,a,2,3'])
  refuses(tmp_path, 'train.csv: its first line is no header: unexpected end of data')


def test_lines_that_a_quote_swallows_are_named(tmp_path):
  write(tmp_path, lines_of('1,"a,1,1', '1,b,1,1', '1,"c",1,1'))
  source = run(tmp_path, 'skip')
  assert 'train.csv:4: ' in source.manifest['skipped_first']['broken quotes']
  assert '2 more lines went with it' in source.manifest['skipped_first']['broken quotes']


def test_not_utf8(tmp_path):
  write(tmp_path, lines_of('1,@,1,1'))
  path = tmp_path / 'train.csv'
  path.write_bytes(path.read_bytes().replace(b'@', b'\xff'))
  refuses(tmp_path, 'train.csv:4: ', 'is not UTF-8')
  assert run(tmp_path, 'skip').manifest['skipped'] == {'not UTF-8': 1}


def test_every_row_malformed(tmp_path):
  write(tmp_path, [HEAD, '2,a,1,1', '3,a,1,1'])
  refuses(tmp_path, "Every row of 's' is malformed", on_bad_row='skip')
  write(tmp_path, [HEAD, '2', '3'])
  refuses(tmp_path, 'train.csv has no rows that can be used.', on_bad_row='skip')


def test_missing_column(tmp_path):
  write(tmp_path, ['label,user,clicks', '1,a,2'])
  refuses(
    tmp_path, "train.csv has no column 'price', which feature 'price' reads", 'header = false'
  )


def test_unknown_column(tmp_path):
  write(tmp_path, [HEAD + ',city', '1,a,2,3,x'])
  refuses(tmp_path, "columns that schema 's' does not know: city", 'add them to `ignore`')
  assert run(tmp_path, ignore=('city',)).num_samples('train') == 1


@pytest.mark.parametrize(('head', 'row'), [(f'{HEAD},', '1,a,2,3,'), (f',{HEAD}', '0,1,a,2,3')])
def test_column_without_a_name(tmp_path, head, row):
  write(tmp_path, [head, row])
  refuses(tmp_path, "columns that schema 's' does not know: ''. Make")
  assert run(tmp_path, ignore=('',)).num_samples('train') == 1


def test_two_columns_of_one_name(tmp_path):
  write(tmp_path, [HEAD + ',user', '1,a,2,3,x'])
  refuses(tmp_path, "train.csv has two columns named 'user'")


def test_headerless_without_names(tmp_path):
  write(tmp_path, GOOD)
  refuses(tmp_path, 'it must name the columns', header=False)


def test_delimiter_of_several_characters(tmp_path):
  write(tmp_path, [line.replace(',', '::') for line in lines_of()])
  refuses(tmp_path, "The delimiter '::' has several characters", delimiter='::')
  # DuckDB reads it where nothing has to be looked for.
  write(tmp_path, [line.replace(',', '::') for line in GOOD])
  options = {'delimiter': '::', 'header': False, 'columns': HEAD.split(',')}
  write(tmp_path, ['1::a', *(line.replace(',', '::') for line in GOOD)], 'bad.csv')
  assert run(tmp_path, **options).num_samples('train') == 3
  (tmp_path / 'bad.csv').rename(tmp_path / 'train.csv')
  shutil.rmtree(tmp_path / 'out')
  refuses(tmp_path, "The delimiter '::' has several characters", **options)


@pytest.mark.parametrize('name', ['train.csv', 'train.csv.gz'])
def test_empty_file(tmp_path, name):
  (tmp_path / name).write_bytes(gzip.compress(b'') if name.endswith('.gz') else b'')
  refuses(tmp_path, f'{name} is empty.')


def test_only_a_header(tmp_path):
  write(tmp_path, [HEAD])
  refuses(tmp_path, 'train.csv has no rows.')


@pytest.mark.parametrize('how', ['gz', 'zst'])
@pytest.mark.parametrize('cut', [6, 2000])
def test_truncated(tmp_path, how, cut):
  rows = [f'{i % 2},{i * 7919 % 100003},{i * 31},{i % 7}' for i in range(2000)]
  data = '\n'.join([HEAD, *rows, '']).encode()
  data = gzip.compress(data) if how == 'gz' else pa.compress(data, 'zstd', asbytes=True)
  (tmp_path / f'train.csv.{how}').write_bytes(data[:-cut])
  refuses(tmp_path, f'train.csv.{how} is truncated or damaged', 'fetch it again')
  refuses(tmp_path, 'is truncated or damaged', on_bad_row='skip')


# The zstd written here has no checksum of its content, so only damage to its frame can show.
@pytest.mark.parametrize(
  ('how', 'position'), [('gz', 0), ('gz', 0.3), ('gz', 0.6), ('gz', -6), ('zst', 0)]
)
def test_damaged(tmp_path, how, position):
  rows = [f'{i % 2},{i * 7919 % 100003},{i * 31},{i % 7}' for i in range(2000)]
  data = '\n'.join([HEAD, *rows, '']).encode()
  data = bytearray(gzip.compress(data) if how == 'gz' else pa.compress(data, 'zstd', asbytes=True))
  data[int(position * len(data)) if abs(position) < 1 else position] ^= 0xFF
  (tmp_path / f'train.csv.{how}').write_bytes(data)
  refuses(tmp_path, f'train.csv.{how} is truncated or damaged')


def test_not_parquet(tmp_path):
  write(tmp_path, GOOD)
  refuses(tmp_path, 'train.csv is not a Parquet file', format='parquet')


@pytest.mark.parametrize('where', ['page', 'footer', 'middle'])
def test_damaged_parquet(tmp_path, where):
  users = [f'{i * 7919 % 100003}' for i in range(2000)]
  path = tmp_path / 'train.csv'
  pq.write_table(pa.table({'label': [0, 1] * 1000, 'user': users}), path, compression='gzip')
  data = bytearray(path.read_bytes())
  if where == 'middle':
    data = data[:3000] + data[-3000:]
  else:
    data[20 if where == 'page' else -350] ^= 0xFF
  path.write_bytes(data)
  says = r'train\.csv (cannot be read as|is not a) Parquet'
  with pytest.raises(ValueError, match=says):
    run(tmp_path, format='parquet', features=FEATURES[:1])


def test_malformed_value_in_parquet(tmp_path):
  table = {'label': [1, 0, 3], 'user': ['a', 'b', 'c'], 'price': [1.0, 2.0, 3.0]}
  pq.write_table(pa.table(table), tmp_path / 'train.csv')
  options = {'format': 'parquet', 'features': FEATURES[:2]}
  refuses(tmp_path, "train.csv, row 2: column 'label': 3: label is not 0 or 1", **options)
  assert run(tmp_path, 'skip', **options).num_samples('train') == 2


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('1 user:a price', "'price' is not index:value"),
    ('1 user:a nose:2', "'nose' is no column of the schema and not in its `ignore`"),
    ('3 user:a', "column 'label': '3': label is not 0 or 1"),
    ('1 user:a price:x', "column 'price': 'x': not a number"),
  ],
)
def test_libsvm(tmp_path, line, message):
  write(tmp_path, ['1 user:a price:1', '', line, '0 user:b'])
  refuses(tmp_path, f'{tmp_path}/train.csv:3: ', message, format='libsvm')
  assert run(tmp_path, 'skip', format='libsvm').num_samples('train') == 2


def test_times(tmp_path):
  split = Split('time', column='when')
  schema = Schema('s', (Feature('user'),), files={'all': 'train.csv'}, split=split)
  write(tmp_path, ['label,user,when', '1,a,10', '1,a,@'])
  good = (tmp_path / 'train.csv').read_text()
  for value in ('soon', 'nan', 'inf', '-inf', '1_0', ''):
    (tmp_path / 'train.csv').write_text(good.replace('@', value))
    with pytest.raises(ValueError, match=rf"train\.csv:3: column 'when': '{value}': no time"):
      encode.encode(schema, tmp_path, tmp_path / 'out', progress=False)
  features = (Feature('hour', 'bucket', transform='hour'),)
  for value in ('14102124', '14103200', '14130100', '14102100.5', '-1'):
    write(tmp_path, ['label,hour', '1,14102100', f'1,{value}'])
    refuses(tmp_path, f"train.csv:3: column 'hour': '{value}': not a time", features=features)


def test_min_count_that_removes_everything(tmp_path):
  write(tmp_path, lines_of())
  refuses(
    tmp_path,
    "Table 'user': min_count=3 leaves none of its 2 values",
    'most frequent is seen 2 times in train. Lower min_count',
    features=(Feature('user', min_count=3), *FEATURES[1:]),
  )


def test_train_without_rows(tmp_path):
  write(tmp_path, lines_of())
  split = Split('random', fractions=(0.0, 0.5, 0.5))
  schema = Schema('s', FEATURES, files={'all': 'train.csv'}, split=split)
  with pytest.raises(ValueError, match="The train split of 's' has no rows"):
    encode.encode(schema, tmp_path, tmp_path / 'out', progress=False)


def test_too_little_memory(tmp_path):
  write(tmp_path, lines_of())
  schema = Schema('s', FEATURES, files={'train': 'train.csv'})
  with pytest.raises(ValueError, match=r'needs more than 1MB of memory; raise --memory'):
    encode.encode(schema, tmp_path, tmp_path / 'out', memory='1MB', progress=False)


@pytest.mark.parametrize('memory', ['lots', '2', '0'])
def test_no_amount_of_memory(tmp_path, memory):
  write(tmp_path, lines_of())
  schema = Schema('s', FEATURES, files={'train': 'train.csv'})
  with pytest.raises(ValueError, match=rf"'{memory}' is no amount of memory: write it as 4GB"):
    encode.encode(schema, tmp_path, tmp_path / 'out', memory=memory, progress=False)


def test_a_folder_that_is_there(tmp_path):
  write(tmp_path, lines_of())
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / 'notes').touch()
  with pytest.raises(FileExistsError, match='is there and is no encoded data set'):
    run(tmp_path)
  assert [path.name for path in (tmp_path / 'out').iterdir()] == ['notes']
  (tmp_path / 'out' / 'notes').unlink()
  assert run(tmp_path).num_samples('train') == 3  # It was empty.


def test_on_bad_row_is_spelt_right(tmp_path):
  with pytest.raises(ValueError, match="'error' or 'skip', not 'ignore'"):
    run(tmp_path, 'ignore')


FULL = (
  'OUT_OF_RANGE: Failed writing "c/0" [os_error_code=\'28\']',
  'IO Error: Could not write file "x.tmp": No space left on device',
  "failed to offload data block (0 bytes/0 bytes used) set by 'max_temp_directory_size'",
)


@pytest.mark.parametrize('said', FULL)
def test_full_disk(tmp_path, monkeypatch, said):
  def fail(*_):
    raise ValueError(said)

  write(tmp_path, lines_of())
  monkeypatch.setattr(storage.Writer, 'close', fail)
  refuses(
    tmp_path,
    f'No more could be written beside {tmp_path}/out',
    'Free some space, raise the quota, or choose another --out; nothing was left behind.',
    error=OSError,
  )


def test_no_more_may_be_written(tmp_path):
  # A limit on the size of files stands in for a full disk; it strikes TensorStore's writes.
  rows = [f'{i % 2},{i * 7919 % 100003},{i * 31},{i % 7}' for i in range(100_000)]
  write(tmp_path, [HEAD, *rows])
  program = f"""
import resource
from ctr_jax.data import encode
from ctr_jax.data.schema import Feature, Schema
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
features = (Feature('user'), Feature('price', 'numeric'), Feature('clicks', 'bucket'))
schema = Schema('s', features, files={{'train': 'train.csv'}})
encode.encode(schema, {str(tmp_path)!r}, {str(tmp_path / 'out')!r}, progress=False)
"""
  root = pathlib.Path(__file__).parents[2]
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, cwd=root)
  assert done.returncode == 1
  assert re.search(
    r'OSError: .*No more could be written beside .*choose another --out', done.stderr
  )
  assert [p.name for p in tmp_path.iterdir()] == ['train.csv']
