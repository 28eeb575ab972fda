"""Files of raw rows are scored from the command line."""

import csv
import gzip
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from ctr_jax import serve
from ctr_jax.data import readers
from ctr_jax.data import schema as schema_lib
from ctr_jax.serve import export, score
from tests.serve import cases


@pytest.fixture(scope='module')
def scored(data, raw_folder, tmp_path_factory):
  """(folder of raw files, exported model, raw rows of test, their probabilities)."""
  source, rows = data
  folder = tmp_path_factory.mktemp('exported') / 'model'
  export.write(folder, *cases.model(source), source)
  return raw_folder, folder, rows, serve.open(folder).predict(cases.by_column(rows))


def run(*arguments):
  command = [sys.executable, '-m', 'ctr_jax.serve.score', *map(str, arguments)]
  return subprocess.run(command, capture_output=True, text=True, check=False)


def probabilities(text):
  return np.float32([row['probability'] for row in csv.DictReader(text.splitlines())])


def test_command_line(scored):
  raw, folder, _, expected = scored
  done = run(
    f'--artifact={folder}', f'--input={raw / "test.csv"}', f'--output={folder.parent / "out.csv"}'
  )
  assert done.returncode == 0, done.stderr
  assert '90 rows' in done.stderr
  np.testing.assert_array_equal(probabilities((folder.parent / 'out.csv').read_text()), expected)
  bad = run(f'--artifact={folder}', f'--input={raw / "clicks.toml"}')
  assert bad.returncode == 1
  assert "has no column 'user', which the model reads" in bad.stderr
  assert 'Traceback' not in bad.stderr


def test_files_of_every_kind(scored, tmp_path):
  raw, folder, rows, expected = scored
  pa, pq = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
  columns = {n: [x or None for x in c] for n, c in cases.by_column(rows).items()}
  pq.write_table(pa.table(columns), tmp_path / 'rows.parquet')
  scorer = serve.open(folder)
  for path in (raw / 'test.csv', tmp_path / 'rows.parquet'):
    found = list(score.score(scorer, path, size=40, progress=False))
    assert [len(x) for x in found] == [40, 40, 10]
    # Products of other shapes may round otherwise.
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-6)
  score.write(iter([expected[:50], expected[50:]]), tmp_path / 'out.parquet')
  read = pq.read_table(tmp_path / 'out.parquet')['probability'].to_numpy()
  np.testing.assert_array_equal(read, expected)


def test_text_is_read_as_the_encoder_reads_it(tmp_path):
  path, text = tmp_path / 'rows.csv', 'x' * 200_000
  path.write_text(f'label,a,b\n1, "u" ,\n0,"u\n",{text},,\n')
  schema = schema_lib.Schema('s', (schema_lib.Feature('a'), schema_lib.Feature('b')))
  found = list(score.batches(path, schema, ('a', 'b'), 10))
  assert found == [{'a': ['u', 'u\n'], 'b': ['', text]}]
  layout = readers.layout(schema, path)
  rows = [fields[1:] for _, fields in readers.records(layout, None)]
  assert rows == [['u', ''], ['u\n', text]]


def test_a_blank_line_is_a_missing_value_of_the_only_column(tmp_path):
  path = tmp_path / 'rows.csv'
  path.write_text('a\nu\n\nv\n')
  schema = schema_lib.Schema('s', (schema_lib.Feature('a'),))
  assert list(score.batches(path, schema, ('a',), 10)) == [{'a': ['u', '', 'v']}]


def test_bytes_in_parquet_are_text(tmp_path):
  pa, pq = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
  cells = {'a': pa.array(['ü'.encode(), None]), 'b': pa.array([b'xy', b''], pa.large_binary())}
  pq.write_table(pa.table(cells | {'c': pa.array([b'xy', None], pa.binary(2))}), tmp_path / 'x')
  found = list(score.batches((tmp_path / 'x').rename(tmp_path / 'x.parquet'), None, 'abc', 10))
  assert found == [{'a': ['ü', None], 'b': ['xy', ''], 'c': ['xy', None]}]


def test_bad_rows_are_counted_from_the_file(scored, tmp_path):
  raw, folder, _, _ = scored
  lines = (raw / 'test.csv').read_text().splitlines()
  header = lines[0].split(',')
  cells = lines[50].split(',')
  cells[header.index('price')] = 'cheap'
  lines[50] = ','.join(cells)
  (tmp_path / 'bad.csv').write_text('\n'.join(lines))
  scorer = serve.open(folder)
  with pytest.raises(ValueError, match="counted from row 40: Column 'price', row 9: 'cheap'"):
    list(score.score(scorer, tmp_path / 'bad.csv', size=40, progress=False))
  (tmp_path / 'short.csv').write_text('\n'.join([lines[0], 'a,b']))
  with pytest.raises(ValueError, match='a row has 2 fields and not 10'):
    list(score.score(scorer, tmp_path / 'short.csv', progress=False))


def test_an_output_is_whole_or_not_there(tmp_path):
  def broken():
    yield np.zeros(2, np.float32)
    raise ValueError('broken')

  for name in ('out.csv', 'out.parquet'):
    with pytest.raises(ValueError, match='broken'):
      score.write(broken(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []
  (tmp_path / 'out.csv').write_text('old')
  with pytest.raises(ValueError, match='broken'):
    score.write(broken(), tmp_path / 'out.csv')
  assert (tmp_path / 'out.csv').read_text() == 'old'
  (tmp_path / 'link.csv').symlink_to('out.csv')
  score.write(iter([np.float32([0.5])]), tmp_path / 'link.csv')
  assert (tmp_path / 'out.csv').read_text() == 'probability\n0.5\n'
  assert (tmp_path / 'link.csv').is_symlink()
  score.write(iter([np.float32([0.5])]), pathlib.Path('/dev/null'))
  assert pathlib.Path('/dev/null').is_char_device()


def test_the_input_is_never_the_output(scored, tmp_path):
  raw, folder, _, _ = scored
  content = (raw / 'test.csv').read_bytes()
  (tmp_path / 'rows.csv').write_bytes(content)
  given = {'artifact': folder, 'scorer': 'numpy', 'batch_size': 10}
  given |= {'input': f'{tmp_path}/rows.csv', 'output': f'{tmp_path}/./rows.csv'}
  with pytest.raises(SystemExit, match='is the input'):
    score.main(['score'], types.SimpleNamespace(**given))
  assert (tmp_path / 'rows.csv').read_bytes() == content


def test_files_that_are_cut_short_and_long_fields(scored, tmp_path):
  raw, folder, _, _ = scored
  scorer = serve.open(folder)
  content = (raw / 'test.csv').read_bytes()
  packed = gzip.compress(content * 100)
  (tmp_path / 'cut.csv.gz').write_bytes(packed[: len(packed) // 2])
  (tmp_path / 'bad.csv.gz').write_bytes(packed[:300] + b'\xff' * 40 + packed[340:])
  for name in ('cut.csv.gz', 'bad.csv.gz'):
    with pytest.raises(ValueError, match=f'{name} is cut short or damaged'):
      list(score.batches(tmp_path / name, schema_of(scorer), ('user',), 10))
  (tmp_path / 'long.csv').write_text('user\n' + 'x' * 200_000 + '\n')
  (batch,) = score.batches(tmp_path / 'long.csv', schema_of(scorer), ('user',), 10)
  assert [len(x) for x in batch['user']] == [200_000]


def schema_of(scorer):
  return schema_lib.Schema.from_dict(scorer.manifest['schema'])
