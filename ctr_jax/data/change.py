r"""Changes an encoded data set in place: columns and rows come and go, each time as a new version.

  python -m ctr_jax.data.change list   PATH
  python -m ctr_jax.data.change add    PATH age --kind=numeric --file=users.csv --key=user
  python -m ctr_jax.data.change add    PATH slot --train=slots.csv --valid=slots_valid.csv
  python -m ctr_jax.data.change add    PATH dear --kind=numeric --function=mine:dear --inputs=price
  python -m ctr_jax.data.change drop   PATH age slot
  python -m ctr_jax.data.change rename PATH dear expensive
  python -m ctr_jax.data.change append PATH --train=day_9.csv --min_count=5
  python -m ctr_jax.data.change verify PATH
  python -m ctr_jax.data.change prune  PATH --keep=2

A change writes what is new and a manifest, and nothing else; when it dies, the data set is as it
was. Earlier versions can be opened (`columns.open_columns(path, version=n)`) until they are pruned.
With --dry_run everything is read, checked and said, and nothing is changed. DuckDB reads the files;
Spark, which encodes logs beyond one machine, does not append to them: encode each part by itself.

A function is named module:name; it gets {input: array}, as `Columns.read` gives it, and returns a
value for each row. Where rows are appended to a data set with such columns, name the functions
again: --functions=dear=mine:dear. None is ever taken from a data set.
"""

import dataclasses
import importlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import tqdm
from absl import app, flags

from ctr_jax.data import adding, appending, columns, segments, versions
from ctr_jax.data import schema as schema_lib


def drop(path, names: Sequence[str], ungroup: bool = False, dry_run: bool = False):
  """Drops columns; their files stay until the versions that read them are pruned.

  Args:
    path: of the data set.
    names: of the columns.
    ungroup: whether the feature by which GAUC groups may be among them; there is then none.
    dry_run: do everything and change nothing.

  Returns:
    The version that was made (`versions.Draft`).

  Raises:
    KeyError: there is no such column.
    ValueError: no feature would be left, or the group would go unasked.
  """
  names = tuple(dict.fromkeys(names))
  with versions.change(path, f'drop {", ".join(names)}', dry_run=dry_run) as draft:
    adding.known(draft, names, also=())
    schema = draft.schema
    if schema.group in names and not ungroup:
      raise ValueError(
        f'GAUC groups by {schema.group!r}. Drop it with --ungroup, and there is no GAUC any more.'
      )
    left = tuple(f for f in schema.features if f.name not in names)
    if not left:
      raise ValueError(f'No column of {path} would be left.')
    group = '' if schema.group in names else schema.group
    # Files with more rows may go on having what is not wanted any more.
    raw = {f.column for f in schema.features if f.name in names}
    draft.manifest['dropped'] = sorted(raw.union(draft.manifest.get('dropped', ())))
    schema = dataclasses.replace(schema, features=left, group=group)
    draft.manifest['schema'] = schema.to_dict()
    for name in names:
      _forget(draft, name)
    for table in draft.manifest['tables'].keys() - schema.tables.keys():
      files = columns.words_of(draft.manifest, table)
      del draft.manifest['tables'][table]
      left = {x for t in draft.manifest['tables'] for x in columns.words_of(draft.manifest, t)}
      for file in set(files) - left:
        draft.manifest['files'].pop(file, None)
  return draft


def _forget(draft, name):
  manifest = draft.manifest
  for split in schema_lib.SPLITS:
    del manifest['arrays'][f'{split}/{name}']
  functions = manifest.get('functions', {})
  functions.pop(name, None)
  for other in [x for x, how in functions.items() if name in how['inputs'].values()]:
    del functions[other]
    draft.said.append(
      f'{other} was a function of {name}: rows that are appended must have it in their files'
    )


def rename(path, old: str, new: str, dry_run: bool = False):
  """Renames a column, and its table where no other feature reads that.

  Rows that are appended later have it in the raw column that it always had.

  Args:
    path: of the data set.
    old: the column.
    new: its new name.
    dry_run: do everything and change nothing.

  Returns:
    The version that was made (`versions.Draft`).

  Raises:
    KeyError: there is no such column.
    ValueError: the name is taken, or cannot be a name.
  """
  with versions.change(path, f'rename {old} to {new}', dry_run=dry_run) as draft:
    adding.known(draft, [old], also=())
    schema, manifest = draft.schema, draft.manifest
    if new in schema.names:
      raise ValueError(f'{path} has a column {new!r} already: drop or rename it first.')
    feature = schema.feature(old)
    own = feature.table == old and len(schema.tables[old]) == 1
    table = new if own else feature.table
    if table != feature.table and table in schema.tables:
      raise ValueError(f'{path} has a table {new!r} already, which others read; take another name.')
    renamed = dataclasses.replace(feature, name=new, table=table)
    manifest['schema'] = dataclasses.replace(
      schema,
      features=tuple(renamed if f is feature else f for f in schema.features),
      group=new if schema.group == old else schema.group,
    ).to_dict()
    _rename_arrays(manifest, old, new)
    if own:
      words = columns.words_of(manifest, old)
      entry = manifest['tables'][new] = manifest['tables'].pop(old)
      if words:
        entry['words'] = words
    functions = {new if x == old else x: how for x, how in manifest.get('functions', {}).items()}
    for how in functions.values():
      how['inputs'] = {k: new if name == old else name for k, name in how['inputs'].items()}
    manifest['functions'] = functions
  return draft


