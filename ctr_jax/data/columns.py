r"""An encoded data set on disk, and the protocol by which everything downstream reads samples.

  <path>/manifest.json             schema, rows, samples, checksums of every file; written last
  <path>/<split>/<column>/         one zarr3 array: zarr.json, c/0, c/1, ...
  <path>/vocabulary/<table>.parquet   value, count; the value of line i has row number i + 1

Columns and rows that come and go make new versions of the manifest (`ctr_jax.data.versions` says
what lies where); each is read as if it had been encoded so.

Check one:  python -m ctr_jax.data.columns PATH
"""

import collections
import hashlib
import json
import pathlib
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ctr_jax.data import schema as schema_lib
from ctr_jax.data import segments, storage

MANIFEST = 'manifest.json'
# Of a data set as it was encoded, and of one that was changed since.
FORMAT, CHANGED = 1, 2
# Kinds of tables whose values are counted; the others have no vocabulary.
COUNTED = ('id', 'ids', 'bucket')


class Source(Protocol):
  """What everything downstream reads: encoded samples, by split and row range.

  Attributes:
    schema: the description of a sample.
    rows: table -> number of rows. Row 0 is missing-or-unseen, then values by frequency.
    checksum: identifies schema and content.
    extras: names that `read` knows beside the features and 'label'.
  """

  schema: schema_lib.Schema
  rows: Mapping[str, int]
  checksum: str
  extras: tuple[str, ...]

  def num_samples(self, split: str) -> int:
    """Samples of 'train', 'valid' or 'test'."""

  def read(self, split: str, names: Sequence[str], start: int, stop: int) -> dict[str, np.ndarray]:
    """Samples start..stop of a split: for each name an array with that many rows.

    id, bucket and hash: int32 [n]; ids: int32 [n, width], padded with -1; numeric: float32 [n],
    NaN = missing; 'label': float32 [n] of 0 and 1; extras as the source says.
    """


