"""One raw file -> rows of the table `raw` in an embedded DuckDB, each with what is wrong with it.

file: number of the file;  bad: 0, or 1 + the number of the check that the row fails
label: 0 or 1 (0 where the schema names no label);  time: where the split is by time
t{i}: text of a column that id, ids and hash features read; null = missing (empty)
n{i}: number of a column that numeric and bucket features read; null = missing (empty, or 'nan')
"""

import collections
from typing import NamedTuple

import duckdb
import ibis
import pyarrow as pa

from ctr_jax.data import engine, readers
from ctr_jax.data import schema as schema_lib

_LARGEST = 3.4028234e38  # float32's.


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


def make_plan(schema: schema_lib.Schema) -> Plan:
  """Lists the columns to load and the checks to make."""
  texts = dict.fromkeys(f.column for f in schema.features if f.kind in ('id', 'ids', 'hash'))
  numbers = dict.fromkeys(f.column for f in schema.features if f.kind in ('numeric', 'bucket'))
  clocks = {f.column for f in schema.features if is_clock(f)}
  checks = [Check(schema.label, 'label is not 0 or 1')] if schema.label else []
  if schema.split.by == 'time':
    # Of text only nothing at all is no time.
    dates = ' in numbers (dates as text, as 2026-01-31 10:00, want type = "text" under [split])'
    checks.append(Check(schema.split.column, 'no time' + dates * (schema.split.type == 'number')))
  for column in numbers:
    reason = 'not a time YYMMDDHH' if column in clocks else 'not a number'
    checks.append(Check(column, reason))
  for column, separator in _lists(schema).items():
    checks.append(Check(column, f'an element contains the separator {separator!r}'))
  return Plan(
    schema,
    {column: f't{i}' for i, column in enumerate(texts)},
    {column: f'n{i}' for i, column in enumerate(numbers)},
    tuple(checks),
  )


def _lists(schema):
  return {f.column: f.separator for f in schema.features if f.kind == 'ids'}


def is_clock(feature: schema_lib.Feature) -> bool:
  """Whether a bucket is of a time YYMMDDHH."""
  return feature.kind == 'bucket' and feature.transform in ('hour', 'weekday', 'weekend')


def create(con, plan: Plan):
  """The empty table `raw`."""
  con.create_table('raw', schema=ibis.schema(types(plan)))


def types(plan: Plan) -> dict[str, str]:
  """Columns of `raw` and their types."""
  types = {'file': 'int32', 'bad': 'int16', 'label': 'float32'}
  if plan.schema.split.by == 'time':
    types['time'] = 'float64' if plan.schema.split.type == 'number' else 'string'
  types |= dict.fromkeys(plan.text.values(), 'string')
  return types | dict.fromkeys(plan.number.values(), 'float64')


def count(con) -> int:
  """Rows of `raw`."""
  table = con.table('raw')
  return engine.rows(con, table.agg(rows=table.count()))[0]['rows']


class Skips:
  """Raises for, or counts, malformed rows.

  Attributes:
    policy: 'error' or 'skip'.
    counts: reason -> rows that were skipped.
    examples: reason -> where the first one was.
  """

  def __init__(self, policy: str):
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

  def add(self, reason: str, count: int, where: str):
    """Counts rows, the first of which is at `where`."""
    self.counts[reason] += count
    self.examples.setdefault(reason, where)

  def refuse_empty(self, layout: readers.Layout):
    """Raises for a file of which no row is left."""
    raise ValueError(f'{layout.path} has no rows' + (' that can be used.' if self.counts else '.'))


