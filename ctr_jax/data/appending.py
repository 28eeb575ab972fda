"""Rows more for an encoded data set, such as a new day: every column and vocabulary goes on.

Old rows, old chunks and old numbers of values stay as they are (`ctr_jax.data.growth`). Which split
a row goes to is said by whoever appends it, whatever the schema's own rule was. Columns that are a
function of others are computed again; every other column is read from the files, by the raw name
that its feature has.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import ibis

from ctr_jax.data import adding, engine, files, growth, ingest, raw, readers, splits, versions
from ctr_jax.data import schema as schema_lib


def append(
  path,
  rows: Mapping[str, Sequence[Any]],
  *,
  functions: Mapping[str, adding.Function] | None = None,
  min_count: int = 0,
  on_bad_row: str = 'error',
  on_absent: str = 'error',
  columns: Sequence[str] = (),
  memory: str = '1GB',
  progress: bool = True,
  dry_run: bool = False,
) -> versions.Draft:
  """Appends the rows of raw files.

  Args:
    path: of the data set.
    rows: split -> raw files in the form that the schema says, in order.
    functions: column -> its function, for columns that were added as functions (`by_function`).
    min_count: how often a value that a table does not know must be in these rows of train to get a
      number; 0 = as often as its feature says.
    on_bad_row: 'error' or 'skip', as when encoding.
    on_absent: 'error' refuses files without the raw column of some feature; 'missing' lets the
      feature's values be missing in all of the rows, and says so. A column that only some of the
      files have is refused in either case.
    columns: of files without a header; by default as the schema says, which knows no columns that
      were added.
    memory: limit of DuckDB.
    progress: whether to say on stderr how far it is.
    dry_run: do everything and change nothing.

  Returns:
    The version that was made; `said` has what should be known of it.

  Raises:
    ValueError: malformed rows, columns that are absent or that the schema does not know.
    KeyError: a function is not given, or is of no column that is one.
  """
  if on_absent not in ('error', 'missing') or on_bad_row not in ('error', 'skip') or min_count < 0:
    raise ValueError(
      "on_absent is 'error' or 'missing', on_bad_row 'error' or 'skip', min_count not negative; "
      f'got {on_absent!r}, {on_bad_row!r} and {min_count}.'
    )
  paths = _paths(rows)
  what = f'append {", ".join(str(p) for found in paths.values() for p in found)}'
  with adding.opened(path, what, memory, progress, dry_run, False) as (draft, con, said):
    functions = _functions(draft, functions or {})
    schema = _to_read(draft, functions, columns)
    absent = _absent(draft, schema, paths, on_absent)
    read = [f for f in schema.features if f.name not in absent]
    schema = dataclasses.replace(schema, features=tuple(read))
    plan = raw.make_plan(schema)
    loaded = ingest.load(con, plan, paths, on_bad_row, memory, said.say)
    samples = splits.samples(con, schema, loaded)
    counts = splits.count(con, samples)
    samples = samples.mutate(none=ibis.null('string'), nan=ibis.null('float64'))
    job = growth.Job(
      con, draft, samples, counts, growth.leads(draft.manifest), min_count, said.step
    )
    said.start(len(draft.schema.features) + 1)
    _write(job, plan, absent, functions)
    _record(draft, paths, counts, loaded, absent)
  return draft


def _paths(rows):
  unknown = sorted(set(rows) - set(schema_lib.SPLITS))
  if unknown:
    raise ValueError(f'There is no split {unknown[0]!r}; there are {", ".join(schema_lib.SPLITS)}.')
  found = {s: [pathlib.Path(p) for p in rows[s]] for s in schema_lib.SPLITS if rows.get(s)}
  if not found:
    raise ValueError('Name the files to append, for train, valid or test.')
  for path in (p for paths in found.values() for p in paths):
    if not path.is_file():
      raise FileNotFoundError(f'There is no file {path}.')
  files.check_apart(found)
  return found


def _functions(draft, given):
  """Column -> (inputs, function) of the columns that are functions."""
  made = draft.manifest.get('functions', {})
  for name in given:
    if name not in made:
      raise KeyError(f'Column {name!r} of {draft.path} is no function of others: {list(made)} are.')
  for name, how in made.items():
    if name not in given:
      call = f'{how["function"]}({", ".join(how["inputs"].values())})'
      raise KeyError(
        f'Column {name!r} of {draft.path} is {call}: give that function, since none is taken from '
        'a data set.'
      )
  return {name: (how['inputs'], given[name]) for name, how in made.items()}


def _to_read(draft, functions, columns):
  """The schema of the files: rows go where they are sent, and functions are in no file."""
  schema = draft.schema
  features = tuple(f for f in schema.features if f.name not in functions)
  known = [f.column for f in schema.features if f.name in functions]
  known += draft.manifest.get('dropped', [])
  known += [schema.split.column] if schema.split.by == 'time' else []
  if not features:
    raise ValueError(f'Every column of {schema.name!r} is a function of others.')
  if columns and schema.header:
    raise ValueError('The columns are named by the header of the files: leave out --columns.')
  return dataclasses.replace(
    schema,
    features=features,
    files={},
    split=schema_lib.Split(),
    group='',
    ignore=tuple(dict.fromkeys((*schema.ignore, *known))),
    columns=tuple(columns) or schema.columns,
  )


def _absent(draft, schema, paths, on_absent):
  """Features whose raw column is in no file."""
  there = {p: readers.names_in(schema, p) for found in paths.values() for p in found}
  absent = []
  for feature in schema.features:
    lacking = [path for path, names in there.items() if feature.column not in names]
    if not lacking:
      continue
    absent.append(feature.name)
    what = f'{lacking[0]} has no column {feature.column!r}, which feature {feature.name!r} reads'
    if len(lacking) < len(there):
      has = next(path for path in there if path not in lacking)
      raise ValueError(f'{what}, and {has} has it: put it there, or append these files apart.')
    if on_absent == 'error':
      how = ''
      if not schema.header:
        every = dict.fromkeys((*schema.columns, *(f.column for f in schema.features)))
        how = f' and name the columns in their order (such as --columns={",".join(every)})'
      raise ValueError(f'{what}: put it there{how}, or let it be missing (--on_absent=missing).')
  if len(absent) == len(schema.features):
    raise ValueError(f'The files have no column that {draft.path} has.')
  return absent


def _write(job, plan, absent, functions):
  draft = job.draft
  batches = engine.stream_in_order(job.con, job.samples.select('row', 'part', 'label'))
  pairs = ((batch.column(1).to_numpy(), batch.column(2).to_numpy()) for batch in batches)
  growth.write(job, 'label', pairs, 'float32')
  old = dict(draft.manifest['samples'])
  total = {split: old[split] + job.counts[split] for split in old}
  later = collections.deque()
  for table, features in draft.schema.tables.items():
    own = [(f, _column(plan, f, absent)) for f in features if f.name not in functions]
    if own:
      growth.table(job, table, own)
    later.extend(f for f in features if f.name in functions)
  # Inputs may be functions themselves.
  while later:
    feature = later.popleft()
    inputs, function = functions[feature.name]
    if any(other.name in inputs.values() for other in later):
      later.append(feature)
      continue
    source = draft.columns()
    source.manifest['samples'] = total
    ranges = {split: (old[split], total[split]) for split in old}
    rows = adding.computed(source, feature, inputs, function, ranges)
    samples = adding.handed(draft, job.con, rows)
    growth.table(job._replace(samples=samples), feature.table, [(feature, 'value')])
  draft.manifest['samples'] = total


def _column(plan, feature, absent):
  number = feature.kind in ('numeric', 'bucket')
  if feature.name in absent:
    return 'nan' if number else 'none'
  return (plan.number if number else plan.text)[feature.column]


def _record(draft, paths, counts, loaded, absent):
  manifest = draft.manifest
  appended = ', '.join(f'{count:,} {split}' for split, count in counts.items())
  draft.said.insert(0, f'appended {appended}')
  for name in absent:
    draft.said.append(f'{name}: missing in all {sum(counts.values()):,} rows, it is in no file')
  first = dict(loaded.examples)
  for reason, count in loaded.skipped.items():
    draft.said.append(f'skipped {count:,} rows: {reason} (first: {first[reason]})')
  skipped = collections.Counter(manifest['skipped']) + collections.Counter(loaded.skipped)
  manifest['skipped'] = dict(skipped)
  manifest['skipped_first'] = {**first, **manifest.get('skipped_first', {})}
  folder = next(iter(paths.values()))[0].parent
  manifest['raw'] = [*manifest.get('raw', []), *files.identity(paths, folder)]
