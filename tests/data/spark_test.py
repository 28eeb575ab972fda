"""What Spark encodes is what DuckDB encodes, byte for byte."""

import importlib.util
import os
import pathlib
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_jax.data import columns, datasets, encode, engine
from ctr_jax.data.schema import Feature, Schema, Split
from tests.data import reference


def missing() -> str:
  """Why Spark cannot run here, or nothing."""
  if not importlib.util.find_spec('pyspark') or not importlib.util.find_spec('pandas'):
    return 'pyspark or pandas is not installed (pip install pyspark pandas)'
  if not shutil.which('java') and not os.environ.get('JAVA_HOME'):
    return 'Spark needs a Java runtime: no java on the PATH, and no JAVA_HOME'
  return ''


needs_spark = pytest.mark.skipif(bool(missing()), reason=missing() or 'Spark is here')
# PySpark warns of pandas versions, and leaves sockets to the garbage collector.
quietly = pytest.mark.filterwarnings('ignore')

FEATURES = (
  Feature('user', min_count=3),
  Feature('item', min_count=2),
  Feature('previous', table='item', min_count=2),
  Feature('tags', 'ids'),
  Feature('short', 'ids', column='tags', table='tags', width=2),
  Feature('price', 'numeric'),
  Feature('clicks', 'bucket', min_count=2),
  Feature('level', 'bucket', column='price', transform='boundaries', boundaries=(0, 1)),
  Feature('agent', 'hash', buckets=1000),
  Feature('never', 'ids'),
  Feature('no_bucket', 'bucket', column='never_number'),
)
ROWS = [row | {'never': '', 'never_number': ''} for row in reference.make_rows(400, 7)]


@pytest.fixture(scope='module')
def session(tmp_path_factory):
  """One small Spark for all tests; each asks it for a session of its own."""
  with pytest.MonkeyPatch.context() as patch:
    small = '--master local[2] --conf spark.sql.shuffle.partitions=2'
    small += ' --driver-java-options -XX:TieredStopAtLevel=1 pyspark-shell'
    patch.setenv('PYSPARK_SUBMIT_ARGS', small)
    with engine.opened('spark', tmp_path_factory.mktemp('spark'), '1GB'):
      yield


def content(folder):
  """{name: bytes} of everything below a folder."""
  paths = (path for path in pathlib.Path(folder).rglob('*') if path.is_file())
  return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def both(schema, folder, out, **options):
  """Encodes by both engines, compares every file, and opens what Spark made."""
  for name in engine.NAMES:
    encode.encode(schema, folder, out / name, engine_name=name, progress=False, **options)
  one, other = (content(out / name) for name in engine.NAMES)
  assert columns.MANIFEST in one
  assert [name for name in {**one, **other} if one.get(name) != other.get(name)] == []
  return columns.open_columns(out / 'spark', verify='full')


def parts(folder, write):
  """Three files in which the rows lie in order."""
  for number, rows in enumerate((ROWS[:150], ROWS[150:170], ROWS[170:])):
    write(folder, number, rows)


def csv_file(folder, number, rows):
  (folder / f'part_{number}.csv').write_bytes(reference.text(rows))


def tsv_file(folder, number, rows):
  cells = [{name: cell.replace('"', "'") for name, cell in row.items()} for row in rows]
  (folder / f'part_{number}.tsv').write_bytes(reference.text(cells, '\t', '\r\n'))


def parquet_file(folder, number, rows):
  named = {name: [row[name] or None for row in rows] for name in rows[0]}
  kinds = {name: pa.float64() for name in ('price', 'clicks')} | {'tags': pa.list_(pa.string())}
  named['tags'] = [row['tags'].split('|') if row['tags'] else None for row in rows]
  for name in ('price', 'clicks'):
    named[name] = [None if cell is None else float(cell) for cell in named[name]]
  table = {name: pa.array(cells, kinds.get(name, pa.string())) for name, cells in named.items()}
  pq.write_table(pa.table(table), folder / f'part_{number}.parquet', row_group_size=64)