def load_file(con, plan: Plan, layout: readers.Layout, number: int, skips: Skips):
  """Adds the rows of a file to `raw`.

  Args:
    con: an embedded DuckDB.
    plan: from `make_plan`.
    layout: how the file is read.
    number: of the file.
    skips: told of malformed rows.
  """
  if layout.format not in ('libsvm', 'libffm'):
    try:
      table = readers.scan(con, layout, 'scanned')
      con.insert('raw', _prepare(plan, layout, table, number))
      return
    except (duckdb.InvalidInputException, duckdb.ConversionException) as e:
      if layout.format == 'parquet':
        raise _no_parquet(layout, e) from e
      # A malformed row: the slow reader below knows where, and what to do about it.
    except duckdb.IOException:
      # DuckDB takes no zeros after a gzip stream, with which archives pad; the reader below does.
      if layout.path.suffix != '.gz':
        raise
    except duckdb.Error as e:
      # Of damaged pages, and of no kind of its own.
      if layout.format != 'parquet' or type(e) is not duckdb.Error:
        raise
      raise _no_parquet(layout, e) from e
    finally:
      con.con.execute('DROP VIEW IF EXISTS scanned')
  for batch in readers.batches(layout, skips.bad_in(layout)):
    con.con.register('portion', pa.Table.from_batches([batch]))
    con.insert('raw', _prepare(plan, layout, con.table('portion'), number))
    con.con.unregister('portion')


def _no_parquet(layout, error):
  return ValueError(f'{layout.path} cannot be read as Parquet: {error}')


def _prepare(plan, layout, table, number):
  """The rows of `raw` from a file's text columns."""
  schema = plan.schema
  cell = {name: table[f'c{i}'] for i, name in enumerate(layout.names)}
  text, value = dict(cell), dict(cell)
  if layout.format == 'libffm':
    joined = dict(zip(layout.names, layout.separators, strict=True))
    text = {n: x.re_replace(':[^ ]*', '').replace(' ', joined[n]) for n, x in cell.items()}
    value = {n: x.re_extract(':([^ ]*)$', 1).nullif('') for n, x in cell.items()}
  numbers = {name: _number(value[name]) for name in plan.number}
  good, columns = [], {'file': ibis.literal(number, 'int32'), 'label': ibis.literal(0, 'float32')}
  if schema.label:
    label = cell[schema.label]
    good.append(label.isin(['0', '1', '0.0', '1.0']))
    columns['label'] = label.isin(['1', '1.0']).fill_null(False).cast('float32')
  if schema.split.by == 'time':
    time = cell[schema.split.column]
    if schema.split.type == 'number':
      time = _number(time)
      time = ibis.ifelse(time.isnan() | time.isinf(), ibis.null('float64'), time)
    columns['time'] = time
    good.append(time.notnull())
  clocks = {f.column for f in schema.features if is_clock(f)}
  for name, x in numbers.items():
    fine = x.isnan() | (x.abs() <= _LARGEST)
    if name in clocks:
      fine = x.isnan() | _is_time(x)
    good.append(value[name].isnull() | fine.fill_null(False))
    columns[plan.number[name]] = ibis.ifelse(x.isnan(), ibis.null('float64'), x)
  for name in _lists(schema):
    torn = f'torn{layout.names.index(name)}'
    good.append(~table[torn].fill_null(False) if torn in table.columns else ibis.literal(True))
  columns |= {loaded: text[name] for name, loaded in plan.text.items()}
  # A null condition counts as bad too.
  checks = [(~ok.fill_null(False), i) for i, ok in enumerate(good, 1)]
  columns['bad'] = (ibis.cases(*checks, else_=0) if checks else ibis.literal(0)).cast('int16')
  return table.select(**{name: columns[name] for name in types(plan)})


def _number(text):
  """As float64, null where it is none. DuckDB takes 1_000 for one, which serving does not."""
  return ibis.ifelse(text.contains('_'), ibis.null('float64'), text.try_cast('float64'))


def _is_time(x):
  """Whether x is YYMMDDHH."""
  hour, day, month = x % 100, (x / 100).floor() % 100, (x / 10_000).floor() % 100
  whole = (x.floor() == x) & x.between(0, 99_123_123)
  return whole & (hour < 24) & day.between(1, 31) & month.between(1, 12)
