"""One column on disk: a TensorStore zarr3 array, compressed, with a checksum in every chunk."""

import asyncio
import hashlib
import json
import os
import pathlib
import re

import numpy as np
import tensorstore as ts

CHUNK = 65_536
# What an absent chunk reads as. No column holds these, so an absent chunk cannot pass for data.
_ABSENT = {'int32': -(2**31), 'float32': '-Infinity'}
_PENDING = 4


def kvstore(root, key: str):
  """Where a column lies: under a folder, or under a URL such as gs://bucket/path."""
  if '://' in str(root):
    return f'{str(root).rstrip("/")}/{key}/'
  return {'driver': 'file', 'path': f'{os.path.abspath(root)}/{key}/'}


def context() -> ts.Context:
  """Encoding syncs nothing: a data set torn by a power cut fails its size checks when opened."""
  return ts.Context({'file_io_sync': False})


class Writer:
  """Writes one column, chunk by chunk, holding a few chunks at most."""

  def __init__(
    self, root, key: str, length: int, dtype: str, width: int, *, chunk: int, lead: int = 0
  ):
    """Creates the array: [lead + length] or, where `width` is given, [lead + length, width].

    The first `lead` rows are zeros that nobody reads: rows that go on where others stop keep the
    places in their chunks that they would have had there.
    """
    self._root, self.key, self._length, self._dtype, self._width = root, key, length, dtype, width
    self._buffer = np.zeros((chunk, *([width] if width else [])), dtype)
    self._lead, self._filled, self._written, self._pending = lead, lead, 0, []
    self._hash = hashlib.sha256()
    shape = [lead + length, *self._buffer.shape[1:]]
    codecs = [
      {'name': 'bytes', 'configuration': {'endian': 'little'}},
      {'name': 'zstd', 'configuration': {'level': 1}},
      {'name': 'crc32c'},
    ]
    metadata = {
      'shape': shape,
      'data_type': dtype,
      'fill_value': _ABSENT[dtype],
      'chunk_grid': {'name': 'regular', 'configuration': {'chunk_shape': list(self._buffer.shape)}},
      'codecs': codecs,
    }
    spec = {'driver': 'zarr3', 'kvstore': kvstore(root, key), 'metadata': metadata}
    self._array = ts.open(spec, create=True, context=context()).result()

  def append(self, values: np.ndarray):
    """Adds rows."""
    values = np.asarray(values, self._dtype)
    while len(values):
      take = min(len(values), len(self._buffer) - self._filled)
      self._buffer[self._filled : self._filled + take] = values[:take]
      self._filled += take
      values = values[take:]
      if self._filled == len(self._buffer):
        self._flush()

  def _flush(self):
    block = self._buffer[: self._filled].copy()
    self._hash.update(block if self._written else block[self._lead :])
    stop = self._written + self._filled
    self._pending.append(self._array[self._written : stop].write(block))
    self._written, self._filled = stop, 0
    while len(self._pending) > _PENDING:
      self._pending.pop(0).result()

  def close(self) -> dict:
    """Finishes the array; returns its part of the manifest."""
    if self._filled and self._length:
      self._flush()
    for pending in self._pending:
      pending.result()
    got = self._written - self._lead if self._length else 0
    if got != self._length:
      raise RuntimeError(f'Column {self.key} got {got} of {self._length} rows.')
    count = -(-(self._lead + self._length) // len(self._buffer)) if self._length else 0
    tail = '/0' if self._width else ''
    names = ['zarr.json', *(f'c/{i}{tail}' for i in range(count))]
    return {
      'dtype': self._dtype,
      'shape': [self._length, *self._buffer.shape[1:]],
      'sha256': self._hash.hexdigest(),
      'files': {name: digest(self._root, f'{self.key}/{name}') for name in names},
    }


def write_splits(
  root,
  name: str,
  counts: dict[str, int],
  batches,
  dtype: str,
  width: int = 0,
  *,
  chunk: int = 0,
  leads: dict[str, int] | None = None,
) -> dict[str, dict]:
  """Parts samples by split and writes a column of each split.

  Args:
    root: folder of the data set.
    name: of the column.
    counts: split -> samples, in the order of the parts' numbers.
    batches: (part of each sample, its values) of consecutive samples.
    dtype: 'int32' or 'float32'.
    width: of multi-valued columns, else 0.
    chunk: rows of a chunk, if not CHUNK.
    leads: split -> `lead` of its writer; splits without samples are then not written.

  Returns:
    '<split>/<name>' -> its part of the manifest.
  """
  writers = {}
  for part, (split, length) in enumerate(counts.items()):
    if length or leads is None:
      lead = (leads or {}).get(split, 0)
      key = f'{split}/{name}'
      writers[part] = Writer(root, key, length, dtype, width, chunk=chunk or CHUNK, lead=lead)
  for parts, encoded in batches:
    for part, writer in writers.items():
      chosen = parts == part
      writer.append(encoded if chosen.all() else encoded[chosen])
  return {writer.key: writer.close() for writer in writers.values()}


def digest(root, name: str) -> list:
  """[size, sha256] of one file of a data set."""
  data = read_bytes(root, name)
  return [len(data), hashlib.sha256(data).hexdigest()]


def read_bytes(root, name: str) -> bytes:
  """One file of a data set; where it is not there, FileNotFoundError names it."""
  if '://' not in str(root):
    return (pathlib.Path(root) / name).read_bytes()
  found = ts.KvStore.open(f'{str(root).rstrip("/")}/').result().read(name).result()
  if found.state != 'value':
    raise FileNotFoundError(f'{root}/{name} is not there.')
  return found.value


class Reader:
  """Reads row ranges of one column, and says which file is at fault when one is."""

  def __init__(self, root, key: str, entry: dict, chunk: int):
    self._root, self._key, self._files, self._chunk = root, key, entry['files'], chunk
    self._absent = np.float32('-inf') if entry['dtype'] == 'float32' else _ABSENT['int32']
    self._two_dimensional = len(entry['shape']) == 2
    spec = {'driver': 'zarr3', 'kvstore': kvstore(root, key)}
    self._array = ts.open(spec, open=True, read=True).result()
    if list(self._array.shape) != entry['shape'] or self._array.dtype.name != entry['dtype']:
      raise ValueError(f'{root}/{key}/zarr.json does not agree with the manifest.')

  def file(self, index: int) -> str:
    """The file of a chunk, within the column's folder."""
    return f'c/{index}/0' if self._two_dimensional else f'c/{index}'

  def size(self, index: int) -> int:
    """Bytes of a chunk's file."""
    return self._files[self.file(index)][0]

  def start(self, index: int) -> ts.Future:
    """Begins to read a chunk."""
    stop = min((index + 1) * self._chunk, self._array.shape[0])
    return self._array[index * self._chunk : stop].read()

  def finish(self, index: int, future: ts.Future) -> np.ndarray:
    """The chunk; TensorStore checks its crc32c, and the fill value gives an absent one away."""
    name = f'{self._root}/{self._key}/{self.file(index)}'
    try:
      values = np.asarray(future.result())
    except (ValueError, OSError, asyncio.CancelledError) as e:
      raise ValueError(
        f'{name} is damaged: its content is not what was encoded. Remove {self._root} and encode '
        f'again. ({str(e).split("[")[0]})'
      ) from e
    if values.flat[0] == self._absent:
      raise ValueError(f'{name} is missing. Remove {self._root} and encode again.')
    return values


def write_json(path: pathlib.Path, tree):
  """Writes JSON that reaches the disk before the call returns."""
  with path.open('w') as file:
    json.dump(tree, file, indent=1)
    file.flush()
    os.fsync(file.fileno())


def disk_is_full(error: BaseException) -> bool:
  """Whether an error of the file system, TensorStore or DuckDB means that no more fits."""
  numbers = re.findall(r"os_error_code='(\d+)'", str(error))
  if isinstance(error, OSError) and error.errno:
    numbers.append(str(error.errno))
  # ENOSPC, EDQUOT, EFBIG.
  words = ('no space left', 'max_temp_directory_size', 'file too large', 'quota exceeded')
  return bool({'28', '122', '27'} & set(numbers)) or any(w in str(error).lower() for w in words)
