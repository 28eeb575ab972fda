"""The engines, spoken to through Ibis expressions: DuckDB, embedded, and Spark for crosses of logs
beyond one machine."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

import ibis
import numpy as np
import pyarrow as pa

BATCH = 65_536
# Each thread has buffers of its own, and the memory limit is for all of them together.
_MOST_THREADS = 8


def connect(directory, memory: str) -> Any:
  """An embedded DuckDB that keeps to `memory` and spills into `directory`."""
  con = ibis.duckdb.connect(
    ':memory:',
    memory_limit=memory,
    temp_directory=str(directory),
    threads=min(os.cpu_count() or 1, _MOST_THREADS),
  )
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
  if name == 'duckdb':
    con = connect(directory, memory)
    with contextlib.closing(con.con):
      yield con
  elif name == 'spark':
    try:
      from pyspark.sql import SparkSession
    except ImportError as e:
      raise ValueError("engine='spark' needs `pip install pyspark` and a Java runtime.") from e
    running = SparkSession.getActiveSession()
    builder = SparkSession.builder.config('spark.sql.warehouse.dir', f'{directory}/warehouse')
    session = running or builder.config('spark.sql.session.timeZone', 'UTC').getOrCreate()
    try:
      yield ibis.pyspark.connect(session)
    finally:
      if running is None:
        session.stop()
  else:
    raise ValueError(f"engine is 'duckdb' or 'spark', not {name!r}.")


@contextlib.contextmanager
def quiet():
  """Silences one deprecation inside Ibis: it still calls DuckDB's older Arrow methods."""
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', r'fetch_(arrow|record).* is deprecated', DeprecationWarning)
    yield


def stream(con, expression) -> Iterator[pa.RecordBatch]:
  """Runs an Ibis expression and yields its rows as Arrow batches.

  In place of `con.to_pyarrow_batches`, which Ibis 12 cannot do on DuckDB 2.
  """
  if con.name != 'duckdb':
    yield from con.to_pyarrow_batches(expression, chunk_size=BATCH)
    return
  relation = con.con.sql(con.compile(expression))
  read = getattr(relation, 'to_arrow_reader', None) or relation.fetch_arrow_reader
  yield from read(BATCH)


def stream_in_order(con, table) -> Iterator[pa.RecordBatch]:
  """As `stream`, of a table that is filtered but not joined, whose first column is `row`.

  Without a join the engine keeps a table's order; that is checked here rather than paid for.
  """
  last = -1
  for batch in stream(con, table):
    rows = batch.column(0).to_numpy()
    if len(rows) and (rows[0] <= last or (np.diff(rows) <= 0).any()):
      raise RuntimeError('The engine lost the order of the rows.')
    last = rows[-1] if len(rows) else last
    yield batch


def rows(con, expression) -> list[dict[str, Any]]:
  """The few rows of a small result. (`to_pyarrow` would import pandas for them.)"""
  return [row for batch in stream(con, expression) for row in batch.to_pylist()]


def drop(con, table: str):
  """Drops an engine table, in plain SQL: Ibis 12 forgets the name with recent sqlglot."""
  if con.name == 'duckdb':
    con.con.execute(f'DROP TABLE "{table}"')
  else:
    con.raw_sql(f'DROP TABLE `{table}`')
