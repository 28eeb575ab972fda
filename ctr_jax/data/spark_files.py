"""Raw files -> the table `raw` on Spark: each file is read by one worker, many at a time.

A worker loads its file as `ctr_jax.data.raw` does everywhere, hands the rows over as a Parquet file
with each row's place in its file, and reports how many there are and what was wrong. The order of
all rows is then known: what comes before a row is its place and the rows of the files before.
"""

import contextlib
import json
import os
import pathlib
import tempfile
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ctr_jax.data import engine, raw, readers, spark


class _Job(NamedTuple):
  """What a worker is told."""

  plan: raw.Plan
  layouts: tuple[readers.Layout, ...]
  policy: str
  memory: str
  folder: str
  cwd: str


def load(
  con,
  plan: raw.Plan,
  layouts: Sequence[readers.Layout],
  skips: raw.Skips,
  memory: str,
  log: Callable[[str], None],
) -> tuple[Any, list[int]]:
  """Reads all files.

  Args:
    con: Spark.
    plan: from `raw.make_plan`.
    layouts: how each file is read.
    skips: told of malformed rows, in the files' order.
    memory: limit of each worker's DuckDB.
    log: told what is being read.

  Returns:
    The table, with `row`, and the number of rows up to the end of each file.
  """
  folder = spark.scratch(con) / 'files'
  folder.mkdir()
  log(f'reading {len(layouts)} files, the first {layouts[0].path}')
  job = _Job(plan, tuple(layouts), skips.policy, memory, str(folder), os.getcwd())
  ends = [0]
  for layout, report in zip(layouts, _reports(con, job), strict=True):
    if report['error']:
      raise ValueError(report['error'])
    for reason, count in report['counts'].items():
      skips.add(reason, count, report['examples'][reason])
    if not report['rows']:
      skips.refuse_empty(layout)
    ends.append(ends[-1] + report['rows'])
  return _numbered(con, plan, folder, ends), ends[1:]


def _numbered(con, plan, folder, ends):
  starts = pa.table(
    {'number': pa.array(range(len(ends) - 1), pa.int32()), 'start': pa.array(ends[:-1], pa.int64())}
  )
  starts = spark.store(con, 'starts', starts)
  rows = spark.read(con, 'files', folder)
  joined = rows.join(starts, rows.file == starts.number)
  columns = [joined[name] for name in raw.types(plan)]
  return spark.view(con, 'raw', joined.select(*columns, row=joined.place + joined.start))


def _reports(con, job) -> list[dict[str, Any]]:
  """What the workers say of the files, in order."""

  def read(batches):
    for batch in batches:
      numbers = batch.column(0)
      said = [json.dumps(_read(job, number)) for number in numbers.to_pylist()]
      yield pa.record_batch([numbers, pa.array(said, pa.string())], names=['id', 'said'])

  count = len(job.layouts)
  numbers = spark.session(con).range(0, count, 1, count)
  found = numbers.mapInArrow(read, 'id long, said string').toArrow().to_pylist()
  return [json.loads(entry['said']) for entry in sorted(found, key=lambda entry: entry['id'])]


def _read(job, number) -> dict[str, Any]:
  """Reads one file, on a worker; an error that a user can act on travels as its sentence."""
  layout, skips = job.layouts[number], raw.Skips(job.policy)
  rows, error = 0, ''
  try:
    with contextlib.chdir(job.cwd), tempfile.TemporaryDirectory() as scratch, engine.quiet():
      # One thread: Spark gives each core a file of its own.
      con = engine.connect(scratch, job.memory, threads=1)
      with contextlib.closing(con.con):
        raw.create(con, job.plan)
        raw.load_file(con, job.plan, layout, number, skips)
        rows = raw.count(con)
        _hand_over(con, pathlib.Path(job.folder), number)
  except FileNotFoundError as e:
    error = f'{e}. Every machine must see the raw files and the folder to make under one path.'
  except duckdb.OutOfMemoryException as e:
    error = f'Reading {layout.path} needs more than {job.memory} of memory; raise --memory. ({e})'
  except (ValueError, OSError) as e:
    error = str(e)
  return {'rows': rows, 'counts': skips.counts, 'examples': skips.examples, 'error': error}


def _hand_over(con, folder, number):
  """Writes `raw` with each row's place; complete or not there, since a file may be read twice."""
  table = con.table('raw')
  # DuckDB's own name for a row's place.
  table = table.mutate(place=table.rowid())
  path = folder / f'.{number}-{uuid.uuid4().hex}'
  kinds = table.schema().to_pyarrow()
  with pq.ParquetWriter(path, kinds) as writer:
    for batch in engine.stream(con, table):
      writer.write_batch(batch.cast(kinds))
  path.rename(folder / f'{number}.parquet')