def _rename_arrays(manifest, old, new):
  for split in schema_lib.SPLITS:
    key = f'{split}/{old}'
    entry = manifest['arrays'].pop(key)
    parts = [
      {k: v for k, v in s._asdict().items() if k != 'first'} for s in segments.of(key, entry)
    ]
    manifest['arrays'][f'{split}/{new}'] = {
      'dtype': entry['dtype'],
      'shape': entry['shape'],
      'sha256': entry['sha256'],
      'segments': parts,
    }


def listing(path) -> str:
  """A table of the versions of a data set, and one of the columns of the newest."""
  newest = columns.read_manifest(path)
  there = versions.known(path)
  history = newest.get('history', [{'version': 1, 'change': 'encoded'}])
  lines = [f'{path}: {newest["title"]}, {_samples(newest)}', '', f'{"version":>7}  change']
  for entry in history:
    gone = '' if entry['version'] in there else ' (pruned)'
    lines.append(f'{entry["version"]:>7}  {entry["change"]}{gone}')
  schema = schema_lib.Schema.from_dict(newest['schema'])
  width = max(len('column'), *map(len, schema.names))
  lines += ['', f'{"column":{width}} {"kind":8} {"rows":>12} {"bytes":>14} {"since":>6}']
  for feature in schema.features:
    rows = newest['tables'][feature.table]['rows']
    found = [
      segment
      for split in schema_lib.SPLITS
      for segment in segments.of(
        f'{split}/{feature.name}', newest['arrays'][f'{split}/{feature.name}']
      )
    ]
    size = sum(size for segment in found for size, _ in segment.files.values())
    made = [int(s.at.split('/')[1]) for s in found if s.at.startswith('changes/')]
    since = 1 if len(made) < len(found) else min(made)
    lines.append(f'{feature.name:{width}} {feature.kind:8} {rows:>12,} {size:>14,} {since:>6}')
  return '\n'.join(lines)


def _samples(manifest):
  return ', '.join(f'{count:,} {split}' for split, count in manifest['samples'].items())


def _verify(path):
  began = time.monotonic()
  with tqdm.tqdm(unit='file', desc='verify', disable=not sys.stderr.isatty()) as bar:

    def step(done, total):
      bar.total = total
      bar.update(done - bar.n)

    left = versions.verify(path, step)
  lines = [f'{path}: all files of versions {_numbers(versions.known(path))} are as written']
  if left:
    size = sum(left.values()) / 2**20
    lines.append(
      f'{len(left):,} files ({size:.1f} MB) are read by no version, such as {next(iter(left))}: '
      'what a killed change or prune left; `prune` removes them'
    )
  print(f'change: verified in {time.monotonic() - began:.1f} s', file=sys.stderr)
  return '\n'.join(lines)


def _numbers(found):
  return ', '.join(map(str, found))


def _prune(path, keep, dry_run):
  gone = versions.prune(path, keep, dry_run)
  would = 'would remove' if dry_run else 'removed'
  size = sum(gone.files.values()) / 2**20
  versions_gone = _numbers(gone.versions) or 'none'
  return f'{path}: {would} versions {versions_gone}, and {len(gone.files):,} files, {size:.1f} MB'


def resolve(name: str) -> adding.Function:
  """The function that module:name is, from the working directory or what is installed."""
  module, _, attribute = name.partition(':')
  if '' not in sys.path:
    sys.path.insert(0, '')
  try:
    return getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError, ValueError) as e:
    raise ValueError(f'There is no function {name!r}, which should be module:name ({e}).') from e


