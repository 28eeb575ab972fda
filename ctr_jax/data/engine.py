"""The engines, spoken to through Ibis expressions: DuckDB, embedded, and Spark for logs beyond one
machine. What is asked here is answered alike by both; `ctr_jax.data.spark` knows how Spark does it.
"""

import contextlib
import glob
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

import duckdb
import ibis
import numpy as np
import pyarrow as pa

from ctr_jax.data import spark

NAMES = ('duckdb', 'spark')
BATCH = 65_536
# Each thread has buffers of its own, and the memory limit is for all of them together.
_MOST_THREADS = 8


def connect(directory, memory: str, threads: int = _MOST_THREADS) -> Any:
  """An embedded DuckDB that keeps to `memory` and spills into `directory`."""
  try:
    con = ibis.duckdb.connect(
      ':memory:',
      memory_limit=memory,
      temp_directory=str(directory),
      threads=min(os.cpu_count() or 1, threads),
    )
  except duckdb.ParserException as e:
    raise ValueError(f'{memory!r} is no amount of memory: write it as 4GB or 500MB. ({e})') from e
  con.con.execute('SET enable_progress_bar = false')
  return con


@contextlib.contextmanager
def opened(name: str, directory, memory: str) -> Iterator[Any]:
  """An engine by name: 'duckdb', or 'spark' as the environment sets it up (else on this machine).

  Args:
    name: of the engine.
    directory: for what it writes meanwhile.
    memory: limit of DuckDB.
  """
  check(name)
  if name == 'duckdb':
    con = connect(directory, memory)
    with contextlib.closing(con.con):
      yield con
  else:
    with spark.opened(directory) as con:
      yield con


def check(name: str):
  """Refuses the name of no engine."""
  if name not in NAMES:
    raise ValueError(f'The engine is {" or ".join(map(repr, NAMES))}, not {name!r}.')


@contextlib.contextmanager
def quiet():
  """Silences one deprecation inside Ibis: it still calls DuckDB's older Arrow methods."""
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', r'fetch_(arrow|record).* is deprecated', DeprecationWarning)
    yield


def stream(con, expression) -> Iterator[pa.RecordBatch]:
  """Runs an Ibis expression and yields its rows as Arrow batches.

  In place of `con.to_pyarrow_batches`, which Ibis 12 cannot do on DuckDB 2, and for which it hands
  the driver a whole result of Spark's at once.
  """
  if con.name != 'duckdb':
    yield from spark.stream(con, expression, BATCH)
    return
  relation = con.con.sql(con.compile(expression))
  read = getattr(relation, 'to_arrow_reader', None) or relation.fetch_arrow_reader
  yield from read(BATCH)


def stream_in_order(con, table) -> Iterator[pa.RecordBatch]:
  """As `stream`, of a table that is filtered but not joined, whose first column is `row`.

  Without a join DuckDB keeps a table's order; that is checked here rather than paid for. Spark
  keeps none.
  """
  if con.name != 'duckdb':
    table = table.order_by('row')
  last = -1
  for batch in stream(con, table):
    rows = batch.column(0).to_numpy()
    if len(rows) and (rows[0] <= last or (np.diff(rows) <= 0).any()):
      raise RuntimeError('The engine lost the order of the rows.')
    last = rows[-1] if len(rows) else last
    yield batch


def rows(con, expression) -> list[dict[str, Any]]:
  """The few rows of a small result. (`to_pyarrow` would import pandas for them.)"""
  if con.name != 'duckdb':
    return spark.rows(con, expression)
  return [row for batch in stream(con, expression) for row in batch.to_pylist()]


def view(con, name: str, expression):
  """Names an expression, so that Ibis does not write it out again wherever it is used."""
  if con.name != 'duckdb':
    return spark.view(con, name, expression)
  con.con.execute(f'CREATE VIEW "{name}" AS {con.compile(expression)}')
  return con.table(name)


def store(con, name: str, table):
  """Computes an Ibis expression once (or takes an Arrow table) and keeps it under a name."""
  if con.name != 'duckdb':
    return spark.store(con, name, table)
  # Given an Arrow table, Ibis 12 would drop a view that it has no name for.
  con.create_table(name, ibis.memtable(table) if isinstance(table, pa.Table) else table)
  return con.table(name)


def read_parquet(con, name: str, folder):
  """The Parquet files of a folder as a table."""
  if con.name != 'duckdb':
    return spark.read(con, name, folder)
  files = f'{glob.escape(str(folder))}/*.parquet'
  # A folder is called as its owner likes: what looks like `column=value` in its name is none.
  return con.read_parquet(files, table_name=name, hive_partitioning=False)


def lines(con, table, array: str):
  """A line for each element of a column of arrays, which it stands in for, and its `place`."""
  if con.name != 'duckdb':
    return table.unnest(array, offset='place')
  # DuckDB would join here; two columns of arrays it takes apart side by side in a quarter of the
  # time, which Spark cannot.
  place = ibis.range(table[array].length()).unnest()
  return table.mutate(**{array: table[array].unnest(), 'place': place})


def split(con, column, separator: str):
  """A column of texts as arrays of what is between the separators."""
  if con.name != 'duckdb':
    # Ibis 12 hands Spark the separator as it is, and Spark takes it for a regular expression.
    return column.re_split(re.escape(separator))
  return column.split(separator)


def drop(con, table: str):
  """Drops what was stored, in plain SQL: Ibis 12 forgets the name with recent sqlglot."""
  if con.name == 'duckdb':
    con.con.execute(f'DROP TABLE "{table}"')
  else:
    spark.drop(con, table)
