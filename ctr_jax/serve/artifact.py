r"""An exported model on disk: what lies where, and opening it without trusting it.

  <folder>/manifest.json              what it is, and size and SHA-256 of every other file
  <folder>/tables/<table>/<leaf>.bin  a stored array, compressed as it is, row after row
  <folder>/net/<path>.bin             a parameter
  <folder>/vocabulary/<table>/*.bin   values and their row numbers, see `vocabulary`
  <folder>/lookup/<pair>/*.bin        statistics of pairs of values, see `pairs`
  <folder>/vectors/, cross/           node vectors whose scores are features, likewise
  <folder>/forward.bin                the jax.export program, zlib (only the JAX scorer reads it)
  <folder>/model.onnx                 the ONNX graph over the same arrays, where there is one

Arrays are little-endian and in C order, without any header: row r of a table begins at byte
r · bytes per row, so that `np.memmap` reads the rows that are asked for and no others. A bfloat16
is kept as the upper half of a float32, uint16.

Nothing in an artifact is run by opening it, and nothing outside of the folder is read: a name in
the manifest is a path of plain words, no part of it may be a link, and sizes are compared before
anything is mapped. What `manifest.json` says is protected by its own checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

MANIFEST, FORWARD, ONNX = 'manifest.json', 'forward.bin', 'model.onnx'
FORMAT = 1
DTYPES = ('bfloat16', 'float16', 'float32', 'int32', 'int64', 'uint8', 'uint64')
_LARGEST_MANIFEST = 64 << 20
_BLOCK = 1 << 20
_WORD = re.compile(r'\w[\w.-]*')


class Artifact(NamedTuple):
  """An artifact whose files are as they were written.

  Attributes:
    folder: where it is.
    manifest: what it says of itself.
    version: SHA-256 of the manifest's file.
    arrays: path → memory-mapped, read-only array.
  """

  folder: pathlib.Path
  manifest: dict[str, Any]
  version: str
  arrays: dict[str, np.ndarray]

  def within(self, prefix: str) -> dict[str, np.ndarray]:
    """The arrays below a prefix ('tables/', 'net/'), by the rest of their paths."""
    return {p.removeprefix(prefix): x for p, x in self.arrays.items() if p.startswith(prefix)}

  def dtype(self, path: str) -> str:
    """What an array holds: 'bfloat16' where the file has uint16."""
    return self.manifest['arrays'][path]['dtype']

  def read(self, name: str) -> bytes:
    """All bytes of a file that is no array, compared once more with its checksum."""
    entry = self.manifest['files'].get(name)
    if entry is None:
      raise FileNotFoundError(f'{self.folder} has no {name}: it was exported without it.')
    with _opened(self.folder, name) as file:
      data = file.read(entry['size'] + 1)
    if hashlib.sha256(data).hexdigest() != entry['sha256']:
      raise _damaged(self.folder, name, 'its content is not what was exported')
    return data


def file_of(path: str) -> str:
  """The file that holds an array."""
  return f'{path}.bin'


def itemsize(dtype: str) -> int:
  """Bytes of a value."""
  return 2 if dtype == 'bfloat16' else np.dtype(dtype).itemsize


def stored_dtype(dtype: str) -> np.dtype:
  """How NumPy sees a file's values."""
  return np.dtype('<u2' if dtype == 'bfloat16' else dtype).newbyteorder('<')


def loaded(rows: np.ndarray, dtype: str) -> np.ndarray:
  """Stored values as what decodes compute with: float32 where they are floats."""
  if dtype == 'bfloat16':
    return (rows.astype(np.uint32) << np.uint32(16)).view(np.float32)
  return rows.astype(np.float32, copy=False) if dtype in ('float16', 'float32') else rows


def text_of(manifest: Mapping[str, Any]) -> bytes:
  """The one text of a manifest, its checksum included: any other is refused."""
  content = {key: value for key, value in manifest.items() if key != 'checksum'}
  checksum = hashlib.sha256(_dumped(content)).hexdigest()
  return _dumped(content | {'checksum': checksum})


def _dumped(content):
  return (json.dumps(content, indent=1, sort_keys=True) + '\n').encode()


def open_artifact(folder: str | os.PathLike) -> Artifact:
  """Opens an artifact: every file is read once, and compared with its size and checksum.

  Args:
    folder: what `export.write` made.

  Raises:
    FileNotFoundError: there is no artifact, or a file of it is missing.
    ValueError: a file was changed, added, or exchanged; the sentence names it.
  """
  folder = pathlib.Path(folder)
  manifest, version = _manifest(folder)
  try:
    _check_names(folder, manifest)
  except (AttributeError, KeyError, TypeError):
    raise _damaged(folder, MANIFEST, 'it lacks what an artifact needs') from None
  _check_sizes(folder, manifest)
  arrays = {}
  owners = {file_of(path): path for path in manifest['arrays']}
  for name, entry in manifest['files'].items():
    with _opened(folder, name) as file:
      _check_content(folder, name, entry, file)
      if name in owners:
        # Mapped from the handle that was just checked: the name is not looked up again.
        arrays[owners[name]] = _mapped(file, manifest['arrays'][owners[name]])
  return Artifact(folder, manifest, version, {p: arrays[p] for p in manifest['arrays']})


