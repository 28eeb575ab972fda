"""Reading, damage, and counting of bytes."""

import json
import pathlib
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from ctr_jax.data import columns, encode, storage
from ctr_jax.data.schema import Feature, Schema

SAMPLES = 1000
CHUNK = 300
SCHEMA = Schema(
  's',
  (Feature('user'), Feature('tags', 'ids'), Feature('price', 'numeric')),
  files={'train': 'train.csv', 'test': 'test.csv'},
)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp('columns')
  lines = [f'{i % 2},{i % 37},{"|".join("abc"[: i % 4])},{i}' for i in range(SAMPLES)]
  for name, part in (('train', lines), ('test', lines[:5])):
    (folder / f'{name}.csv').write_text('\n'.join(['label,user,tags,price', *part, '']))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(storage, 'CHUNK', CHUNK)
    encode.encode(SCHEMA, folder, folder / 'out', progress=False)
  return folder / 'out'


@pytest.fixture
def copy(made, tmp_path):
  return pathlib.Path(shutil.copytree(made, tmp_path / 'copy'))


@pytest.mark.parametrize(
  ('start', 'stop'), [(0, 1000), (0, 1), (299, 301), (300, 600), (5, 999), (999, 1000), (7, 7)]
)
def test_read_ranges(made, start, stop):
  source = columns.open_columns(made)
  found = source.read('train', ['price', 'tags', 'label'], start, stop)
  np.testing.assert_array_equal(found['price'], np.arange(start, stop, dtype=np.float32))
  np.testing.assert_array_equal(found['label'], np.arange(start, stop) % 2)
  assert found['tags'].shape == (stop - start, 3)
  assert found['price'].dtype == np.float32
  assert found['tags'].dtype == np.int32
  # a is in 3 of 4 samples, b in 2, c in 1: rows 1, 2, 3; an empty cell is row 0.
  table = np.array([[0, -1, -1], [1, -1, -1], [1, 2, -1], [1, 2, 3]])
  np.testing.assert_array_equal(found['tags'], table[np.arange(start, stop) % 4])


def test_what_was_read_may_be_changed(made):
  source = columns.open_columns(made)
  source.read('train', ['price'], 0, 10)['price'][:] = -1
  assert source.read('train', ['price'], 0, 10)['price'].max() == 9


def test_is_a_source(made):
  source = columns.open_columns(made)
  assert source.schema == SCHEMA
  assert source.rows == {'user': 38, 'tags': 4, 'price': 2}
  assert source.extras == ()
  assert [source.num_samples(s) for s in ('train', 'valid', 'test')] == [1000, 0, 5]
  assert source.read('valid', ['tags'], 0, 0)['tags'].shape == (0, 3)
  assert source.checksum == columns.checksum(source.manifest)
  assert source.title == 's'


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('train', ['user'], 0, 1001), r'Samples 0\.\.1001 of train were asked for; it has 1000'),
    (('train', ['user'], -1, 5), r'Samples -1\.\.5'),
    (('tran', ['user'], 0, 5), "no split 'tran'; there are train, valid, test"),
    (('train', ['item'], 0, 5), "no column 'item'; it has user, tags, price, label"),
  ],
)
def test_read_errors(made, arguments, message):
  with pytest.raises((ValueError, KeyError), match=message):
    columns.open_columns(made).read(*arguments)


def test_bytes_read(made):
  source = columns.open_columns(made)
  size = {i: (made / f'train/price/c/{i}').stat().st_size for i in range(4)}
  for start in range(0, CHUNK, 100):
    source.read('train', ['price'], start, start + 100)
  assert source.bytes_read == {'price': size[0]}
  source.read('train', ['price', 'user'], 250, 950)
  # The first chunk was kept.
  assert source.bytes_read['price'] == sum(size.values())
  assert source.bytes_read['user'] > 0
  assert set(source.bytes_read) == {'price', 'user'}


def test_many_threads(made):
  source = columns.open_columns(made)
  wrong = []

  def read(seed):
    rng = np.random.default_rng(seed)
    for start in rng.integers(0, 900, 40):
      found = source.read('train', ['price'], start, start + 100)['price']
      if not (found == np.arange(start, start + 100)).all():
        wrong.append(start)

  threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert wrong == []


