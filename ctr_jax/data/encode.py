r"""Raw files -> an encoded data set.

  python -m ctr_jax.data.encode --schema=clicks.toml --data_dir=raw --out=encoded --on_bad_row=skip

The files are loaded, in their order, into an embedded database that lies in a temporary folder and
keeps to a memory limit; then each column is counted, ranked, joined and written by itself. With
--engine=spark the files are read by the workers, many at a time, and Spark counts, ranks and joins;
what is written is the same to the byte.
`ctr_jax.data.schema` says what becomes of missing and of unseen values.
"""

import pathlib
import shutil
import sys
import time
from typing import NamedTuple

import duckdb
import tqdm
from absl import app, flags

from ctr_jax.data import columns, engine, files, ingest, raw, splits, storage, vocabulary, workspace
from ctr_jax.data import schema as schema_lib


class _Job(NamedTuple):
  """What every step of one encoding needs."""

  con: object
  schema: schema_lib.Schema
  plan: raw.Plan
  samples: object
  counts: dict[str, int]
  folder: pathlib.Path
  progress: 'Progress'


def encode(
  schema: schema_lib.Schema,
  data_dir,
  out,
  on_bad_row: str = 'error',
  *,
  engine_name: str = 'duckdb',
  memory: str = '1GB',
  title: str = '',
  progress: bool = True,
) -> columns.Columns:
  """Encodes raw files, or opens what an earlier call with the same schema and files made.

  Args:
    schema: describes them.
    data_dir: folder to which the schema's files are relative.
    out: folder to make, which may be there if it is empty. What is in it appears only when it is
      complete.
    on_bad_row: 'error' or 'skip'.
    engine_name: 'duckdb' or 'spark'; the data set is the same.
    memory: limit for the database, e.g. '1GB'; with Spark for each that reads a file.
    title: how results should name the data; by default the schema's name.
    progress: whether to say on stderr how far it is.

  Returns:
    The encoded data set.
  """
  if on_bad_row not in ('error', 'skip'):
    raise ValueError(f"on_bad_row is 'error' or 'skip', not {on_bad_row!r}.")
  engine.check(engine_name)
  out = pathlib.Path(out)
  paths = files.find(schema, data_dir)
  identity = files.identity(paths, data_dir)
  if out.exists() and not workspace.is_empty(out):
    return _reuse(schema, identity, out, on_bad_row, progress)
  try:
    with workspace.create(out) as folder, engine.quiet(), Progress(progress) as said:
      scratch = folder / 'engine'
      scratch.mkdir()
      with engine.opened(engine_name, scratch, memory) as con:
        manifest = _fill(con, folder, schema, paths, on_bad_row, memory, said)
      shutil.rmtree(scratch)
      manifest |= {'raw': identity, 'title': title or schema.name}
      storage.write_json(folder / columns.MANIFEST, manifest)
  except FileExistsError:
    return _reuse(schema, identity, out, on_bad_row, progress)
  except duckdb.OutOfMemoryException as e:
    raise ValueError(
      f'The database needs more than {memory} of memory; raise --memory. ({e})'
    ) from e
  return columns.open_columns(out)


def _reuse(schema, identity, out, on_bad_row, progress):
  if not (out / columns.MANIFEST).exists():
    raise FileExistsError(
      f'{out} is there and is no encoded data set (it has no {columns.MANIFEST}): remove it or '
      'choose another --out.'
    )
  found = columns.open_columns(out)
  if found.manifest['format'] == columns.CHANGED:
    raise FileExistsError(
      f'{out} holds a data set that was changed since it was encoded (`python -m '
      f'ctr_jax.data.change list {out}` says how): open it as it is, or choose another --out.'
    )
  differs = 'another schema' if found.schema.digest != schema.digest else ''
  differs = differs or ('other raw files' if found.manifest['raw'] != identity else '')
  if on_bad_row == 'error' and found.manifest['skipped']:
    differs = differs or 'these files with malformed rows left out'
  if differs:
    raise FileExistsError(
      f'{out} holds a data set that was encoded from {differs}; remove it or choose another --out.'
    )
  if progress:
    print(f'{out} is already there, encoded from this schema and these files.', file=sys.stderr)
  return found


def _fill(con, folder, schema, paths, on_bad_row, memory, progress):
  """Writes everything but the manifest, which it returns."""
  (folder / 'vocabulary').mkdir()
  plan = raw.make_plan(schema)
  loaded = ingest.load(con, plan, paths, on_bad_row, memory, progress.say)
  samples = splits.samples(con, schema, loaded)
  counts = splits.count(con, samples)
  if not counts['train']:
    raise ValueError(f'The train split of {schema.name!r} has no rows ({counts}).')
  job = _Job(con, schema, plan, samples, counts, folder, progress)
  progress.start(len(schema.features) + 1)
  arrays, tables = _label(job), {}
  for number, (table, features) in enumerate(schema.tables.items()):
    tables[table], made = _table(job, f'ranks_{number}', table, features)
    arrays |= made
  names = sorted(path.relative_to(folder) for path in (folder / 'vocabulary').iterdir())
  manifest = {
    'format': columns.FORMAT,
    'schema': schema.to_dict(),
    'digest': schema.digest,
    'samples': counts,
    'skipped': loaded.skipped,
    'skipped_first': loaded.examples,
    'chunk': storage.CHUNK,
    'tables': tables,
    'arrays': arrays,
    'files': {str(name): storage.digest(folder, str(name)) for name in names},
  }
  return manifest | {'checksum': columns.checksum(manifest)}


