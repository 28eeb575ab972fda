"""A column more for an encoded data set: from a raw file, or as a function of its columns.

A raw file is joined in one of two ways: by row, a file (or several, in order) for each split that
has samples, with as many rows as the split; or by key, one line for each value of an id feature.
Only DuckDB reads these files: a column is joined on one machine.
"""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import duckdb
import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_jax.data import encode, engine, growth, history, ingest, raw, versions
from ctr_jax.data import schema as schema_lib
from ctr_jax.data import values as values_lib

Function = Callable[[dict[str, np.ndarray]], Any]
_KEY, _VALUE = 't0', 'value'


def by_row(
  path,
  feature: schema_lib.Feature,
  files: Mapping[str, Sequence[Any]],
  *,
  form: Mapping[str, Any] | None = None,
  memory: str = '1GB',
  progress: bool = True,
  dry_run: bool = False,
) -> versions.Draft:
  """Adds a column from files with the rows of the samples, in their order.

  Args:
    path: of the data set.
    feature: the column; `feature.column` is what the files call it.
    files: split -> its files.
    form: `format`, `delimiter`, `quote`, `header` and `columns` of the files, as in a schema.
    memory: limit of DuckDB.
    progress: whether to say on stderr how far it is.
    dry_run: do everything and change nothing.

  Returns:
    The version that was made; `said` has what should be known of it.

  Raises:
    ValueError: another number of rows, a malformed value, a name that is taken.
  """
  paths = {s: [pathlib.Path(p) for p in files[s]] for s in schema_lib.SPLITS if files.get(s)}
  with opened(path, f'add {feature.name} by row', memory, progress, dry_run) as (draft, con, said):
    checked(draft, feature)
    table, ends = _load(con, (feature,), paths, form, memory, said.say)
    have = {split: stop - start for split, (start, stop) in ends.items()}
    counts = draft.manifest['samples']
    for split in schema_lib.SPLITS:
      if have.get(split, 0) != counts[split]:
        raise ValueError(
          f'{" + ".join(map(str, paths.get(split, ["no file"])))} has {have.get(split, 0):,} rows, '
          f'and {split} has {counts[split]:,} samples: a column joined by row needs one for each.'
        )
    part = ibis.cases(
      *((table.row < stop, schema_lib.SPLITS.index(s)) for s, (_, stop) in ends.items()), else_=0
    )
    samples = table.mutate(part=part.cast('int8'))
    _add(draft, con, said, feature, samples, _loaded_as(feature, 0))
  return draft


def by_key(
  path,
  feature: schema_lib.Feature,
  files: Sequence[Any],
  key: str,
  *,
  key_column: str = '',
  on_missing: str = 'error',
  form: Mapping[str, Any] | None = None,
  memory: str = '1GB',
  progress: bool = True,
  dry_run: bool = False,
) -> versions.Draft:
  """Adds a column from a file with a line for each value of an id feature.

  Args:
    path: of the data set.
    feature: the column; `feature.column` is what the file calls it.
    files: that hold the lines.
    key: the id feature.
    key_column: what the file calls it; by default as the data set's schema does.
    on_missing: 'error' raises for samples whose key is in no line, or who have no key (row 0:
      missing, or too rare to have a number); 'missing' makes their value missing and counts them.
    form: as in `by_row`.
    memory: limit of DuckDB.
    progress: as in `by_row`.
    dry_run: as in `by_row`.

  Returns:
    As `by_row`.

  Raises:
    ValueError: a key has two lines, or what `by_row` raises.
    KeyError: there is no such key.
  """
  if on_missing not in ('error', 'missing'):
    raise ValueError(f"on_missing is 'error' or 'missing', not {on_missing!r}.")
  paths = {'train': [pathlib.Path(p) for p in files]}
  what = f'add {feature.name} by {key}'
  with opened(path, what, memory, progress, dry_run) as (draft, con, said):
    there = checked_key(draft, key)
    checked(draft, feature)
    taken = (feature.name, feature.table)
    name = next(x for x in ('key', 'the_key', 'its_key') if x not in taken)
    reader = schema_lib.Feature(name, 'id', column=key_column or there.column)
    table, _ = _load(con, (reader, feature), paths, form, memory, said.say)
    number = 0 if _is_number(feature) else int(feature.column != reader.column)
    lines = table.select('row', key=table[_KEY], **{_VALUE: table[_loaded_as(feature, number)]})
    lines = _unique(draft, con, lines, there, paths['train'])
    keys = handed(draft, con, _keys(draft.columns(), key))
    joined = keys.left_join(lines, keys.key == lines.number)
    joined = joined.select('row', 'part', keys.key, lines.number, lines[_VALUE]).order_by('row')
    samples = engine.store(con, 'joined', joined)
    _count_missing(draft, con, samples, key, on_missing)
    _add(draft, con, said, feature, samples, _VALUE)
  return draft


