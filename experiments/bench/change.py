r"""What a change of an encoded data set writes and takes, and what training then reads.

  python -m experiments.bench.change --samples=2000000

Makes a data set of 39 columns of ids that are alike (a thousand values each, value i with a
frequency of about 1 / i), adds a column by row, one by key and one as a function, renames and
drops, appends a hundredth more rows, reads an epoch with 10 and with 40 columns, verifies and
prunes. Every file that was there is looked at before and after: a change that touches one is an
error. Measured results are in experiments/RESULTS.md.
"""

import json
import os
import pathlib
import shutil
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from absl import flags

from ctr_jax.data import adding, appending, batches, change, columns, storage, versions
from ctr_jax.data import schema as schema_lib
from experiments import common, report

_SAMPLES = flags.DEFINE_integer('samples', 2_000_000, 'Rows of the data set.')
_MADE_IN = flags.DEFINE_string('made_in', None, 'Folder for the files; default: a temporary one.')
flags.declare_key_flag('save_result')


_VALUES = 1000
_NAMES = tuple(f'c{i}' for i in range(39))


def schema() -> schema_lib.Schema:
  """Of the data set."""
  features = tuple(schema_lib.Feature(name) for name in _NAMES)
  return schema_lib.Schema('alike', features, files={'train': 'train.csv'})


def ranks(rng: np.random.Generator, rows: int) -> np.ndarray:
  """Rows of a table of _VALUES values, int32."""
  return np.minimum(_VALUES ** rng.random(rows), _VALUES).astype(np.int32)


