"""Raw files as rows of text: CSV, TSV, Parquet, libsvm and libffm; plain, gzip or zstd; globs.

Each text file can be read in two ways. `scan` hands it to DuckDB through Ibis, which is fast and
stops at the first malformed row. `records` walks it in Python, which is slower and knows the line
of every row: it finds the row to report, skips malformed rows when asked to, and reads libsvm.
Both see the same rows in the same order: blank lines are no rows (but a missing value in a file of
one column), and empty fields too many at the end of a row (trailing delimiters) are forgiven; a
space before a field's first quote and spaces after its last are no part of it
(`ctr_jax.data.delimited`).

libsvm: `label index:value ...`. A feature's column is its index; the cell is the value's text; an
index that a row does not name is missing.
libffm: `label field:feature:value ...`. A feature's column is its field; the cell of id, ids and
hash features is the feature's text, that of numeric and bucket features is the value's.

What is several values already (a list in Parquet, an index or a field that a row names twice) is
joined by the separator of the `ids` feature that reads it, else by `|`.
"""

import collections
import csv
import glob
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import ibis
import pyarrow as pa

from ctr_jax.data import delimited, engine, files
from ctr_jax.data import schema as schema_lib

_SUFFIXES = {'.tsv': 'tsv', '.parquet': 'parquet', '.libsvm': 'libsvm', '.svm': 'libsvm'}
_SUFFIXES |= {'.libffm': 'libffm', '.ffm': 'libffm'}
_PAIR = {'libsvm': 'index:value', 'libffm': 'field:feature:value'}


class BadRow(ValueError):
  """A malformed row; the message says where."""


class Layout(NamedTuple):
  """How one file is read. `names` are its columns; engine tables call column i `c{i}`.

  `separators` are what joins several values of a column; '' where its features disagree.
  """

  path: pathlib.Path
  format: str
  delimiter: str
  quote: str
  header: bool
  names: tuple[str, ...]
  separators: tuple[str, ...]


# What to do with a malformed row: called with its line, a reason and the details.
OnBad = Callable[[int, str, str], None]


def layout(schema: schema_lib.Schema, path: pathlib.Path) -> Layout:
  """Finds how a file is read, and checks its columns against the schema."""
  kind, delimiter, quote = _form(schema, path)
  names = names_in(schema, path)
  _check_names(schema, path, names)
  header = schema.header and kind not in ('parquet', 'libsvm', 'libffm')
  return Layout(path, kind, delimiter, quote, header, names, _separators(schema, names))


def _separators(schema, names):
  found = {}
  for f in schema.features:
    if f.kind == 'ids':
      found[f.column] = f.separator if found.get(f.column, f.separator) == f.separator else ''
  return tuple(found.get(name, '|') for name in names)


def _separator(of, i):
  if not of.separators[i]:
    raise ValueError(
      f'{of.path}: column {of.names[i]!r} has several values in a row, and the features that read '
      'it have different separators. Give them one.'
    )
  return of.separators[i]


def _form(schema, path):
  """(format, delimiter, quote) of a file."""
  kind = schema.format or _SUFFIXES.get(files.bare(path).suffix, 'csv')
  delimiter = schema.delimiter or {'tsv': '\t', 'csv': ','}.get(kind, ' ')
  return kind, delimiter, schema.quote if schema.quote is not None else {'csv': '"'}.get(kind, '')


def names_in(schema: schema_lib.Schema, path: pathlib.Path) -> tuple[str, ...]:
  """The raw columns of a file; of libsvm and libffm, which do not say, those of the schema."""
  kind, delimiter, quote = _form(schema, path)
  if path.stat().st_size == 0:
    raise ValueError(f'{path} is empty.')
  if kind == 'parquet':
    return _parquet_names(path)
  if kind in ('libsvm', 'libffm'):
    return tuple(dict.fromkeys((schema.label, *wanted(schema), *schema.ignore)))
  if schema.header:
    _refuse_long(delimiter)
  return _text_names(schema, path, delimiter, quote)


