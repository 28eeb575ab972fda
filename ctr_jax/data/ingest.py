"""Raw files -> one table in the engine, rows in the files' order, every row checked once.

A file is read by an embedded DuckDB (`ctr_jax.data.raw`) whatever the engine is, so that a text is
the same value on all of them.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from ctr_jax.data import engine, raw, readers, spark_files


class Loaded(NamedTuple):
  """The raw rows in the engine.

  Attributes:
    table: as `ctr_jax.data.raw` says, and `row`: the place in the files' order, from 0.
    splits: split (or 'all') -> file numbers, from and up to.
    skipped: reason -> rows that were skipped; where the first one was is in `examples`.
  """

  table: Any
  splits: dict[str, tuple[int, int]]
  skipped: dict[str, int]
  examples: dict[str, str]


def load(
  con, plan: raw.Plan, files, on_bad_row: str, memory: str, log: Callable[[str], None]
) -> Loaded:
  """Reads all files into the engine and checks them.

  Args:
    con: the engine.
    plan: from `raw.make_plan`.
    files: split -> paths.
    on_bad_row: 'error' raises for a malformed row; 'skip' leaves malformed rows out and counts
      them by reason.
    memory: limit of DuckDB wherever it reads a file.
    log: told which file is being read.
  """
  layouts = [readers.layout(plan.schema, path) for paths in files.values() for path in paths]
  skips = raw.Skips(on_bad_row)
  if con.name == 'duckdb':
    table, ends = _load_in_turn(con, plan, layouts, skips, log)
  else:
    table, ends = spark_files.load(con, plan, layouts, skips, memory, log)
  _check(con, plan, table, layouts, ends, skips)
  bounds = [0, *itertools.accumulate(len(paths) for paths in files.values())]
  splits = dict(zip(files, itertools.pairwise(bounds), strict=True))
  return Loaded(table, splits, dict(skips.counts), skips.examples)


def _load_in_turn(con, plan, layouts, skips, log):
  """(the table, the number of rows up to the end of each file)."""
  raw.create(con, plan)
  ends, rows = [], 0
  for number, layout in enumerate(layouts):
    log(f'reading {layout.path}')
    raw.load_file(con, plan, layout, number, skips)
    ends.append(raw.count(con))
    if ends[-1] == rows:
      skips.refuse_empty(layout)
    rows = ends[-1]
  table = con.table('raw')
  return table.mutate(row=table.rowid()), ends


def _check(con, plan, table, layouts, ends, skips):
  """Reports rows whose values are malformed."""
  bad = table.select('bad', 'row').filter(table.bad > 0)
  found = bad.group_by('bad').agg(rows=bad.count(), first=bad.row.min())
  found = engine.rows(con, found)
  for entry in sorted(found, key=lambda e: e['first']):
    check = plan.checks[entry['bad'] - 1]
    file = next(i for i, end in enumerate(ends) if entry['first'] < end)
    start = ends[file - 1] if file else 0
    where, value = _locate(layouts[file], entry['first'] - start, check.column)
    message = f'{where}: column {check.column!r}: {value!r}: {check.reason}'
    if skips.policy == 'error':
      raise readers.BadRow(
        f'{message}. Correct the row, or leave such rows out with --on_bad_row=skip.'
      )
    skips.add(check.reason, entry['rows'], message)
  if sum(e['rows'] for e in found) == ends[-1]:
    raise ValueError(f'Every row of {plan.schema.name!r} is malformed: {skips.examples}.')


def _locate(layout, index, column):
  """(file:line, the cell) of the index-th well-formed row of a file."""
  if layout.format == 'parquet':
    return f'{layout.path}, row {index}', _parquet_cell(layout.path, index, column)
  rows = readers.records(layout, lambda *_: None)
  line, fields = next(itertools.islice(rows, index, None), (0, None))
  if fields is None:
    raise ValueError(f'{layout.path} has become shorter while it was read. Encode again.')
  return f'{layout.path}:{line}', fields[layout.names.index(column)]


def _parquet_cell(path, index, column):
  with pq.ParquetFile(path) as file:
    for batch in file.iter_batches(engine.BATCH):
      if index < len(batch):
        return batch.column(column)[index].as_py()
      index -= len(batch)
  raise IndexError(f'{path} has become shorter while it was read.')