def _label(job):
  batches = engine.stream_in_order(job.con, job.samples.select('row', 'part', 'label'))
  pairs = ((batch.column(1).to_numpy(), batch.column(2).to_numpy()) for batch in batches)
  made = _write(job, 'label', pairs, 'float32')
  job.progress.step('label')
  return made


def _table(job, ranks, table, features):
  """Vocabulary and columns of one table: (its part of the manifest, its arrays)."""
  pairs = [(f, _engine_column(job.plan, f)) for f in features]
  kind = features[0].kind
  words = None
  if kind in ('id', 'ids', 'bucket'):
    path = job.folder / 'vocabulary' / f'{table}.parquet'
    words = vocabulary.build(job.con, table, pairs, job.samples, ranks, path)
  arrays = {}
  for feature, column in pairs:
    width = _width(job, feature, column) if feature.kind == 'ids' else 0
    encoded = vocabulary.encode(job.con, feature, column, job.samples, words, width)
    dtype = 'float32' if feature.kind == 'numeric' else 'int32'
    arrays |= _write(job, feature.name, encoded, dtype, width)
    job.progress.step(feature.name)
  if words is None:
    return {'rows': 2 if kind == 'numeric' else features[0].buckets + 1, 'kind': kind}, arrays
  engine.drop(job.con, ranks)
  entry = {'rows': words.rows, 'kept': words.kept, 'cut': words.cut, 'coverage': words.coverage}
  return {**entry, 'kind': kind}, arrays


def _engine_column(plan, feature):
  where = plan.number if feature.kind in ('numeric', 'bucket') else plan.text
  return where[feature.column]


def _width(job, feature, column):
  longest = vocabulary.longest(job.con, feature, column, job.samples)
  return feature.width or max(1, min(longest, schema_lib.MAX_WIDTH))


def _write(job, name, batches, dtype, width=0):
  return storage.write_splits(job.folder, name, job.counts, batches, dtype, width)


class Progress:
  """A bar on a terminal, plain lines elsewhere, nothing when not wanted."""

  def __init__(self, wanted: bool, what: str = 'encode'):
    self._wanted, self._bar, self._what = wanted, None, what
    self._began = time.monotonic()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._bar is not None:
      self._bar.close()

  def say(self, text: str):
    """One line."""
    if self._wanted:
      print(f'{self._what}: {text} ({time.monotonic() - self._began:.1f} s)', file=sys.stderr)

  def start(self, total: int):
    """Announces how many columns there are."""
    self._total, self._done = total, 0
    if self._wanted and sys.stderr.isatty():
      self._bar = tqdm.tqdm(total=total, unit='column', desc=self._what)

  def step(self, name: str):
    """One column is done."""
    self._done += 1
    if self._bar is not None:
      self._bar.set_postfix_str(name, refresh=False)
      self._bar.update()
    else:
      self.say(f'column {self._done}/{self._total} {name}')


def report(encoded: columns.Columns) -> str:
  """A table of what was encoded: rows, kept and cut values, coverage, skipped rows."""
  manifest = encoded.manifest
  samples = ', '.join(f'{count:,} {split}' for split, count in manifest['samples'].items())
  lines = [f'{encoded.title}: {samples}']
  width = max(len('table'), *map(len, manifest['tables']))
  lines.append(f'{"table":{width}} {"rows":>12} {"kept":>12} {"cut":>12} {"coverage":>9}')
  for table, entry in manifest['tables'].items():
    line = f'{table:{width}} {entry["rows"]:>12,} '
    if 'kept' in entry:
      line += f'{entry["kept"]:>12,} {entry["cut"]:>12,} {entry["coverage"]:>9.2%}'
    else:
      line += entry['kind']
    lines.append(line)
  for reason, count in manifest['skipped'].items():
    lines.append(f'skipped {count:,} rows: {reason} (first: {manifest["skipped_first"][reason]})')
  return '\n'.join(lines if manifest['skipped'] else [*lines, 'skipped 0 rows'])


def define_flags():
  """Only for the command line: other programs that import this have a --data_dir of their own."""
  flags.DEFINE_string('schema', None, 'Schema file (TOML), or the name of a known data set.')
  flags.DEFINE_string('data_dir', None, "Folder of the raw files; default: the schema file's.")
  flags.DEFINE_string('out', None, 'Folder to make; it must not exist, or be empty.')
  flags.DEFINE_enum(
    'on_bad_row', 'error', ['error', 'skip'], 'Stop at a malformed row, or count and leave it out.'
  )
  flags.DEFINE_enum(
    'engine', 'duckdb', list(engine.NAMES), 'What counts, ranks and joins; the result is the same.'
  )
  flags.DEFINE_string('memory', '1GB', 'Memory limit of the database; beyond it, it uses the disk.')
  flags.mark_flags_as_required(['schema', 'out'])


def main(argv):
  """Runs from the command line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments {argv[1:]}; every option is a --flag.')
  from ctr_jax.data import datasets

  args = flags.FLAGS
  try:
    schema, folder = datasets.resolve(args.schema, args.data_dir)
    title = datasets.title(schema, folder)
    encoded = encode(
      schema,
      folder,
      args.out,
      args.on_bad_row,
      engine_name=args.engine,
      memory=args.memory,
      title=title,
    )
  except (ValueError, OSError) as e:
    raise SystemExit(f'encode: {e}') from e
  print(report(encoded))


if __name__ == '__main__':
  define_flags()
  app.run(main)