def _refuse_long(delimiter):
  if len(delimiter) > 1:
    raise ValueError(
      f'The delimiter {delimiter!r} has several characters: files with it are read only without a '
      'header and without a malformed row. Put one character in its place.'
    )


def wanted(schema: schema_lib.Schema) -> dict[str, str]:
  """Raw column -> who reads it."""
  columns = {schema.label: 'the label'} if schema.label else {}
  if schema.split.by == 'time':
    columns[schema.split.column] = 'the split by time'
  return {**{f.column: f'feature {f.name!r}' for f in schema.features}, **columns}


def _parquet_names(path):
  import pyarrow.parquet as pq

  try:
    return tuple(pq.read_schema(path).names)
  except (ValueError, OSError) as e:
    # Arrow's complaints about a damaged footer are OSErrors without a number.
    if isinstance(e, OSError) and e.errno is not None:
      raise
    raise ValueError(f'{path} is not a Parquet file: {e}') from e


def _text_names(schema, path, delimiter, quote):
  with files.whole(path), files.open_stream(path) as file:
    first = file.readline()
  if not first:
    raise ValueError(f'{path} is empty.')
  if not schema.header:
    if not schema.columns:
      raise ValueError(f'Schema {schema.name!r} says header = false: it must name the columns.')
    return schema.columns
  text = first.decode('utf-8-sig', 'replace').rstrip('\r\n')
  try:
    return tuple(next(delimited.Rows([text], delimiter, quote)))
  except csv.Error as e:
    raise ValueError(f'{path}: its first line is no header: {e}. Correct it.') from e


def _check_names(schema, path, names):
  readers = wanted(schema)
  twice = [name for name, n in collections.Counter(names).items() if n > 1]
  if twice:
    raise ValueError(f'{path} has two columns named {twice[0]!r}; rename one.')
  for name in readers:
    if name not in names:
      raise ValueError(
        f'{path} has no column {name!r}, which {readers[name]} reads; its columns are '
        f'{_listed(names)}. (A file without a header needs header = false and columns = [...].)'
      )
  unknown = [name for name in names if name not in readers and name not in schema.ignore]
  if unknown and '*' not in schema.ignore:
    raise ValueError(
      f'{path} has columns that schema {schema.name!r} does not know: {_listed(unknown)}. '
      'Make features of them, or add them to `ignore`.'
    )


def _listed(names):
  """Names in a sentence; an empty one, as of an index or after a last delimiter, is seen too."""
  return ', '.join(name if name.strip() else repr(name) for name in names)


def scan(con, of: Layout, name: str):
  """An Ibis table over a file, every column as text. Fails at the first malformed row.

  Of a column of lists, `torn{i}` says whether an element contains the separator.
  """
  if of.format == 'parquet':
    return _scan_parquet(con, of, name)
  if of.path.suffix in ('.gz', '.zst'):
    files.read_through(of.path)
  return con.read_csv(
    # DuckDB takes the name of a file for a pattern.
    glob.escape(str(of.path)),
    table_name=name,
    columns={f'c{i}': 'VARCHAR' for i in range(len(of.names))},
    auto_detect=False,
    hive_partitioning=False,
    header=of.header,
    delim=of.delimiter,
    quote=of.quote,
    escape=of.quote,
  )


def _scan_parquet(con, of, name):
  how = {'hive_partitioning': False, 'binary_as_string': True}
  table = con.read_parquet(glob.escape(str(of.path)), table_name=name, **how)
  columns = {}
  # By place: DuckDB gives names that differ in case alone other ones.
  for i, called in enumerate(table.columns):
    column = table[called]
    # Lists that are all empty have elements of no type, and Ibis does not know these for lists.
    if '"NULL"[]' in str(column.type()):
      column = column.cast('array<string>')
    if column.type().is_array():
      separator = _separator(of, i)
      column = column.map(_as_text)
      columns[f'torn{i}'] = column.filter(lambda x, s=separator: x.contains(s)).length() > 0
      column = column.join(separator)
    columns[f'c{i}'] = _as_text(column).nullif('')
  return table.select(**columns)


