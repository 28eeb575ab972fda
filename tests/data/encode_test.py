"""Encoded data sets against encoding in plain Python."""

import collections
import csv
import gzip
import json
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from ctr_jax.data import columns, datasets, encode, engine, storage, workspace
from ctr_jax.data.schema import Feature, Schema, Split
from tests.data import reference

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
)
FILES = {'train': 'train.csv', 'valid': 'valid.csv', 'test': 'test.csv'}
SCHEMA = Schema('all', FEATURES, files=FILES, ignore=('time',), group='user')
ROWS = {'train': reference.make_rows(900, 1), 'valid': reference.make_rows(200, 2)}
ROWS['test'] = reference.make_rows(100, 3)


def run(schema, folder, out, **options):
  return encode.encode(schema, folder, out, progress=False, **options)


def everything(source):
  """{split: {name: array}} of all columns."""
  names = (*source.schema.names, 'label')
  return {
    split: source.read(split, names, 0, source.num_samples(split))
    for split in ('train', 'valid', 'test')
  }


def assert_equal(found, expected):
  """Compares `everything` with what `reference.encode` makes."""
  for split, named in expected.items():
    for name, values in named.items():
      values = np.array(values).astype(found[split][name].dtype)
      np.testing.assert_array_equal(found[split][name], values, err_msg=f'{split} {name}')


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
  folder = tmp_path_factory.mktemp('raw')
  for split, rows in ROWS.items():
    (folder / f'{split}.csv').write_bytes(reference.text(rows))
  return folder


@pytest.fixture(scope='module')
def encoded(raw, tmp_path_factory):
  return run(SCHEMA, raw, tmp_path_factory.mktemp('encoded') / 'all')


def test_equals_plain_python(encoded):
  expected, rows = reference.encode(SCHEMA, ROWS)
  assert_equal(everything(encoded), expected)
  assert encoded.rows == rows
  assert list(encoded.rows) == list(SCHEMA.tables)


def test_dtypes_and_shapes(encoded):
  found = encoded.read('valid', (*SCHEMA.names, 'label'), 10, 17)
  dtypes = {name: array.dtype for name, array in found.items()}
  assert dtypes.pop('price') == np.float32
  assert dtypes.pop('label') == np.float32
  assert set(dtypes.values()) == {np.dtype(np.int32)}
  assert found['short'].shape == (7, 2)
  assert found['tags'].shape == (7, encoded.width('tags'))
  assert found['user'].shape == (7,)


def test_rows_are_frequency_ranks(encoded):
  users = encoded.read('train', ['user'], 0, 900)['user']
  counts = np.bincount(users, minlength=encoded.rows['user'])[1:]
  assert (np.diff(counts) <= 0).all()
  values, stored = encoded.vocabulary('user')
  np.testing.assert_array_equal(stored, counts)
  assert len(values) == encoded.rows['user'] - 1
  assert (
    dict(zip(values, stored, strict=True)).items()
    <= collections.Counter(row['user'] for row in ROWS['train']).items()
  )


def test_counts_only_train(encoded):
  # Values of valid and test alone have no row; every id is within its table.
  for split, named in everything(encoded).items():
    for feature in SCHEMA.features:
      if feature.kind != 'numeric':
        assert named[feature.name].max() < encoded.rows[feature.table], (split, feature.name)


def test_without_a_table_there_is_no_vocabulary(encoded):
  with pytest.raises(KeyError, match='hashed or numeric'):
    encoded.vocabulary('agent')


@pytest.mark.skipif(
  not (datasets._PROJECT.parent / 'shared/data/ml1m_partial').is_dir(), reason='no ml1m_partial'
)
def test_real_data_equals_plain_python(tmp_path):
  source = datasets.open_or_encode('ml1m_partial', cache_dir=tmp_path, progress=False)
  folder = datasets.find('ml1m_partial')
  splits = {}
  for split in ('train', 'valid', 'test'):
    with gzip.open(folder / f'{split}.csv.gz', 'rt', encoding='utf-8', newline='') as file:
      splits[split] = list(csv.DictReader(file))
  expected, rows = reference.encode(source.schema, splits)
  assert_equal(everything(source), expected)
  assert source.rows == rows
  assert source.num_samples('train') == 287_808
  assert source.title == 'ml1m_partial'