def by_function(
  path,
  feature: schema_lib.Feature,
  inputs: Sequence[str],
  function: Function,
  *,
  name: str = '',
  memory: str = '1GB',
  progress: bool = True,
  dry_run: bool = False,
) -> versions.Draft:
  """Adds a column that is a function of columns that there are.

  Args:
    path: of the data set.
    feature: the column.
    inputs: features (or 'label') that the function reads.
    function: {input: array, as `Columns.read` gives it} -> a value for each row, by kind of the
      feature: numbers (NaN = missing), or texts and whole numbers ('', None and NaN = missing;
      `ids` are texts with separators). What a masked array masks is missing.
    name: of the function, for those who append rows later.
    memory: limit of DuckDB.
    progress: as in `by_row`.
    dry_run: as in `by_row`.

  Returns:
    As `by_row`.

  Raises:
    KeyError: there is no such input.
    ValueError: the function gives another number of values or another kind of them.
  """
  name = name or f'{function.__module__}:{getattr(function, "__qualname__", "function")}'
  what = f'add {feature.name} = {name}({", ".join(inputs)})'
  with opened(path, what, memory, progress, dry_run) as (draft, con, said):
    checked(draft, feature)
    known(draft, inputs)
    whole = {split: (0, count) for split, count in draft.manifest['samples'].items()}
    called = {name: name for name in inputs}
    samples = handed(draft, con, computed(draft.columns(), feature, called, function, whole))
    _add(draft, con, said, feature, samples, _VALUE)
    made = draft.manifest.get('functions', {})
    draft.manifest['functions'] = {**made, feature.name: {'function': name, 'inputs': called}}
  return draft


@contextlib.contextmanager
def opened(path, what, memory, progress, dry_run, same_samples=True):
  """Yields (draft, DuckDB, progress) of a change that reads with the engine."""
  with (
    versions.change(path, what, same_samples=same_samples, dry_run=dry_run) as draft,
    engine.quiet(),
    encode.Progress(progress, 'change') as said,
  ):
    scratch = draft.folder / 'engine'
    scratch.mkdir(parents=True)
    try:
      with engine.opened('duckdb', scratch, memory) as con:
        yield draft, con, said
    except duckdb.OutOfMemoryException as e:
      raise ValueError(
        f'The database needs more than {memory} of memory; raise --memory. ({e})'
      ) from e
    shutil.rmtree(scratch)


def checked(draft, feature):
  """Adds the feature to the schema, or says why not."""
  schema = draft.schema
  if feature.name in schema.names:
    raise ValueError(
      f'{draft.path} has a column {feature.name!r} already: drop or rename it, or take another '
      'name.'
    )
  if feature.table not in schema.tables and feature.table in draft.manifest['tables']:
    raise ValueError(f'{draft.path} has a table {feature.table!r} already; take another name.')
  schema = dataclasses.replace(schema, features=(*schema.features, feature))
  draft.manifest['schema'] = schema.to_dict()