AT_RANDOM = Split('random', seed=5, fractions=(0.6, 0.3, 0.1))


def schema_of(pattern, features, split=AT_RANDOM):
  used = {'label', split.column, *(feature.column for feature in features)}
  ignore = tuple(name for name in ROWS[0] if name not in used)
  return Schema('all', tuple(features), files={'all': pattern}, split=split, ignore=ignore)


@needs_spark
@quietly
def test_every_kind_of_column(session, tmp_path):
  """Three files, so that their order is at stake; ties, gaps, values without a row."""
  parts(tmp_path, csv_file)
  source = both(schema_of('part_*.csv', FEATURES), tmp_path, tmp_path)
  assert source.num_samples('train') > 200
  assert source.width('tags') > 2


@needs_spark
@quietly
@pytest.mark.parametrize('write', [tsv_file, parquet_file])
def test_every_kind_of_file(session, tmp_path, write):
  parts(tmp_path, write)
  suffix = write.__name__.removesuffix('_file')
  both(schema_of(f'part_*.{suffix}', FEATURES[3:6]), tmp_path, tmp_path)


@needs_spark
@quietly
@pytest.mark.parametrize(
  ('kind', 'cuts'), [('number', ()), ('text', ()), ('number', ('1040', '1100'))]
)
def test_split_by_time(session, tmp_path, kind, cuts):
  parts(tmp_path, csv_file)
  split = Split('time', column='time', type=kind, cuts=cuts)
  both(schema_of('part_*.csv', [Feature('agent')], split), tmp_path, tmp_path)


@needs_spark
@quietly
def test_malformed_rows_are_counted_alike(session, tmp_path):
  """In two files, found in reading and in checking; the manifest says where the first ones were."""
  parts(tmp_path, csv_file)
  for number, line in ((0, '1,too,few'), (2, f'7{"," * 10}'), (2, '1,x')):
    with (tmp_path / f'part_{number}.csv').open('a') as file:
      file.write(f'{line}\n')
  schema = schema_of('part_*.csv', FEATURES[:1])
  with pytest.raises(ValueError, match=r'part_0\.csv:152: 3 fields, not 11: .*on_bad_row=skip'):
    encode.encode(schema, tmp_path, tmp_path / 'out', engine_name='spark', progress=False)
  assert not list(tmp_path.glob('out*'))
  source = both(schema, tmp_path, tmp_path, on_bad_row='skip')
  assert source.manifest['skipped'] == {'wrong number of fields': 2, 'label is not 0 or 1': 1}


@needs_spark
@quietly
@pytest.mark.skipif(
  not (datasets._PROJECT.parent / 'shared/data/ml1m_partial').is_dir(), reason='no ml1m_partial'
)
def test_real_data(session, tmp_path):
  schema, folder = datasets.resolve('ml1m_partial')
  assert both(schema, folder, tmp_path).num_samples('train') == 287_808


@needs_spark
@quietly
def test_any_separator(session, tmp_path):
  """Spark splits by regular expressions, and reads escapes in its texts."""
  separators = ('|', '.', '\\', ', ', '^', '[', '\x01', '\t', "'", '$1', '\\E')
  column = pa.table({'x': [f'a{s}{s}b{s}' for s in separators]})
  with engine.opened('spark', tmp_path, '1GB') as con:
    table = engine.store(con, 'texts', column)
    named = {f'x{i}': engine.split(con, table.x, s) for i, s in enumerate(separators)}
    found = engine.rows(con, table.select('x', **named))
  assert len(found) == len(separators)
  for row in found:
    assert [row[f'x{i}'] for i in range(len(separators))] == [row['x'].split(s) for s in separators]


def test_no_such_engine(tmp_path):
  with pytest.raises(ValueError, match="The engine is 'duckdb' or 'spark', not 'flink'"):
    encode.encode(schema_of('*.csv', FEATURES), tmp_path, tmp_path / 'out', engine_name='flink')