def define_flags():
  """Only for the command line."""
  text, many = flags.DEFINE_string, flags.DEFINE_list
  text('kind', 'id', 'add: kind of the column, as in a schema.')
  text('column', '', 'add: what the file calls the column; default: its name.')
  text('table', '', 'add: embedding table of the column; default: its name.')
  flags.DEFINE_integer(
    'min_count',
    0,
    'add, append: how often a new value must be seen in train to get a number; '
    'default: once, and as the schema says.',
  )
  text('separator', '|', 'add: between the elements of ids.')
  flags.DEFINE_integer('width', 0, 'add: elements kept of ids; default: the longest in train.')
  text('transform', 'log2', 'add: of a bucket.')
  many('boundaries', [], 'add: of a bucket whose transform is boundaries.')
  flags.DEFINE_integer('buckets', 0, 'add: rows of a hash.')
  many('file', [], 'add: files with a line for each value of --key.')
  text('key', '', 'add: id column of the data set that --file is joined by.')
  text('key_column', '', 'add: what --file calls the key.')
  flags.DEFINE_enum(
    'on_missing', 'error', ['error', 'missing'], 'add: where --file has no line for a sample.'
  )
  for split in schema_lib.SPLITS:
    many(split, [], f'add, append: files with rows of {split}, in order.')
  text('function', '', 'add: module:name of a function of --inputs.')
  many('inputs', [], 'add: columns that --function reads.')
  many('functions', [], 'append: column=module:name, for columns that are functions.')
  flags.DEFINE_enum('on_bad_row', 'error', ['error', 'skip'], 'append: malformed rows.')
  flags.DEFINE_enum(
    'on_absent', 'error', ['error', 'missing'], 'append: where files lack a column.'
  )
  text('format', '', 'add: csv, tsv or parquet; default: by the file name.')
  text('delimiter', '', 'add: of the files; default: by the format.')
  flags.DEFINE_bool('header', True, 'add: whether the files begin with column names.')
  many('columns', [], 'add, append: the column names where files have no header.')
  flags.DEFINE_bool('ungroup', False, 'drop: also the column by which GAUC groups.')
  flags.DEFINE_integer('keep', 1, 'prune: how many of the newest versions stay.')
  text('memory', '1GB', 'Memory limit of the database; beyond it, it uses the disk.')
  flags.DEFINE_bool('dry_run', False, 'Read, check and say everything; change nothing.')


def _add(args, path, name) -> versions.Draft:
  feature = schema_lib.Feature(
    name,
    args.kind,
    args.column,
    args.table,
    args.min_count or 1,
    args.separator,
    args.width,
    args.transform,
    tuple(float(x) for x in args.boundaries),
    args.buckets,
  )
  rows = {split: args[split].value for split in schema_lib.SPLITS if args[split].value}
  ways = [bool(args.file), bool(rows), bool(args.function)]
  if sum(ways) != 1 or bool(args.file) != bool(args.key):
    raise ValueError(
      'Say where the column comes from: --file and --key, or --train, --valid and --test, or '
      '--function and --inputs.'
    )
  how: dict[str, Any] = {'memory': args.memory, 'dry_run': args.dry_run}
  if args.function:
    function = resolve(args.function)
    return adding.by_function(path, feature, args.inputs, function, name=args.function, **how)
  form = {'format': args.format, 'delimiter': args.delimiter, 'header': args.header}
  how['form'] = form | {'columns': tuple(args.columns)}
  if rows:
    return adding.by_row(path, feature, rows, **how)
  how |= {'key_column': args.key_column, 'on_missing': args.on_missing}
  return adding.by_key(path, feature, args.file, args.key, **how)


def _append(args, path) -> versions.Draft:
  given = dict(pair.partition('=')[::2] for pair in args.functions)
  return appending.append(
    path,
    {split: args[split].value for split in schema_lib.SPLITS},
    functions={column: resolve(name) for column, name in given.items()},
    min_count=args.min_count,
    on_bad_row=args.on_bad_row,
    on_absent=args.on_absent,
    columns=args.columns,
    memory=args.memory,
    dry_run=args.dry_run,
  )


def _run(args, what, path, names):
  """What to print when a command is done."""
  wanted = {'add': 1, 'rename': 2, 'drop': max(1, len(names))}.get(what, 0)
  if len(names) != wanted:
    raise app.UsageError(f'`{what}` is followed by PATH and {wanted} names, not by {names}.')
  if what == 'list':
    return listing(path)
  if what == 'verify':
    return _verify(path)
  if what == 'prune':
    return _prune(path, args.keep, args.dry_run)
  if what == 'drop':
    draft = drop(path, names, args.ungroup, args.dry_run)
  elif what == 'rename':
    draft = rename(path, *names, args.dry_run)
  else:
    draft = _add(args, path, *names) if what == 'add' else _append(args, path)
  done = 'would be made, and was not' if args.dry_run else 'made'
  return '\n'.join([*draft.said, f'{path}: version {draft.version} {done}'])


def main(argv):
  """Runs from the command line."""
  commands = ('list', 'add', 'drop', 'rename', 'append', 'verify', 'prune')
  if len(argv) < 3 or argv[1] not in commands:
    raise app.UsageError(f'Say one of {", ".join(commands)}, and PATH; --help says more.')
  try:
    print(_run(flags.FLAGS, argv[1], argv[2], argv[3:]))
  except (ValueError, OSError, KeyError) as e:
    # A KeyError's own text is in quotes.
    raise SystemExit(f'change: {e.args[0] if isinstance(e, KeyError) else e}') from e


if __name__ == '__main__':
  define_flags()
  app.run(main)