class Columns:
  """An encoded data set; a Source. Made by `open_columns`.

  The last chunk read of each column is kept, so that reading in small steps decompresses a chunk
  once; nothing else is.

  Attributes (beyond a Source's):
    path: where it is.
    manifest: everything that was recorded while encoding.
    title: how to name it beside a result.
    bytes_read: column -> bytes of chunk files read so far.
  """

  extras = ()

  def __init__(self, path, manifest):
    self.path = path
    self.manifest = manifest
    self.schema = schema_lib.Schema.from_json(json.dumps(manifest['schema']))
    self.rows = {table: entry['rows'] for table, entry in manifest['tables'].items()}
    self.checksum = manifest['checksum']
    self.title = manifest['title']
    self.bytes_read = collections.Counter()
    self._segments, self._readers, self._kept = {}, {}, {}
    self._lock = threading.Lock()

  def num_samples(self, split: str) -> int:
    """Samples of 'train', 'valid' or 'test'."""
    if split not in schema_lib.SPLITS:
      raise ValueError(f'There is no split {split!r}; there are {", ".join(schema_lib.SPLITS)}.')
    return self.manifest['samples'][split]

  def width(self, name: str) -> int:
    """Elements of an `ids` feature's samples."""
    return self.manifest['arrays'][f'train/{name}']['shape'][1]

  def vocabulary(self, table: str) -> tuple[list[str], np.ndarray]:
    """(values, their counts in train) of rows 1, 2, ... of a table of id, ids or bucket."""
    words, counts = self.words(table)
    return words.to_pylist(), counts

  def words(self, table: str) -> tuple[Any, np.ndarray]:
    """As `vocabulary`, the values as an Arrow array."""
    names = words_of(self.manifest, table)
    if not names or names[0] not in self.manifest['files']:
      raise KeyError(f'Table {table!r} of {self.path} has no vocabulary: it is hashed or numeric.')
    read = self._parquet(names[0])
    words, counts = read['value'], read['count'].to_numpy()
    for name in names[1:]:
      words, counts = _extended(words, counts, self._parquet(name))
    return words, counts

  def lookup(self, name: str) -> dict[str, np.ndarray]:
    """What serving looks up of a statistic: u, v, lift and seen, see `crosses`."""
    read = self._parquet(f'lookup/{name}.parquet')
    return {column: read[column].to_numpy() for column in read.column_names}

  def _parquet(self, name):
    """A table in Arrow, which training and evaluation can do without; its file is checked."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = storage.read_bytes(self.path, name)
    if hashlib.sha256(data).hexdigest() != self.manifest['files'][name][1]:
      raise ValueError(f'{self.path}/{name} is damaged. Remove {self.path} and encode again.')
    # In this thread: others of Arrow's may let go of Python's bytes once the interpreter has ended,
    # and then the process aborts.
    return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)

  def read(self, split: str, names: Sequence[str], start: int, stop: int) -> dict[str, np.ndarray]:
    """Samples start..stop of a split; see `Source.read`."""
    if not 0 <= start <= stop <= self.num_samples(split):
      raise ValueError(
        f'Samples {start}..{stop} of {split} were asked for; it has {self.num_samples(split)}.'
      )
    names, chunk = tuple(dict.fromkeys(names)), self.manifest['chunk']
    pieces = {
      name: list(segments.pieces(self._parts(split, name), chunk, start, stop)) for name in names
    }
    # All reads are under way before the first is waited for.
    begun = {name: [self._begin(split, name, piece) for piece in pieces[name]] for name in names}
    return {name: self._join(split, name, pieces[name], begun[name]) for name in names}

  def _join(self, split, name, pieces, begun):
    parts = []
    for piece, future in zip(pieces, begun, strict=True):
      parts.append(self._end(split, name, piece, future)[piece.start : piece.stop])
    if parts:
      return np.concatenate(parts)
    entry = self.manifest['arrays'][f'{split}/{name}']
    return np.empty((0, *entry['shape'][1:]), entry['dtype'])

  def _parts(self, split, name):
    key = f'{split}/{name}'
    if key not in self._segments:
      entry = self.manifest['arrays'].get(key)
      if entry is None:
        known = ', '.join((*self.schema.names, 'label'))
        raise KeyError(f'{self.path} has no column {name!r}; it has {known}.')
      self._segments[key] = segments.of(key, entry)
    return self._segments[key]

  def _reader(self, split, name, number):
    key = (split, name, number)
    with self._lock:
      if key not in self._readers:
        segment = self._parts(split, name)[number]
        entry = segments.array(self.manifest['arrays'][f'{split}/{name}'], segment)
        reader = storage.Reader(self.path, segment.at, entry, self.manifest['chunk'])
        self._readers[key] = reader
      return self._readers[key]

  def _begin(self, split, name, piece):
    """A future of the piece's chunk, or the chunk itself where it is the one that is kept."""
    reader = self._reader(split, name, piece.segment)
    with self._lock:
      where, values = self._kept.get((split, name), (None, None))
      if where == piece[:2]:
        return values
      self.bytes_read[name] += reader.size(piece.chunk)
    return reader.start(piece.chunk)

  def _end(self, split, name, piece, begun):
    if isinstance(begun, np.ndarray):
      return begun
    values = self._reader(split, name, piece.segment).finish(piece.chunk, begun)
    with self._lock:
      self._kept[split, name] = (piece[:2], values)
    return values

  def verify(self):
    """Reads every file and compares its SHA-256; the error names the first that differs."""
    for name, expected in segments.files(self.manifest).items():
      check(self.path, name, expected)


def check(path, name: str, expected: list):
  """Reads one file of a data set and compares [size, SHA-256]."""
  if storage.digest(path, name) != expected:
    raise ValueError(
      f'{path}/{name} is damaged: its content is not what was encoded. Remove '
      f'{path} and encode again.'
    )