def test_split_at_random(raw, tmp_path):
  fractions = (0.6, 0.3, 0.1)
  split = Split('random', seed=5, fractions=fractions)
  schema = Schema('r', FEATURES, files={'all': 'train.csv'}, split=split, ignore=('time',))
  parts = {name: [] for name in ('train', 'valid', 'test')}
  for i, row in enumerate(ROWS['train']):
    parts[list(parts)[reference.random_part(5, i, fractions)]].append(row)
  expected, _ = reference.encode(schema, parts)
  assert_equal(everything(run(schema, raw, tmp_path / 'out')), expected)
  shares = [len(rows) / len(ROWS['train']) for rows in parts.values()]
  np.testing.assert_allclose(shares, fractions, atol=0.05)


@pytest.mark.parametrize('kind', ['number', 'text'])
@pytest.mark.parametrize('cuts', [(), (1100, 1150)])
def test_split_by_time(raw, tmp_path, kind, cuts):
  features = (Feature('user'),)
  split = Split('time', column='time', type=kind, cuts=cuts and tuple(map(str, cuts)))
  ignore = tuple(name for name in ROWS['train'][0] if name != 'user')
  schema = Schema('t', features, files={'all': 'train.csv'}, split=split, ignore=ignore)
  # 900 rows, three of each time from 1000 on; 80% are 720 rows, 240 times.
  first, second = cuts or (1240, 1270)
  parts = {'train': [], 'valid': [], 'test': []}
  for row in ROWS['train']:
    time = int(row['time'])
    parts['train' if time < first else 'valid' if time < second else 'test'].append(row)
  expected, _ = reference.encode(schema, parts)
  assert_equal(everything(run(schema, raw, tmp_path / 'out')), expected)


def test_several_chunks(raw, tmp_path, monkeypatch):
  monkeypatch.setattr(storage, 'CHUNK', 64)
  monkeypatch.setattr(engine, 'BATCH', 100)
  source = run(SCHEMA, raw, tmp_path / 'out')
  expected, _ = reference.encode(SCHEMA, ROWS)
  assert_equal(everything(source), expected)
  found = source.read('train', ['tags', 'price'], 60, 331)
  np.testing.assert_array_equal(found['tags'], np.array(expected['train']['tags'])[60:331])
  np.testing.assert_array_equal(found['price'], np.float32(expected['train']['price'])[60:331])


def test_same_files_are_reused_and_others_refused(raw, encoded, capsys):
  written = (pathlib.Path(encoded.path) / columns.MANIFEST).stat().st_mtime_ns
  again = encode.encode(SCHEMA, raw, encoded.path)
  assert again.checksum == encoded.checksum
  assert 'already there' in capsys.readouterr().err
  assert (pathlib.Path(encoded.path) / columns.MANIFEST).stat().st_mtime_ns == written
  with pytest.raises(FileExistsError, match=r'another schema; remove it or choose another --out'):
    run(Schema('all', FEATURES[:1], files=FILES), raw, encoded.path)


def test_changed_files_are_refused(tmp_path):
  (tmp_path / 'train.csv').write_text('label,user\n1,a\n')
  schema = Schema('s', (Feature('user'),), files={'train': 'train.csv'})
  run(schema, tmp_path, tmp_path / 'out')
  (tmp_path / 'train.csv').write_text('label,user\n1,a\n0,b\n')
  with pytest.raises(FileExistsError, match='other raw files'):
    run(schema, tmp_path, tmp_path / 'out')


def test_what_was_left_out_is_not_reused_unasked(tmp_path):
  (tmp_path / 'train.csv').write_text('label,user\n1,a\n2,b\n')
  schema = Schema('s', (Feature('user'),), files={'train': 'train.csv'})
  run(schema, tmp_path, tmp_path / 'out', on_bad_row='skip')
  assert run(schema, tmp_path, tmp_path / 'out', on_bad_row='skip').num_samples('train') == 1
  with pytest.raises(FileExistsError, match='these files with malformed rows left out'):
    run(schema, tmp_path, tmp_path / 'out')


