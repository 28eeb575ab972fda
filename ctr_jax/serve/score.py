r"""Scores the rows of a CSV or Parquet file with an exported model.

  python -m ctr_jax.serve.score --artifact=model --input=rows.parquet --output=scored.csv

The output has one line for each row of the input, in its order: the probability. Columns of the
input that the model does not read are left alone. Without --output, lines go to the terminal.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import os
import pathlib
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm
from absl import app, flags

from ctr_jax.data import delimited
from ctr_jax.data import schema as schema_lib
from ctr_jax.serve import scorer as scorer_lib

Batch = dict[str, Sequence[Any]]


def batches(path: pathlib.Path, schema: schema_lib.Schema, names: Sequence[str], size: int):
  """Yields the named columns of `size` rows of a file at a time.

  Args:
    path: .parquet, or text as the schema says (.csv, .tsv, and these with .gz).
    schema: of the sample: delimiter, quotes, names where there is no header.
    names: columns to read.
    size: rows of a batch.

  Raises:
    ValueError: the file has no such column, or a row of another number of fields.
  """
  if path.suffix == '.parquet':
    return _parquet(path, names, size)
  return _whole(path, _text(path, schema, names, size))


def _parquet(path, names, size) -> Iterator[Batch]:
  import pyarrow.parquet as pq

  from ctr_jax.serve import arrow_values

  with pq.ParquetFile(path) as file:
    _check(path, names, file.schema_arrow.names)
    for batch in file.iter_batches(size, columns=list(names)):
      found = {}
      for name, array in zip(batch.schema.names, batch.columns, strict=True):
        try:
          found[name] = arrow_values.python(array)
        except TypeError as error:
          raise ValueError(
            f'{path}: column {name!r} is of the Arrow type {str(error)[:60]}, whose text is not '
            f'known here. Write it as text, as training read it; taken are {arrow_values.TAKEN}.'
          ) from error
      yield found


def _whole(path, found: Iterator[Batch]) -> Iterator[Batch]:
  try:
    yield from found
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise ValueError(f'{path} is cut short or damaged ({error}). Copy it again.') from error


def _text(path, schema, names, size) -> Iterator[Batch]:
  tsv = schema.format == 'tsv' or '.tsv' in path.suffixes
  quote = schema.quote if schema.quote is not None else ('' if tsv else '"')
  delimiter = schema.delimiter or ('\t' if tsv else ',')
  with contextlib.ExitStack() as stack:
    opened = gzip.open if path.suffix == '.gz' else open
    raw = stack.enter_context(opened(path, 'rb'))
    text = stack.enter_context(io.TextIOWrapper(raw, 'utf-8-sig', newline=''))
    rows = delimited.Rows(text, delimiter, quote)
    header = next(rows, []) if schema.header else list(schema.columns)
    _check(path, names, header)
    place = [header.index(name) for name in names]
    # A blank line is no row, but a missing value where there is one column; as in `data.readers`.
    found = (row or [''] for row in rows if row or len(header) == 1)
    while block := list(itertools.islice(found, size)):
      for row in block:
        while len(row) > len(header) and not row[-1]:
          row.pop()
        if len(row) != len(header):
          raise ValueError(
            f'{path}, up to line {rows.line_num}: a row has {len(row)} fields and not '
            f'{len(header)}: {row[:5]}... Correct it.'
          )
      yield {name: [row[i] for row in block] for name, i in zip(names, place, strict=True)}


def _check(path, names, there):
  missing = [name for name in names if name not in there]
  if missing:
    raise ValueError(
      f'{path} has no column {missing[0]!r}, which the model reads; its columns are '
      f'{", ".join(map(str, there))}.'
    )


def score(
  scorer: scorer_lib.Scorer, path: pathlib.Path, size: int = 4096, progress: bool = True
) -> Iterator[np.ndarray]:
  """Yields the probabilities of a file's rows, a batch at a time; says how far it is on stderr."""
  schema = schema_lib.Schema.from_dict(scorer.manifest['schema'])
  names, done, began = tuple(scorer.columns), 0, time.monotonic()
  with tqdm.tqdm(
    total=_rows(path), unit=' rows', desc='score', disable=not progress or not sys.stderr.isatty()
  ) as bar:
    for batch in batches(path, schema, names, size):
      try:
        found = scorer.predict(batch)
      except scorer_lib.BadInput as error:
        raise ValueError(f'{path}, counted from row {done}: {error}') from error
      done += len(found)
      bar.update(len(found))
      yield found
  if progress:
    seconds = time.monotonic() - began
    print(
      f'score: {done:,} rows in {seconds:.1f} s, {done / seconds:,.0f} a second', file=sys.stderr
    )


def _rows(path):
  """How many rows there are, where the file says so."""
  if path.suffix != '.parquet':
    return None
  import pyarrow.parquet as pq

  return pq.read_metadata(path).num_rows


def write(found: Iterator[np.ndarray], output: pathlib.Path | None) -> None:
  """Writes probabilities as CSV (or Parquet, by the name), or prints them.

  The file appears when all is written; after an error there is none, or what was there before.
  """
  if output is None:
    _write_text(found, sys.stdout)
    return
  if output.exists() and not output.is_file():  # A pipe or a device is not replaced.
    with output.open('w') as file:
      _write_text(found, file)
    return
  output = output.resolve()
  made = output.with_name(f'.{output.name}.partial-{os.getpid()}')
  try:
    if output.suffix == '.parquet':
      _write_parquet(found, made)
    else:
      with made.open('w') as file:
        _write_text(found, file)
    made.replace(output)
  finally:
    made.unlink(missing_ok=True)


def _write_text(found, file):
  file.write('probability\n')
  for batch in found:
    file.writelines(f'{x:.9g}\n' for x in batch.tolist())


def _write_parquet(found, path):
  import pyarrow as pa
  import pyarrow.parquet as pq

  kind = pa.schema([('probability', pa.float32())])
  with pq.ParquetWriter(path, kind) as writer:
    for batch in found:
      writer.write_table(pa.table({'probability': batch}, schema=kind))


def _define_flags():
  flags.DEFINE_string('artifact', None, 'Folder of an exported model.')
  flags.DEFINE_string('input', None, 'CSV, TSV or Parquet file of raw rows.')
  flags.DEFINE_string('output', None, 'CSV or Parquet file to write; default: the terminal.')
  flags.DEFINE_enum('scorer', 'numpy', list(scorer_lib.SCORERS), 'What scores.')
  flags.DEFINE_integer('batch_size', 4096, 'Rows at a time.', lower_bound=1)
  flags.mark_flags_as_required(['artifact', 'input'])


def main(argv: Sequence[str], flags_: Mapping[str, Any] | None = None) -> None:
  """Runs from the command line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments {argv[1:]}; every option is a --flag.')
  args = flags_ or flags.FLAGS
  try:
    opened = scorer_lib.open(args.artifact, args.scorer)
    path, output = pathlib.Path(args.input), pathlib.Path(args.output) if args.output else None
    if output and output.exists() and output.samefile(path):
      raise ValueError(
        f'--output={output} is the input, which it would replace: name another file.'
      )
    write(score(opened, path, args.batch_size), output)
  except (ValueError, OSError, ImportError, csv.Error) as error:
    raise SystemExit(f'score: {error}') from error


if __name__ == '__main__':
  _define_flags()
  app.run(main)
