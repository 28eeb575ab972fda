"""What a change writes, what dying leaves behind, and what is kept out meanwhile."""

import dataclasses
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from ctr_jax.data import adding, appending, batches, change, columns, encode, storage, versions
from ctr_jax.data.schema import Feature, Schema

CHUNK = 16
FILES = {'train': 'train.csv', 'valid': 'valid.csv'}
SEVEN = Schema('s', tuple(Feature(f'c{i}', 'numeric') for i in range(7)), files=FILES)
FEW = Schema('s', (Feature('user'), Feature('price', 'numeric')), files=FILES, ignore=('new',))


def rows(schema, count):
  """A CSV file of as many rows, one column more than the schema has."""
  names = (*schema.names, 'new')
  lines = [
    ','.join([str(i % 2), *(str((i * 7 + k) % 11) for k in range(len(names)))])
    for i in range(count)
  ]
  return '\n'.join([','.join(['label', *names]), *lines, ''])


def make(folder, schema, chunk, count):
  """An encoded data set, a file of `more` rows, and files of a column by row."""
  for split, size in (('train', count), ('valid', count // 4), ('more', count // 2)):
    (folder / f'{split}.csv').write_text(rows(schema, size))
    (folder / f'{split}_row.csv').write_text(
      '\n'.join(['new', *(str(i % 9) for i in range(size)), ''])
    )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(storage, 'CHUNK', chunk)
    encode.encode(schema, folder, folder / 'out', progress=False)
  return folder


@pytest.fixture(scope='module')
def few(tmp_path_factory):
  return make(tmp_path_factory.mktemp('few'), FEW, CHUNK, 40)


@pytest.fixture
def path(few, tmp_path):
  return pathlib.Path(shutil.copytree(few / 'out', tmp_path / 'out'))


def add(folder, path, **how):
  """A column joined by row."""
  files = {split: [folder / f'{split}_row.csv'] for split in ('train', 'valid')}
  return adding.by_row(path, Feature('new'), files, progress=False, **how)


def append(folder, path, **how):
  """Rows more of train."""
  return appending.append(path, {'train': [folder / 'more.csv']}, progress=False, **how)


def state(path):
  """Every file, its bytes and when it was changed."""
  files = (p for p in path.rglob('*') if p.is_file())
  return {str(p.relative_to(path)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def test_a_column_more_writes_that_column(tmp_path):
  folder = make(tmp_path, dataclasses.replace(SEVEN, ignore=('new',)), 256, 3000)
  path, before = folder / 'out', state(folder / 'out')
  add(folder, path)
  after = state(path)
  assert {k: v for k, v in after.items() if k in before and k != 'manifest.json'} == {
    k: v for k, v in before.items() if k != 'manifest.json'
  }
  made = {name for name in after.keys() - before.keys() if not name.startswith('changes/2/')}
  assert made == {'versions/1.json', 'versions/lock'}
  assert after['versions/1.json'][0] == before['manifest.json'][0]
  written = {name.split('/')[2] + '/' + name.split('/')[3] for name in after if 'changes' in name}
  assert written == {'train/new', 'valid/new', 'test/new', 'vocabulary/new.parquet'}
  assert_reads_a_quarter(path)


def assert_reads_a_quarter(path):
  """Two of eight columns are a quarter of what is read: these columns are alike."""
  read = {}
  for names in (('c3', 'new'), columns.open_columns(path).schema.names):
    source = columns.open_columns(path)
    made = batches.Batches(source, 'train', (*names, 'label'), 100, window=700, block=256)
    for batch in made.epoch(0):
      assert batch.keys() == {*names, 'label'}
    assert source.bytes_read.keys() == {*names, 'label'}
    read[len(names)] = sum(n for name, n in source.bytes_read.items() if name != 'label')
  assert 0.2 < read[2] / read[8] < 0.3


def test_dry_run_changes_nothing(few, path):
  before = state(path)
  for run in (add, append):
    assert run(few, path, dry_run=True).version == 2
  change.drop(path, ['user'], dry_run=True)
  change.rename(path, 'user', 'guest', dry_run=True)
  add(few, path)
  assert versions.prune(path, dry_run=True).versions == [1]
  assert versions.known(path) == [1, 2]
  after = state(path)
  assert before.items() - after.items() == {('manifest.json', before['manifest.json'])}
  assert versions.verify(path, lambda *_: None) == {}


def test_checksums(few, path, tmp_path):
  sums = [columns.open_columns(path).checksum]
  again = pathlib.Path(shutil.copytree(path, tmp_path / 'again'))
  for run in (add, append, lambda _, p: change.drop(p, ['new'])):
    for where in (path, again):
      run(few, where)
    sums.append(columns.open_columns(path).checksum)
    assert columns.open_columns(again).checksum == sums[-1]
  assert len(set(sums)) == 4
  # What was added and dropped again is not there.
  adding.by_function(path, Feature('x', 'numeric'), ['label'], lambda r: r['label'], progress=False)
  change.drop(path, ['x'])
  assert columns.open_columns(path).checksum == sums[-1]
  change.rename(path, 'price', 'cost')
  assert columns.open_columns(path).checksum not in sums
  change.rename(path, 'cost', 'price')
  assert columns.open_columns(path).checksum == sums[-1]


class Snapshots:
  """Copies of a data set as a kill would leave it, before calls that change what is there."""

  def __init__(self, path, folder, patch):
    self.path, self.folder, self.found, self.calls = path, folder, [], 0
    for module, name, every in (
      (os, 'replace', 1),
      (os, 'unlink', 2),
      (os, 'fsync', 9),
      (shutil, 'rmtree', 1),
    ):
      patch.setattr(module, name, self.before(getattr(module, name), every))

  def before(self, function, every):
    def call(*args, **how):
      self.calls += 1
      if self.calls % every == 0:
        copied = self.folder / str(len(self.found))
        shutil.copytree(self.path, copied, copy_function=os.link)
        self.found.append(copied)
      return function(*args, **how)

    return call


def runs(few):
  """Name -> a change, and what has to be done before."""
  return {
    'add': (lambda p: add(few, p), lambda p: None),
    'append': (lambda p: append(few, p), lambda p: add(few, p)),
    'rename': (lambda p: change.rename(p, 'new', 'old'), lambda p: add(few, p)),
    'prune': (lambda p: versions.prune(p), lambda p: (add(few, p), change.drop(p, ['new']))),
  }


def content(path):
  """Version -> checksum of its content, all of it read."""
  return {n: columns.open_columns(path, 'full', n).checksum for n in versions.known(path)}


def test_dying_leaves_the_old_or_the_new(few, path, tmp_path):
  for name, (run, before) in runs(few).items():
    start = pathlib.Path(shutil.copytree(path, tmp_path / name / 'start'))
    before(start)
    old = content(start)
    with pytest.MonkeyPatch.context() as patch:
      snapshots = Snapshots(start, tmp_path / name, patch)
      run(start)
    new = content(start)
    assert len(snapshots.found) > 2
    for copied in snapshots.found:
      found = content(copied)
      if name == 'prune':
        assert found.keys() <= old.keys()
        assert found == {n: old[n] for n in found}
      else:
        assert found in (old, new)
    # The state in the middle is as good a start as any other, and its leftovers go.
    middle = snapshots.found[len(snapshots.found) // 2]
    versions.verify(middle, lambda *_: None)
    if versions.known(middle) == list(old):
      run(middle)
    versions.prune(middle)
    assert list(content(middle).values()) == [new[max(new)]]
    assert versions.verify(middle, lambda *_: None) == {}


def test_leftovers_are_said_and_removed(few, path):
  add(few, path)
  for name in (
    'changes/3/train/x/c/0',
    '.manifest.json.partial',
    'versions/.1.json.partial',
    'train/user/c/99',
  ):
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_text('x')
  (path / 'train' / 'notes.txt').write_text('mine')
  left = versions.verify(path, lambda *_: None)
  assert left == dict.fromkeys(
    (
      '.manifest.json.partial',
      'changes/3/train/x/c/0',
      'versions/.1.json.partial',
      'train/user/c/99',
    ),
    1,
  )
  assert versions.prune(path, keep=2).files == left
  assert versions.verify(path, lambda *_: None) == {}
  assert (path / 'train' / 'notes.txt').exists()
  assert not (path / 'changes' / '3').exists()
  assert versions.known(path) == [1, 2]


def test_pruned_versions_are_gone(few, path):
  add(few, path)
  change.drop(path, ['new', 'user'])
  newest = columns.open_columns(path, 'full').checksum
  gone = versions.prune(path)
  assert gone.versions == [1, 2]
  assert {name.split('/')[1] for name in gone.files if name.startswith('train')} == {'user'}
  assert not (path / 'train' / 'user').exists()
  assert not (path / 'changes').exists()
  assert columns.open_columns(path, 'full').checksum == newest
  with pytest.raises(FileNotFoundError, match='has no version 1: it was pruned, or never made'):
    columns.open_columns(path, version=1)
  with pytest.raises(ValueError, match='At least the newest version is kept; keep is 0'):
    versions.prune(path, 0)
  # Numbers are not given again.
  assert change.rename(path, 'price', 'cost').version == 4


@pytest.mark.parametrize('kind', ['numeric', 'hash'])
def test_words_stay_with_their_table_when_its_old_name_is_given_again(few, path, kind):
  words = columns.open_columns(path).vocabulary('user')[0]
  change.rename(path, 'user', 'person')
  feature = Feature('user', kind, buckets=3 * (kind == 'hash'))
  how = {'name': 'm:f', 'progress': False}
  adding.by_function(path, feature, ['label'], lambda read: read['label'].astype(int), **how)
  with pytest.raises(KeyError, match=r"Table 'user' of .* has no vocabulary"):
    columns.open_columns(path).vocabulary('user')
  change.drop(path, ['user'])
  versions.prune(path)
  assert columns.open_columns(path, 'full').vocabulary('person')[0] == words
  append(few, path)


def test_changes_exclude_each_other(few, path):
  add(few, path)
  with (path / 'versions' / 'lock').open() as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    for run in (lambda: change.drop(path, ['new']), lambda: versions.prune(path)):
      with pytest.raises(BlockingIOError, match=r'Another change of .* is under way'):
        run()
  change.drop(path, ['new'])


def test_damage_is_found(few, path):
  add(few, path)
  file = path / 'changes/2/train/new/c/0'
  data = bytearray(file.read_bytes())
  data[-1] ^= 1
  file.write_bytes(data)
  with pytest.raises(ValueError, match='changes/2/train/new/c/0 is damaged'):
    versions.verify(path, lambda *_: None)
  columns.open_columns(path, 'full', 1)
  old = path / 'versions' / '1.json'
  old.write_text(old.read_text().replace('"rows": 12', '"rows": 13'))
  with pytest.raises(ValueError, match=r'The manifest of version 1 of .* is damaged'):
    versions.verify(path, lambda *_: None)
  old.write_text('{')
  with pytest.raises(ValueError, match=r'versions/1\.json is damaged'):
    columns.open_columns(path, version=1)


def test_encoding_leaves_a_changed_data_set_alone(few, path):
  change.rename(path, 'price', 'cost')
  with pytest.raises(FileExistsError, match='was changed since it was encoded'):
    encode.encode(FEW, few, path, progress=False)


def command(*arguments):
  root = pathlib.Path(__file__).parents[2]
  given = [sys.executable, '-m', 'ctr_jax.data.change', *map(str, arguments)]
  return subprocess.run(given, cwd=root, capture_output=True, text=True)


def test_from_the_command_line(few, path):
  files = [f'--{split}={few / f"{split}_row.csv"}' for split in ('train', 'valid')]
  done = command('add', path, 'new', '--min_count=2', *files)
  assert done.returncode == 0, done.stderr
  assert 'version 2 made' in done.stdout
  assert 'change: column 1/1 new' in done.stderr
  assert '      2  add new by row\n' in change.listing(path)


@pytest.mark.long
def test_all_commands(few, path):
  add(few, path)
  for arguments, said in {
    ('drop', path, 'nose'): "change: .* has no column 'nose'; it has user, price, new.\n",
    ('rename', path, 'new', 'old', '--dry_run'): 'version 3 would be made, and was not',
    ('append', path, f'--train={few}/more.csv', '--min_count=3'): 'appended 20 train, 0 valid',
    ('verify', path): 'all files of versions 1, 2, 3 are as written',
    ('list', path): '3  append ',
    ('drop', path, 'new'): 'version 4 made',
    ('prune', path, '--keep=2'): 'removed versions 1, 2, and ',
    ('add', path, 'x', '--kind=numeric', '--function=operator:itemgetter', '--inputs=price'): (
      'gave .* values; it must give|not numbers'
    ),
    ('grow', path): 'Say one of list, add, drop, rename, append, verify, prune, and PATH',
  }.items():
    done = command(*arguments)
    assert re.search(said, done.stdout + done.stderr), done.stdout + done.stderr
    assert 'Traceback' not in done.stderr