def known(draft, names: Sequence[str], also: Sequence[str] = ('label',)):
  """Refuses names that are no columns."""
  there = (*draft.schema.names, *also)
  for name in names:
    if f'train/{name}' not in draft.manifest['arrays'] or name not in there:
      raise KeyError(f'{draft.path} has no column {name!r}; it has {", ".join(there)}.')


def checked_key(draft, key: str) -> schema_lib.Feature:
  """The feature that is joined by."""
  known(draft, [key], also=())
  feature = draft.schema.feature(key)
  if feature.kind != 'id':
    raise ValueError(
      f'Column {key!r} is of kind {feature.kind!r}: only an id tells which line of a file is meant.'
    )
  return feature


def _is_number(feature):
  return feature.kind in ('numeric', 'bucket')


def _loaded_as(feature, number):
  return f'{"n" if _is_number(feature) else "t"}{number}'


def _load(con, features, paths, form, memory, log):
  """(rows of the files, split -> its first row and the one after its last)."""
  form = dict(form or {})
  if form.get('format') in ('libsvm', 'libffm'):
    raise ValueError(f'A column is added from csv, tsv or Parquet, not from {form["format"]}.')
  for path in (p for found in paths.values() for p in found):
    if not path.is_file():
      raise FileNotFoundError(f'There is no file {path}.')
  schema = schema_lib.Schema('added', features, label='', ignore=('*',), **form)
  loaded = ingest.load(con, raw.make_plan(schema), paths, 'error', memory, log)
  table, ends, first = loaded.table, {}, 0
  for split, (start, stop) in loaded.splits.items():
    rows = table.filter(table.file.between(start, stop - 1))
    rows = engine.rows(con, rows.agg(rows=rows.count()))[0]['rows']
    ends[split] = (first, first + rows)
    first += rows
  return table, ends


def _unique(draft, con, lines, key, paths):
  """The lines whose key the data set knows: number of the key, value."""
  lines = engine.store(con, 'lines', lines)
  found = lines.filter(lines.key.notnull()).group_by('key').agg(lines=lambda t: t.count())
  twice = found.filter(found.lines > 1)
  twice = engine.rows(con, twice.agg(keys=twice.count(), first=twice.key.min()))[0]
  if twice['keys']:
    raise ValueError(
      f'{" + ".join(map(str, paths))}: key {twice["first"]!r} has more than one line'
      + (f', and so have {twice["keys"] - 1:,} others' if twice['keys'] > 1 else '')
      + '. Leave one line for each key.'
    )
  words, _ = draft.columns().words(key.table)
  rows = np.arange(1, len(words) + 1, dtype=np.int32)
  words = engine.store(con, 'keys', pa.table({'word': words, 'number': rows}))
  matched = lines.inner_join(words, lines.key == words.word).select('number', _VALUE)
  matched = engine.store(con, 'matched', matched)
  used, all_of = (engine.rows(con, t.agg(n=t.count()))[0]['n'] for t in (matched, lines))
  if used < all_of:
    draft.said.append(f'{all_of - used:,} of {all_of:,} lines have a key that no sample has')
  return matched


def _count_missing(draft, con, samples, key, on_missing):
  none = samples.key == 0
  sums = samples.agg(none=none.sum(), absent=(samples.number.isnull() & ~none).sum())
  none, absent = (int(v or 0) for v in engine.rows(con, sums)[0].values())
  if not none + absent:
    return
  said = (
    f'{absent:,} samples have a {key} that is in no line, and {none:,} have none (missing, or too '
    'rare to have a number)'
  )
  if on_missing == 'error':
    raise ValueError(f'{said}. Add the lines, or let the value be missing: --on_missing=missing.')
  draft.said.append(f'{said}: their value is missing')


def _keys(source, key):
  first = 0
  for part, split in enumerate(schema_lib.SPLITS):
    total = source.num_samples(split)
    for start, stop in _blocks(0, total):
      read = source.read(split, [key], start, stop)[key]
      yield _block(first + start, part, {'key': read})
    first += total