FILES = ('train/price/c/1', 'train/tags/c/1/0', 'train/user/zarr.json', 'vocabulary/user.parquet')


@pytest.mark.parametrize('name', FILES)
def test_missing_file(copy, name):
  (copy / name).unlink()
  with pytest.raises(FileNotFoundError, match=rf'{name} is missing\. Remove .* encode again'):
    columns.open_columns(copy)


@pytest.mark.parametrize('name', FILES)
def test_shorter_file(copy, name):
  (copy / name).write_bytes((copy / name).read_bytes()[:-1])
  with pytest.raises(ValueError, match=rf'{name} has \d+ bytes, and \d+ were encoded'):
    columns.open_columns(copy)


def _alter(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


@pytest.mark.parametrize('name', FILES)
def test_altered_file(copy, name):
  _alter(copy / name)
  with pytest.raises(ValueError, match=f'{name} is damaged: its content is not what was encoded'):
    columns.open_columns(copy, verify='full')
  with pytest.raises(ValueError, match=f'{name} is damaged'):
    columns.open_columns(copy).verify()


@pytest.mark.parametrize('name', ['train/price/c/1', 'train/tags/c/1/0'])
@pytest.mark.parametrize('position', [0, 0.5, -1])
def test_altered_chunk_is_found_when_read(copy, name, position):
  data = bytearray((copy / name).read_bytes())
  data[int(position * len(data))] ^= 1
  (copy / name).write_bytes(data)
  source = columns.open_columns(copy)
  column = name.split('/')[1]
  source.read('train', [column], 0, CHUNK)
  with pytest.raises(ValueError, match=rf'copy/{name} is damaged.*encode again'):
    source.read('train', [column], 0, CHUNK + 1)


@pytest.mark.parametrize('name', ['train/price/c/1', 'train/tags/c/1/0', 'train/label/c/1'])
def test_chunk_that_goes_missing_later(copy, name):
  source = columns.open_columns(copy)
  (copy / name).unlink()
  with pytest.raises(ValueError, match=rf'copy/{name} is missing'):
    source.read('train', [name.split('/')[1]], CHUNK, CHUNK + 1)


def test_damaged_vocabulary(copy):
  source = columns.open_columns(copy)
  _alter(copy / 'vocabulary/user.parquet')
  with pytest.raises(ValueError, match=r'user\.parquet is damaged'):
    source.vocabulary('user')


def test_not_a_data_set(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'not an encoded data set: it has no manifest\.json'):
    columns.open_columns(tmp_path)
  (tmp_path / 'manifest.json').write_text(json.dumps({'format': 99}))
  with pytest.raises(ValueError, match='has format 99, and this version reads 1'):
    columns.open_columns(tmp_path)
  with pytest.raises(ValueError, match="'sizes' or 'full', not 'none'"):
    columns.open_columns(tmp_path, verify='none')


def test_needs_no_database_and_no_jax(made):
  program = (
    'import sys; from ctr_jax.data import columns\n'
    f'columns.open_columns({str(made)!r}).read("train", ["user", "label"], 0, 9)\n'
    'assert not {"ibis", "duckdb", "jax", "pandas"} & set(sys.modules), sorted(sys.modules)'
  )
  root = pathlib.Path(__file__).parents[2]
  subprocess.run([sys.executable, '-c', program], cwd=root, check=True)


def test_words_are_read_by_no_other_thread(made):
  # One of Arrow's data sets aborted every second process that ended after a hundred vocabularies.
  program = (
    'import sys; from ctr_jax.data import columns\n'
    f'assert columns.open_columns({str(made)!r}).vocabulary("user")[0]\n'
    'assert "pyarrow.dataset" not in sys.modules'
  )
  root = pathlib.Path(__file__).parents[2]
  subprocess.run([sys.executable, '-c', program], cwd=root, check=True)


def test_verify_from_the_command_line(copy):
  command = [sys.executable, '-m', 'ctr_jax.data.columns', str(copy)]
  root = pathlib.Path(__file__).parents[2]
  done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
  assert 'all files as encoded' in done.stdout
