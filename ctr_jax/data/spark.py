"""What Spark has to be told otherwise than DuckDB: its session, named results, results in order.

No result stands in the driver's memory as a whole. Spark writes it to Parquet files, one for each
of its partitions, and the driver reads them one after another: what was sorted comes in order. They
lie in the folder that `opened` is given, which all machines of a cluster must see under one path.
"""

import contextlib
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

# The session's own setting that says where results go.
_SCRATCH = 'ctr_jax.scratch'
_PACKAGE = pathlib.Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def opened(directory) -> Iterator[Any]:
  """Spark as the environment sets it up, else on this machine.

  A session that is active already lends its cluster and keeps its own tables and settings; one that
  is begun here ends here.

  Args:
    directory: for results and for what is stored meanwhile.
  """
  try:
    import py4j.protocol
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession
  except ImportError as e:
    raise ValueError(
      f'The engine Spark needs `pip install pyspark pandas` and a Java runtime ({e}).'
    ) from e
  running = SparkSession.getActiveSession()
  try:
    session = running.newSession() if running else _begin(SparkSession, directory)
  except (PySparkException, py4j.protocol.Py4JError) as e:
    raise ValueError(
      'Spark did not start. It needs a Java runtime: `java` on the PATH, or the environment '
      f'variable JAVA_HOME. ({_sentence(e)})'
    ) from e
  try:
    session.conf.set(_SCRATCH, str(pathlib.Path(directory).absolute()))
    yield ibis.pyspark.connect(session)
  except (PySparkException, py4j.protocol.Py4JError) as e:
    raise ValueError(
      f'Spark stopped: {_sentence(e)}. Where its memory was not enough, give it more: set '
      'spark.driver.memory and spark.executor.memory in its conf/spark-defaults.conf.'
    ) from e
  finally:
    if running is None:
      session.stop()


def _begin(builder, directory):
  """A new session whose Python workers are this interpreter and find this package."""
  paths = [str(_PACKAGE), *filter(None, [os.environ.get('PYTHONPATH')])]
  chosen = os.environ.get('PYSPARK_PYTHON')
  os.environ.setdefault('PYSPARK_PYTHON', sys.executable)
  try:
    return (
      builder.builder.appName('ctr_jax')
      .config('spark.sql.warehouse.dir', f'{directory}/warehouse')
      .config('spark.sql.session.timeZone', 'UTC')
      .config('spark.ui.enabled', 'false')
      .config('spark.ui.showConsoleProgress', 'false')
      # Else it warns at every vocabulary, whose values are numbered by one task.
      .config('spark.log.level', 'ERROR')
      .config('spark.executorEnv.PYTHONPATH', os.pathsep.join(paths))
      .getOrCreate()
    )
  finally:
    if chosen is None:
      del os.environ['PYSPARK_PYTHON']


def _sentence(error) -> str:
  """The line of a long Java complaint that says what the matter is."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
  telling = [x for x in lines if re.search('OutOfMemory|No space left|quota exceeded', x)]
  return (telling or lines)[0][:500]


def session(con):
  """The session behind an Ibis connection."""
  return con._session


def scratch(con) -> pathlib.Path:
  """The folder that `opened` was given."""
  return pathlib.Path(session(con).conf.get(_SCRATCH))


def frame(con, expression):
  """An Ibis expression as a DataFrame."""
  return session(con).sql(con.compile(expression))


def rows(con, expression) -> list[dict[str, Any]]:
  """The few rows of a small result."""
  return frame(con, expression).toArrow().to_pylist()


def stream(con, expression, size: int) -> Iterator[pa.RecordBatch]:
  """The rows of a result in its order, at most `size` at a time."""
  with tempfile.TemporaryDirectory(dir=scratch(con), prefix='result-') as folder:
    _write(frame(con, expression), f'{folder}/rows')
    for path in _in_order(f'{folder}/rows'):
      yield from pq.ParquetFile(path).iter_batches(size)


def view(con, name: str, expression):
  """Names an expression."""
  frame(con, expression).createOrReplaceTempView(name)
  return con.table(name)


def store(con, name: str, table):
  """Stores an Ibis expression, or an Arrow table, under a name."""
  folder = scratch(con) / name
  if isinstance(table, pa.Table):
    folder.mkdir()
    pq.write_table(table, folder / 'part-0.parquet')
  else:
    _write(frame(con, table), folder)
  return read(con, name, folder)


def read(con, name: str, folder):
  """The Parquet files of a folder, under a name."""
  # Spark takes the name of a folder for a pattern.
  escaped = re.sub(r'([\[\]{}*?\\])', r'\\\1', str(folder))
  session(con).read.parquet(f'file://{escaped}').createOrReplaceTempView(name)
  return con.table(name)


def drop(con, name: str):
  """The opposite of `store`."""
  session(con).catalog.dropTempView(name)
  shutil.rmtree(scratch(con) / name)


def _write(rows_, folder):
  rows_.write.parquet(f'file://{folder}')


def _in_order(folder) -> list[pathlib.Path]:
  """The files of a result: part-PARTITION-...-cNUMBER.snappy.parquet."""

  def place(path):
    partition, number = re.match(r'part-(\d+).*?(?:-c(\d+))?\.', path.name).groups()
    return int(partition), int(number or 0)

  return sorted(pathlib.Path(folder).glob('part-*.parquet'), key=place)
