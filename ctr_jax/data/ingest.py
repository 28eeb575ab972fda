"""Raw files -> one table in the engine, rows in the files' order, every row checked once.

The engine's table `raw` has a row per well-formed raw row:

  file: number of the file;  bad: 0, or 1 + the number of the check that the row fails
  label: 0 or 1;  time: where the split is by time
  t{i}: text of a column that id, ids and hash features read; null = missing (empty)
  n{i}: number of a column that numeric and bucket features read; null = missing (empty, or 'nan')
"""

import collections
import glob
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import duckdb
import ibis
import pyarrow as pa

from ctr_jax.data import engine, readers
from ctr_jax.data import schema as schema_lib

_LARGEST = 3.4028234e38  # float32's


class Check(NamedTuple):
  """One thing that each row must satisfy."""

  column: str
  reason: str


class Plan(NamedTuple):
  """Which engine column holds which raw column, and what is checked."""

  schema: schema_lib.Schema
  text: dict[str, str]
  number: dict[str, str]
  checks: tuple[Check, ...]


class Loaded(NamedTuple):
  """The raw rows in the engine.

  Attributes:
    raw: the table.
    splits: split (or 'all') -> file numbers, from and up to.
    skipped: reason -> rows that were skipped; where the first one was is in `examples`.
  """

  raw: Any
  splits: dict[str, tuple[int, int]]
  skipped: dict[str, int]
  examples: dict[str, str]


def make_plan(schema: schema_lib.Schema) -> Plan:
  """Lists the columns to load and the checks to make."""
  texts = dict.fromkeys(f.column for f in schema.features if f.kind in ('id', 'ids', 'hash'))
  numbers = dict.fromkeys(f.column for f in schema.features if f.kind in ('numeric', 'bucket'))
  clocks = {f.column for f in schema.features if f.kind == 'bucket' and _is_clock(f)}
  checks = [Check(schema.label, 'label is not 0 or 1')]
  if schema.split.by == 'time':
    checks.append(Check(schema.split.column, 'no time'))
  for column in numbers:
    reason = 'not a time YYMMDDHH' if column in clocks else 'not a number'
    checks.append(Check(column, reason))
  return Plan(
    schema,
    {column: f't{i}' for i, column in enumerate(texts)},
    {column: f'n{i}' for i, column in enumerate(numbers)},
    tuple(checks),
  )


def _is_clock(feature):
  return feature.transform in ('hour', 'weekday', 'weekend')


def load(con, plan: Plan, files, on_bad_row: str, log: Callable[[str], None]) -> Loaded:
  """Reads all files into the engine and checks them.

  Args:
    con: the engine.
    plan: from `make_plan`.
    files: split -> paths.
    on_bad_row: 'error' raises for a malformed row; 'skip' leaves malformed rows out and counts
      them by reason.
    log: told which file is being read.
  """
  layouts = [readers.layout(plan.schema, path) for paths in files.values() for path in paths]
  con.create_table('raw', schema=ibis.schema(_types(plan)))
  skips = _Skips(on_bad_row)
  ends, rows = [], 0
  for number, layout in enumerate(layouts):
    log(f'reading {layout.path}')
    _load_file(con, plan, layout, number, skips)
    ends.append(_count(con))
    if ends[-1] == rows:
      raise ValueError(
        f'{layout.path} has no rows' + (' that can be used.' if skips.counts else '.')
      )
    rows = ends[-1]
  raw = con.table('raw')
  _check(con, plan, raw, layouts, ends, skips)
  bounds = [0, *itertools.accumulate(len(paths) for paths in files.values())]
  splits = dict(zip(files, itertools.pairwise(bounds), strict=True))
  return Loaded(raw, splits, dict(skips.counts), skips.examples)


def _types(plan):
  types = {'file': 'int32', 'bad': 'int16', 'label': 'float32'}
  if plan.schema.split.by == 'time':
    types['time'] = 'float64' if plan.schema.split.type == 'number' else 'string'
  types |= dict.fromkeys(plan.text.values(), 'string')
  return types | dict.fromkeys(plan.number.values(), 'float64')


def _count(con):
  raw = con.table('raw')
  return engine.rows(con, raw.agg(rows=raw.count()))[0]['rows']


class _Skips:
  """Raises for, or counts, malformed rows."""

  def __init__(self, policy):
    self.policy = policy
    self.counts = collections.Counter()
    self.examples = {}

  def bad_in(self, layout):
    """The readers' `on_bad` for one file."""

    def on_bad(line, reason, details):
      where = f'{layout.path}:{line}: {details}'
      if self.policy == 'error':
        raise readers.BadRow(
          f'{where}. Correct the row, or leave such rows out with --on_bad_row=skip.'
        )
      self.add(reason, 1, where)

    return on_bad

  def add(self, reason, count, where):
    self.counts[reason] += count
    self.examples.setdefault(reason, where)