def words_of(manifest, table: str) -> list[str]:
  """The files of a table's vocabulary: the first, and what changes have added to it.

  None of a table without one, whose name may be that which another table had when it was encoded.
  """
  entry = manifest['tables'].get(table, {})
  first = [f'vocabulary/{table}.parquet'] if entry.get('kind') in COUNTED else []
  return entry.get('words', first)


def _extended(words, counts, read):
  """A vocabulary and what a change added: row, value (null: of a row that there was), count."""
  import pyarrow as pa

  rows, added = read['row'].to_numpy(), read['count'].to_numpy()
  new = read['value'].drop_null()
  counts = np.concatenate([counts, np.zeros(len(new), counts.dtype)])
  counts[rows - 1] += added
  return pa.chunked_array([*words.chunks, *new.chunks], new.type), counts


def checksum(manifest) -> str:
  """Of schema and content; the same on every machine that encodes the same files."""
  arrays = {key: entry['sha256'] for key, entry in manifest['arrays'].items()}
  tables = {table: entry['rows'] for table, entry in manifest['tables'].items()}
  content = json.dumps([manifest['schema'], arrays, tables], sort_keys=True)
  return hashlib.sha256(content.encode()).hexdigest()


def open_columns(path, verify: str = 'sizes', version: int | None = None) -> Columns:
  """Opens an encoded data set.

  Args:
    path: its folder (or, read-only and untried, a bucket's URL).
    verify: 'sizes': every file of the manifest is there and has its size (and each chunk's crc32c
      is checked whenever it is read); 'full': every file is read and its SHA-256 compared.
    version: of a data set that was changed: an earlier one; by default the newest.
  """
  if verify not in ('sizes', 'full'):
    raise ValueError(f"verify is 'sizes' or 'full', not {verify!r}.")
  columns = Columns(path, read_manifest(path, version))
  if verify == 'full':
    columns.verify()
  elif '://' not in str(path):
    _check_sizes(pathlib.Path(path), columns.manifest)
  return columns


def read_manifest(path, version: int | None = None) -> dict:
  """The manifest of a data set's newest or of an earlier version."""
  try:
    manifest = _parsed(path, MANIFEST)
  except (FileNotFoundError, NotADirectoryError) as e:
    raise FileNotFoundError(
      f'{path} is not an encoded data set: it has no {MANIFEST}. Make one with '
      '`python -m ctr_jax.data.encode`.'
    ) from e
  if version is not None and version != manifest.get('version', 1):
    try:
      manifest = _parsed(path, f'versions/{version}.json')
    except FileNotFoundError as e:
      raise FileNotFoundError(
        f'{path} has no version {version}: it was pruned, or never made. '
        '`python -m ctr_jax.data.change list` shows which there are.'
      ) from e
  if manifest.get('format') not in (FORMAT, CHANGED):
    raise ValueError(
      f'{path} has format {manifest.get("format")}, and this version reads {FORMAT} and {CHANGED}; '
      'encode again.'
    )
  return manifest


def _parsed(path, name):
  try:
    return json.loads(storage.read_bytes(path, name))
  except ValueError as e:
    raise ValueError(f'{path}/{name} is damaged: {e}.') from e


def _check_sizes(path, manifest):
  for name, (size, _) in segments.files(manifest).items():
    try:
      found = (path / name).stat().st_size
    except FileNotFoundError:
      raise FileNotFoundError(
        f'{path / name} is missing. Remove {path} and encode again.'
      ) from None
    if found != size:
      raise ValueError(
        f'{path / name} has {found} bytes, and {size} were encoded. Remove {path} and encode again.'
      )


def _main(paths):
  for path in paths:
    found = open_columns(path, verify='full')
    print(f'{path}: {found.title}, {found.manifest["samples"]}, all files as encoded')


if __name__ == '__main__':
  _main(sys.argv[1:])