def make(path: pathlib.Path, rows: int) -> None:
  """Writes the data set as encoding would: nine tenths train, the rest valid and test."""
  rng = np.random.default_rng(0)
  counts = {'train': rows - 2 * (rows // 20), 'valid': rows // 20, 'test': rows // 20}
  parts = np.repeat(np.arange(3, dtype=np.int8), list(counts.values()))
  clicks = (rng.random(rows) < 0.25).astype(np.float32)
  arrays = storage.write_splits(path, 'label', counts, [(parts, clicks)], 'float32')
  (path / 'vocabulary').mkdir()
  files, words = {}, [f'w{i}' for i in range(1, _VALUES + 1)]
  for name in _NAMES:
    column = ranks(rng, rows)
    arrays |= storage.write_splits(path, name, counts, [(parts, column)], 'int32')
    seen = np.bincount(column[: counts['train']], minlength=_VALUES + 1)[1:]
    file = f'vocabulary/{name}.parquet'
    pq.write_table(pa.table({'value': words, 'count': seen.astype(np.int64)}), path / file)
    files[file] = storage.digest(path, file)
  table = {'rows': _VALUES + 1, 'kept': _VALUES, 'cut': 0, 'coverage': 1.0, 'kind': 'id'}
  manifest = {
    'format': columns.FORMAT,
    'schema': schema().to_dict(),
    'digest': schema().digest,
    'samples': counts,
    'skipped': {},
    'skipped_first': {},
    'chunk': storage.CHUNK,
    'tables': dict.fromkeys(_NAMES, table),
    'arrays': arrays,
    'files': files,
    'raw': [],
    'title': 'alike',
  }
  manifest['checksum'] = columns.checksum(manifest)
  storage.write_json(path / columns.MANIFEST, manifest)


def make_day(path: pathlib.Path, rows: int) -> None:
  """A raw file of rows to append; a tenth of their values are new."""
  rng = np.random.default_rng(1)
  found = {'label': (rng.random(rows) < 0.25).astype(np.int8)}
  for name in _NAMES:
    numbers = ranks(rng, rows) + _VALUES * (rng.random(rows) < 0.1)
    found[name] = np.char.add('w', numbers.astype(str))
  pa_csv.write_csv(pa.table(found), path)


def state(path: pathlib.Path) -> dict[str, tuple[int, int, int]]:
  """Name -> (bytes, time of change, inode) of every file."""
  files = ((p, p.stat()) for p in path.rglob('*') if p.is_file())
  return {str(p.relative_to(path)): (s.st_size, s.st_mtime_ns, s.st_ino) for p, s in files}


def changed(path: pathlib.Path, what: str, run) -> dict:
  """Runs a change; what it took and wrote."""
  before, began, cpu = state(path), time.monotonic(), time.process_time()
  draft = run()
  seconds, cpu = time.monotonic() - began, time.process_time() - cpu
  after = state(path)
  touched = [name for name, is_now in before.items() if after.get(name) != is_now]
  if touched != ['manifest.json']:
    raise RuntimeError(f'{what} touched {touched}.')
  new = {name: size for name, (size, *_) in after.items() if name not in before}
  versioned = {name: size for name, size in new.items() if name.startswith('versions/')}
  return {
    'change': what,
    'seconds': round(seconds, 2),
    'cpu_seconds': round(cpu, 2),
    'new_files': len(new) - len(versioned),
    'new_bytes': sum(new.values()) - sum(versioned.values()),
    'manifest_bytes': after['manifest.json'][0],
    'kept_manifest_bytes': sum(versioned.values()),
    'said': draft.said,
  }


def by_row(path: pathlib.Path, folder: pathlib.Path):
  """Adds a column from a file for each split."""
  rng, files = np.random.default_rng(1), {}
  for split, count in columns.read_manifest(path)['samples'].items():
    files[split] = [folder / f'row_{split}.csv']
    values = np.minimum(1000 ** rng.random(count), 1000).astype(int)
    files[split][0].write_text('\n'.join(['slot', *map(str, values), '']))
  return lambda: adding.by_row(path, schema_lib.Feature('slot'), files)


def by_key(path: pathlib.Path, folder: pathlib.Path):
  """Adds a number for each value of an id."""
  words, _ = columns.open_columns(path).vocabulary('c3')
  file = folder / 'key.csv'
  file.write_text('\n'.join(['c3,age', *(f'{x},{i % 97}' for i, x in enumerate(words)), '']))
  feature = schema_lib.Feature('age', 'numeric')
  return lambda: adding.by_key(path, feature, [file], 'c3', on_missing='missing')


def dear(read: dict[str, np.ndarray]) -> np.ndarray:
  """A function of two columns."""
  return np.where(read['c1'] > 9, read['c1'] + read['c2'], np.nan)


def epoch(path: pathlib.Path, names: tuple[str, ...]) -> dict:
  """Reads train once with these columns; bytes that were read, and how long it took."""
  source, began = columns.open_columns(path), time.monotonic()
  made = batches.Batches(source, 'train', (*names, 'label'), 8192, window=1 << 19)
  for _ in made.epoch(0):
    pass
  found = dict(source.bytes_read)
  if found.keys() != {*names, 'label'}:
    raise RuntimeError(f'{sorted(found)} were read, and {sorted(names)} are wanted.')
  size = sum(found.values()) - found['label']
  return {'columns': len(names), 'bytes': size, 'seconds': round(time.monotonic() - began, 2)}


def measure(folder: pathlib.Path) -> dict:
  """All changes, one after the other."""
  path = folder / 'encoded'
  shutil.rmtree(path, ignore_errors=True)
  path.mkdir(parents=True)
  make(path, _SAMPLES.value)
  make_day(folder / 'day.csv', _SAMPLES.value // 100)
  size = sum(size for size, *_ in state(path).values())
  runs = [changed(path, 'add a column by row', by_row(path, folder))]
  # Of all, every fourth, the new one among them.
  names = columns.open_columns(path).schema.names
  reads = [epoch(path, names[3::4]), epoch(path, names)]
  day = {'train': [folder / 'day.csv']}
  feature = schema_lib.Feature('dear', 'numeric')
  for what, run in (
    ('add a column by key', by_key(path, folder)),
    ('add a function', lambda: adding.by_function(path, feature, ['c1', 'c2'], dear)),
    ('rename', lambda: change.rename(path, 'dear', 'dearer')),
    ('drop two columns', lambda: change.drop(path, ['slot', 'age'])),
    ('append 1% rows', lambda: appending.append(path, day, functions={'dearer': dear})),
  ):
    runs.append(changed(path, what, run))
  began = time.monotonic()
  left = versions.verify(path, lambda *_: None)
  verified = time.monotonic() - began
  began = time.monotonic()
  pruned = versions.prune(path)
  return {
    'rows': _SAMPLES.value,
    'encoded_bytes': size,
    'changes': runs,
    'reads': reads,
    'share_read': round(reads[0]['bytes'] / reads[1]['bytes'], 4),
    'leftovers': len(left),
    'verify_seconds': round(verified, 2),
    'prune_seconds': round(time.monotonic() - began, 2),
    'pruned_bytes': sum(pruned.files.values()),
  }


def table(found: dict) -> str:
  """Markdown: a line per change."""
  header = ('change', 'seconds', 'CPU seconds', 'new files', 'new bytes', 'manifest', 'kept')
  lines = [
    (
      run['change'],
      run['seconds'],
      run['cpu_seconds'],
      run['new_files'],
      f'{run["new_bytes"]:,}',
      f'{run["manifest_bytes"]:,}',
      f'{run["kept_manifest_bytes"]:,}',
    )
    for run in found['changes']
  ]
  return report.table(header, lines)


def caption(found: dict, where: dict) -> str:
  few, all_ = found['reads']
  return (
    f'{found["rows"]:,} rows, 39 columns, {found["encoded_bytes"]:,} bytes. An epoch with '
    f'{few["columns"]} columns reads {few["bytes"]:,} bytes, with {all_["columns"]} '
    f'{all_["bytes"]:,}: a share of {found["share_read"]:.3f}. {where["device"]}, '
    f'{where["cpu_cores"]} cores, load average {found["load_before"]}, {where["date"]}. '
    f'`{common.command("bench.change")}`'
  )


def main() -> None:
  """Measures and writes the result."""
  folder = pathlib.Path(_MADE_IN.value or tempfile.mkdtemp(prefix='bench_change_'))
  load = os.getloadavg()[0]
  found = measure(folder) | {'load_before': round(load, 1)}
  environment = common.environment()
  result = {
    'experiment': 'bench.change',
    'command': common.command('bench.change'),
    'environment': environment,
    **found,
    'table': table(found),
    'caption': caption(found, environment),
  }
  print(f'\n{result["table"]}\n')
  print(json.dumps({k: v for k, v in found.items() if k != 'changes'}, indent=1))
  common.save_bench('change', result)
  if not _MADE_IN.value:
    shutil.rmtree(folder)


if __name__ == '__main__':
  common.run(main)