def _as_text(value):
  kind = value.type()
  if kind.is_boolean():
    value = value.cast('int8')
  text = value.cast('string')
  if not kind.is_floating():
    return text
  # Not isnan, nor ==: DuckDB answers these by a Parquet file's statistics, which leave NaN out.
  return ibis.ifelse(text.endswith('nan'), ibis.null('string'), text)


def records(of: Layout, on_bad: OnBad) -> Iterator[tuple[int, list[str]]]:
  """Yields (line, fields) of each well-formed row, lines counted from 1; calls `on_bad` else."""
  with files.whole(of.path), files.open_stream(of.path) as file:
    if of.format in ('libsvm', 'libffm'):
      yield from _sparse_records(of, file, on_bad)
    else:
      _refuse_long(of.delimiter)
      yield from _text_records(of, file, on_bad)


def _text_records(of, file, on_bad):
  undecodable = set()
  reader = delimited.Rows(_decode(file, undecodable), of.delimiter, of.quote)
  if of.header:
    next(reader, None)
  while True:
    line = reader.line_num + 1
    try:
      fields = next(reader)
    except StopIteration:
      return
    except csv.Error as e:
      lines = reader.line_num - line
      what = 'a carriage return that ends no line' if 'new-line character' in str(e) else str(e)
      on_bad(line, 'broken quotes', what + (f'; {lines} more lines went with it' if lines else ''))
      continue
    if not fields and len(of.names) > 1:
      continue
    fields = fields or ['']
    while len(fields) > len(of.names) and not fields[-1]:
      fields.pop()
    if undecodable and not undecodable.isdisjoint(range(line, reader.line_num + 1)):
      on_bad(line, 'not UTF-8', f'{of.delimiter.join(fields)[:80]!r} is not UTF-8')
    elif len(fields) != len(of.names):
      row = of.delimiter.join(fields)[:80]
      on_bad(line, 'wrong number of fields', f'{len(fields)} fields, not {len(of.names)}: {row!r}')
    else:
      yield line, fields


def _decode(file, undecodable):
  for number, line in enumerate(file, 1):
    try:
      yield line.decode('utf-8-sig' if number == 1 else 'utf-8')
    except UnicodeDecodeError:
      undecodable.add(number)
      yield line.decode('utf-8', 'replace')


def _sparse_records(of, file, on_bad):
  place = {name: i for i, name in enumerate(of.names)}
  for number, line in enumerate(file, 1):
    # A comment may end the line.
    line = line.partition(b'#')[0]
    try:
      tokens = line.decode().split()
    except UnicodeDecodeError:
      text = line.decode(errors='replace').strip()
      on_bad(number, 'not UTF-8', f'{text[:80]!r} is not UTF-8')
      continue
    if not tokens:
      continue
    fields = [''] * len(of.names)
    fields[0] = tokens[0]
    for token in tokens[1:]:
      name, colon, cell = token.partition(':')
      at = place.get(name)
      if not colon or (of.format == 'libffm' and ':' not in cell):
        on_bad(number, 'malformed pair', f'{token!r} is not {_PAIR[of.format]}')
        break
      if not at:
        what = f'{name!r} is no column of the schema and not in its `ignore`'
        on_bad(number, 'unknown column', what)
        break
      if fields[at]:
        separator = _separator(of, at)
        # Features and values of libffm are told apart later; no token has a space in it.
        cell = f'{fields[at]}{" " if of.format == "libffm" else separator}{cell}'
      fields[at] = cell
    else:
      yield number, fields


def batches(of: Layout, on_bad: OnBad) -> Iterator[pa.RecordBatch]:
  """The records as Arrow batches of text columns c0, c1, ...; empty text is null."""
  rows = (fields for _, fields in records(of, on_bad))
  while block := list(itertools.islice(rows, engine.BATCH)):
    yield pa.record_batch(
      [
        pa.array([cell or None for cell in column], pa.string())
        for column in zip(*block, strict=True)
      ],
      names=[f'c{i}' for i in range(len(of.names))],
    )