def _manifest(folder):
  if not folder.is_dir():
    raise FileNotFoundError(f'{folder} is not an exported model: there is no such folder.')
  with _opened(folder, MANIFEST) as file:
    text = file.read(_LARGEST_MANIFEST + 1)
  if len(text) > _LARGEST_MANIFEST:
    raise _damaged(folder, MANIFEST, 'it is too large')
  try:
    manifest = json.loads(text)
    whole = isinstance(manifest, dict) and text_of(manifest) == text
  except (ValueError, RecursionError):
    whole = False
  if not whole:
    raise _damaged(folder, MANIFEST, 'its text is not what was exported')
  if manifest.get('format') != FORMAT:
    raise ValueError(
      f'{folder} has the format {manifest.get("format")}, and this version reads {FORMAT}: export '
      'the model again.'
    )
  return manifest, hashlib.sha256(text).hexdigest()


def _check_names(folder, manifest):
  """Everything that the manifest names is a plain path below the folder, named once."""
  files, arrays = manifest['files'], manifest['arrays']
  for name, entry in files.items():
    if type(entry['size']) is not int or type(entry['sha256']) is not str:
      raise _damaged(folder, MANIFEST, f'the entry of {name!r} is none')
    plain = all(_WORD.fullmatch(part) for part in name.split('/'))
    if not plain or name == MANIFEST:
      raise _damaged(folder, MANIFEST, f'it names {name!r}, which is no file of an artifact')
  if not {file_of(path) for path in arrays} <= set(files):
    raise _damaged(folder, MANIFEST, 'its arrays and its files do not agree')
  for path, entry in arrays.items():
    shape = entry['shape']
    sound = entry['dtype'] in DTYPES and all(type(n) is int and n >= 0 for n in shape)
    if not sound or math.prod(shape) * itemsize(entry['dtype']) != files[file_of(path)]['size']:
      raise _damaged(folder, MANIFEST, f'the size of {path!r} is not that of its file')


def _check_sizes(folder, manifest):
  """Exactly the files of the manifest are there, none is a link, and each has its size.

  There is no folder either but those that they are in.
  """
  found, within = {}, set()
  for name in manifest['files']:
    parts = name.split('/')
    within.update('/'.join(parts[:i]) for i in range(1, len(parts)))
  for place, folders, names in os.walk(folder):
    for name in folders + names:
      path = pathlib.Path(place, name)
      kind, relative = path.lstat(), path.relative_to(folder).as_posix()
      if stat.S_ISREG(kind.st_mode):
        found[relative] = kind.st_size
      elif not stat.S_ISDIR(kind.st_mode):
        raise _damaged(folder, relative, 'it is a link or a device, and artifacts have neither')
      elif relative not in within:
        raise _damaged(folder, relative, 'it is a folder that is not in the manifest')
  for name in sorted(found.keys() - manifest['files'].keys() - {MANIFEST}):
    raise _damaged(folder, name, 'it is not in the manifest')
  for name, entry in manifest['files'].items():
    if name not in found:
      raise FileNotFoundError(f'{folder / name} is missing. {_REMEDY}')
    if found[name] != entry['size']:
      what = f'it has {found[name]} bytes, and {entry["size"]} were exported'
      raise _damaged(folder, name, what)


def _check_content(folder, name, entry, file):
  digest, size = hashlib.sha256(), 0
  while block := file.read(_BLOCK):
    digest.update(block)
    size += len(block)
  if size != entry['size'] or digest.hexdigest() != entry['sha256']:
    raise _damaged(folder, name, 'its content is not what was exported')


def _mapped(file, entry):
  shape, dtype = tuple(entry['shape']), stored_dtype(entry['dtype'])
  if not math.prod(shape):  # Nothing cannot be mapped.
    return np.zeros(shape, dtype)
  # A plain array over the mapping: each index of a memmap makes another memmap, which takes time.
  return np.asarray(np.memmap(file, dtype, 'r', shape=shape))


@contextlib.contextmanager
def _opened(folder, name):
  """A file below `folder`, following no link on the way."""
  held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
  try:
    *parts, last = name.split('/')
    for part in parts:
      inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=held)
      os.close(held)
      held = inner
    # Opening a pipe would wait for a writer.
    file = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=held)
  except FileNotFoundError:
    raise FileNotFoundError(f'{folder / name} is missing. {_REMEDY}') from None
  except OSError as error:
    raise _damaged(folder, name, f'it cannot be opened as a file ({error.strerror})') from None
  finally:
    os.close(held)
  with os.fdopen(file, 'rb') as opened:
    if not stat.S_ISREG(os.fstat(file).st_mode):
      raise _damaged(folder, name, 'it is no file')
    yield opened


_REMEDY = 'Copy the artifact again, or export the model again.'


def _damaged(folder, name, what):
  return ValueError(f'{folder / name} is damaged: {what}. {_REMEDY}')