def test_checksum_is_of_the_content(raw, encoded, tmp_path):
  again = run(SCHEMA, raw, tmp_path / 'again')
  assert again.checksum == encoded.checksum
  rows = [dict(row) for row in ROWS['test']]
  rows[50]['price'] = '7'
  for split in ('train', 'valid'):
    (tmp_path / f'{split}.csv').write_bytes((raw / f'{split}.csv').read_bytes())
  (tmp_path / 'test.csv').write_bytes(reference.text(rows))
  assert run(SCHEMA, tmp_path, tmp_path / 'other').checksum != encoded.checksum


def test_failure_leaves_nothing(raw, tmp_path, monkeypatch):
  def fail(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(encode, '_table', fail)
  with pytest.raises(KeyboardInterrupt):
    run(SCHEMA, raw, tmp_path / 'out')
  assert list(tmp_path.iterdir()) == []


def test_killed_run_is_cleaned_up_and_a_running_one_is_not(tmp_path):
  program = (
    'import sys, time; from ctr_jax.data import workspace\n'
    'with workspace.create(sys.argv[1]) as folder:\n'
    '  (folder / "half").write_text("x"); print("ready", flush=True); time.sleep(60)'
  )
  root = pathlib.Path(__file__).parents[2]
  child = subprocess.Popen(
    [sys.executable, '-c', program, str(tmp_path / 'out')], stdout=subprocess.PIPE, cwd=root
  )
  try:
    assert child.stdout.readline() == b'ready\n'
    workspace.clean(tmp_path / 'out')
    assert [p.name for p in tmp_path.glob('out.tmp-*/half')] == ['half']
  finally:
    child.kill()
    child.wait()
    child.stdout.close()
  assert not (tmp_path / 'out').exists()
  workspace.clean(tmp_path / 'out')
  assert list(tmp_path.iterdir()) == []


def test_what_is_half_removed_is_found(tmp_path, monkeypatch):
  def interrupted(folder, **_):
    (pathlib.Path(folder) / 'lock').unlink(missing_ok=True)  # It comes first by chance.
    raise KeyboardInterrupt

  # Somebody interrupts an encoding, and then its cleaning too.
  with pytest.raises(KeyboardInterrupt), workspace.create(tmp_path / 'out') as folder:
    for name in 'abcdefgh':
      (folder / name).mkdir()
    monkeypatch.setattr(shutil, 'rmtree', interrupted)
    raise KeyboardInterrupt
  monkeypatch.undo()
  assert [path.name for path in folder.iterdir() if path.is_file()] == ['lock']
  workspace.clean(tmp_path / 'out')
  assert list(tmp_path.iterdir()) == []


def test_whoever_is_second_uses_what_the_first_made(raw, tmp_path, monkeypatch):
  whole = encode._fill

  def slower(*args):
    monkeypatch.setattr(encode, '_fill', whole)
    run(SCHEMA, raw, tmp_path / 'out')
    return whole(*args)

  monkeypatch.setattr(encode, '_fill', slower)
  assert run(SCHEMA, raw, tmp_path / 'out').num_samples('train') == 900
  assert [p.name for p in tmp_path.iterdir()] == ['out']


def test_command_line(raw, tmp_path):
  (tmp_path / 'mine.toml').write_text("""
    ignore = ['item', 'previous', 'tags', 'price', 'clicks', 'agent', 'time']
    [files]
    train = 'train.csv'
    [[features]]
    name = 'user'
    min_count = 3
  """)
  began = time.time()
  command = [sys.executable, '-m', 'ctr_jax.data.encode', f'--schema={tmp_path}/mine.toml']
  command += [f'--data_dir={raw}', f'--out={tmp_path}/out', '--on_bad_row=skip']
  root = pathlib.Path(__file__).parents[2]
  done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
  assert 'mine: 900 train, 0 valid, 0 test' in done.stdout
  line = next(line for line in done.stdout.splitlines() if line.startswith('user'))
  counts = collections.Counter(row['user'] for row in ROWS['train'] if row['user'])
  kept = [n for n in counts.values() if n >= 3]
  share = f'{sum(kept) / sum(counts.values()):.2%}'
  assert line.split() == [
    'user',
    str(len(kept) + 1),
    str(len(kept)),
    str(len(counts) - len(kept)),
    share,
  ]
  assert 'skipped 0 rows' in done.stdout
  assert 'column 2/2 user' in done.stderr
  manifest = json.loads((tmp_path / 'out' / columns.MANIFEST).read_text())
  assert manifest['raw'][0][0] == 'train.csv'
  assert time.time() - began < 60