def _load_file(con, plan, layout, number, skips):
  if layout.format not in ('libsvm', 'libffm'):
    try:
      table = readers.scan(con, layout, 'scanned')
      con.insert('raw', _prepare(plan, layout, table, number))
      return
    except (duckdb.InvalidInputException, duckdb.ConversionException) as e:
      if layout.format == 'parquet':
        raise ValueError(f'{layout.path} cannot be read as Parquet: {e}') from e
      # A malformed row: the slow reader below knows where, and what to do about it.
    finally:
      con.con.execute('DROP VIEW IF EXISTS scanned')
  for batch in readers.batches(layout, skips.bad_in(layout)):
    con.con.register('portion', pa.Table.from_batches([batch]))
    con.insert('raw', _prepare(plan, layout, con.table('portion'), number))
    con.con.unregister('portion')


def _prepare(plan, layout, table, number):
  """The rows of `raw` from a file's text columns."""
  schema = plan.schema
  cell = {name: table[f'c{i}'] for i, name in enumerate(layout.names)}
  text, value = dict(cell), dict(cell)
  if layout.format == 'libffm':
    text = {name: column.re_replace(':[^|]*', '') for name, column in cell.items()}
    value = {name: column.re_extract(':([^|]*)$', 1).nullif('') for name, column in cell.items()}
  numbers = {name: value[name].try_cast('float64') for name in plan.number}
  label = cell[schema.label]
  good = [label.isin(['0', '1', '0.0', '1.0'])]
  clicked = label.isin(['1', '1.0']).fill_null(False)
  columns = {'file': ibis.literal(number, 'int32'), 'label': clicked.cast('float32')}
  if schema.split.by == 'time':
    time = cell[schema.split.column]
    if schema.split.type == 'number':
      time = time.try_cast('float64')
      time = time.nullif(float('nan'))
    columns['time'] = time
    good.append(time.notnull())
  clocks = {f.column for f in schema.features if f.kind == 'bucket' and _is_clock(f)}
  for name, x in numbers.items():
    fine = x.isnan() | (x.abs() <= _LARGEST)
    if name in clocks:
      fine = x.isnan() | _is_time(x)
    good.append(value[name].isnull() | fine.fill_null(False))
    columns[plan.number[name]] = ibis.ifelse(x.isnan(), ibis.null('float64'), x)
  columns |= {loaded: text[name] for name, loaded in plan.text.items()}
  # A null condition counts as bad too.
  checks = [(~ok.fill_null(False), i) for i, ok in enumerate(good, 1)]
  columns['bad'] = ibis.cases(*checks, else_=0).cast('int16')
  return table.select(**{name: columns[name] for name in _types(plan)})


def _is_time(x):
  """Whether x is YYMMDDHH."""
  hour, day, month = x % 100, (x / 100).floor() % 100, (x / 10_000).floor() % 100
  whole = (x.floor() == x) & x.between(0, 99_123_123)
  return whole & (hour < 24) & day.between(1, 31) & month.between(1, 12)


def _check(con, plan, raw, layouts, ends, skips):
  """Reports rows whose values are malformed."""
  bad = raw.select('bad', row=raw.rowid()).filter(raw.bad > 0)
  found = bad.group_by('bad').agg(rows=bad.count(), first=bad.row.min())
  found = engine.rows(con, found)
  for entry in sorted(found, key=lambda e: e['first']):
    check = plan.checks[entry['bad'] - 1]
    file = next(i for i, end in enumerate(ends) if entry['first'] < end)
    start = ends[file - 1] if file else 0
    where, value = _locate(con, layouts[file], entry['first'] - start, check.column)
    message = f'{where}: column {check.column!r}: {value!r}: {check.reason}'
    if skips.policy == 'error':
      raise readers.BadRow(
        f'{message}. Correct the row, or leave such rows out with --on_bad_row=skip.'
      )
    skips.add(check.reason, entry['rows'], message)
  if sum(e['rows'] for e in found) == ends[-1]:
    raise ValueError(f'Every row of {plan.schema.name!r} is malformed: {skips.examples}.')


def _locate(con, layout, index, column):
  """(file:line, the cell) of the index-th well-formed row of a file."""
  at = layout.names.index(column)
  if layout.format == 'parquet':
    table = con.read_parquet(glob.escape(str(layout.path))).limit(1, offset=index)
    return f'{layout.path}, row {index}', engine.rows(con, table)[0][column]
  rows = readers.records(layout, lambda *_: None)
  line, fields = next(itertools.islice(rows, index, None))
  return f'{layout.path}:{line}', fields[at]