def _blocks(start, stop) -> Iterator[tuple[int, int]]:
  for first in range(start, stop, history.BLOCK):
    yield first, min(first + history.BLOCK, stop)


def _block(first, part, values):
  rows = len(next(iter(values.values())))
  numbers = {'row': np.arange(first, first + rows), 'part': np.full(rows, part, np.int8)}
  return pa.table(numbers | values)


def computed(source, feature, inputs, function, ranges) -> Iterator[pa.Table]:
  """What a function gives for ranges of samples, as the engine wants it.

  Args:
    source: of the inputs.
    feature: that is computed.
    inputs: what the function calls its inputs -> the columns.
    function: as in `by_function`.
    ranges: split -> first sample and the one after the last.
  """
  first = 0
  for part, split in enumerate(schema_lib.SPLITS):
    for start, stop in _blocks(*ranges[split]):
      read = source.read(split, list(inputs.values()), start, stop)
      found = function({called: read[name] for called, name in inputs.items()})
      yield _block(first, part, {_VALUE: _checked_values(feature, found, stop - start)})
      first += stop - start


def _checked_values(feature, found, rows) -> pa.Array:
  masked = np.ma.getmaskarray(found)
  values, found = found, np.asarray(found)
  if found.dtype.kind == 'U' and found is not values:
    # NumPy has made the text 'nan' of a NaN among texts.
    found = np.asarray(values, object)
  if found.shape != (rows,):
    raise ValueError(
      f'The function of {feature.name!r} was given {rows} rows and gave {found.shape} values; it '
      f'must give ({rows},).'
    )
  if _is_number(feature):
    if found.dtype.kind not in 'iufb':
      raise ValueError(f'The function of {feature.name!r} gave {found.dtype}, not numbers.')
    numbers = np.where(masked, np.nan, found.astype(np.float64))
    if (np.abs(numbers) > np.finfo(np.float32).max).any():
      raise ValueError(f'The function of {feature.name!r} gave a number beyond 32 bits.')
    wrong = ~(np.isnan(numbers) | values_lib.is_time(numbers))
    if raw.is_clock(feature) and wrong.any():
      first = numbers[np.argmax(wrong)]
      raise ValueError(f'The function of {feature.name!r} gave {first}: not a time YYMMDDHH.')
    return pa.array(numbers, pa.float64(), mask=np.isnan(numbers))
  # Objects may be NumPy's own: their numbers, and their yes and no, are Python's.
  plain = [x.item() if isinstance(x, np.generic) else x for x in found.tolist()]
  texts = [None if x is None or x == '' or x != x else x for x in plain]
  wrong = [x for x in texts if isinstance(x, (float, bytes))]
  if found.dtype.kind == 'f' or wrong:
    what = f'such as {wrong[0]!r}' if wrong else found.dtype
    raise ValueError(
      f'The function of {feature.name!r} gave {what}: values of kind {feature.kind!r} are texts or '
      'whole numbers.'
    )
  # Yes and no are 1 and 0, as in Parquet.
  texts = [x if x is None else str(int(x) if isinstance(x, bool) else x) for x in texts]
  return pa.array(texts, pa.string(), mask=masked)


def handed(draft, con, blocks: Iterator[pa.Table]):
  """Rows in the engine, by way of a Parquet file."""
  scratch = draft.folder / 'engine'
  folder = scratch / f'rows_{len(list(scratch.glob("rows_*")))}'
  folder.mkdir()
  first = next(blocks)
  with pq.ParquetWriter(folder / 'all.parquet', first.schema) as out:
    out.write_table(first)
    for block in blocks:
      out.write_table(block)
  return engine.read_parquet(con, folder.name, folder)


def _add(draft, con, said, feature, samples, column):
  said.start(1)
  job = growth.Job(con, draft, samples, draft.manifest['samples'], None, 0, said.step)
  growth.table(job, feature.table, [(feature, column)])
