r"""Deltas on disk: the rows that changed between two steps, each delta bound to the one before.

  <folder>/newest.json                    names the newest delta
  <folder>/delta-<from>-<to>/
    manifest.json                         what it is, what it follows, and size and SHA-256 of files
    rows/<leaf>.bin                       row numbers (int32, ascending), the rows, their slots
    whole.bin                             net, optimizer and all else that is not by row

All is little-endian and without any header; where an array lies in a file follows from its entry
in the manifest. A delta appears whole and on the disk, or not at all. Its manifest has the mark of
what it follows: of a delta the SHA-256 of its manifest, of a full checkpoint the SHA-256 of what is
not by row (`mark_of`). So a delta that is missing, changed or out of its place is found and named.
The newest one, which none follows, is named by `newest.json`.

NumPy only: nothing here knows of jax.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ctr_jax.data import folders

MANIFEST, WHOLE, NEWEST = 'manifest.json', 'whole.bin', 'newest.json'
FORMAT = 1
_NAME = re.compile(r'delta-(\d+)-(\d+)')
_BLOCK = 1 << 22


class Rows(NamedTuple):
  """What became of a leaf's rows.

  Attributes:
    rows: int32 [n], ascending.
    values: [n, ...], as they are stored.
    slots: slot → [n, ...].
  """

  rows: np.ndarray
  values: np.ndarray
  slots: dict[str, np.ndarray]


class Before(NamedTuple):
  """What a delta follows: its name, its step, its mark."""

  name: str
  step: int
  mark: str


class Delta(NamedTuple):
  """A delta whose files are as they were written.

  Attributes:
    folder: where it is.
    manifest: what it says of itself.
    mark: SHA-256 of the manifest's file.
  """

  folder: pathlib.Path
  manifest: dict[str, Any]
  mark: str

  @property
  def end(self) -> Before:
    """As what the next one follows."""
    return Before(self.folder.name, self.manifest['to'], self.mark)


def full(step: int, mark: str) -> Before:
  """A full checkpoint, as what a delta follows."""
  return Before(f'full-{step}', step, mark)


def mark_of(whole: Mapping[str, np.ndarray]) -> str:
  """SHA-256 of named arrays."""
  digest = hashlib.sha256()
  for name, array in whole.items():
    digest.update(_dumped([name, *_described(array)]))
    for block in _blocks(array):
      digest.update(block)
  return digest.hexdigest()


def write(
  folder: pathlib.Path,
  step: int,
  before: Before,
  position: Mapping[str, Any],
  parts: Iterable[tuple[str, Rows]],
  whole: Mapping[str, np.ndarray],
) -> Before:
  """Writes the delta from `before` to `step`; returns what the next one follows.

  Args:
    folder: of all deltas.
    step: that it leads to.
    before: what it follows.
    position: plain JSON.
    parts: path of a leaf → its rows that changed.
    whole: name → array, of what is not by row.
  """
  name = f'delta-{before.step}-{step}'
  manifest = {'format': FORMAT, 'from': before.step, 'to': step, 'position': dict(position)}
  manifest |= {'follows': before.name, 'follows_mark': before.mark, 'rows': {}, 'files': {}}
  with folders.folder(folder / name) as made:
    for path, found in parts:
      file = _file(path)
      slots = [found.slots[slot] for slot in sorted(found.slots)]
      blocks = (b for x in (found.rows, found.values, *slots) for b in _blocks(x))
      manifest['files'][file] = folders.file(made, file, blocks)
      manifest['rows'][path] = {
        'rows': _described(found.rows),
        'values': _described(found.values),
        'slots': {slot: _described(x) for slot, x in sorted(found.slots.items())},
      }
    blocks = (b for x in whole.values() for b in _blocks(x))
    manifest['files'][WHOLE] = folders.file(made, WHOLE, blocks)
    manifest['whole'] = {key: _described(x) for key, x in whole.items()}
    text = _text(manifest)
    folders.file(made, MANIFEST, [text])
  folders.replace(folder / NEWEST, _dumped({'newest': name}))
  return Before(name, step, hashlib.sha256(text).hexdigest())


def names(folder: pathlib.Path) -> list[tuple[int, int, str]]:
  """(from, to, name) of the deltas in a folder, in order; empty where there is none."""
  listed = os.listdir(folder) if folder.is_dir() else []
  matched = [match for match in map(_NAME.fullmatch, listed) if match]
  return sorted((int(m.group(1)), int(m.group(2)), m.group()) for m in matched)


def newest_step(folder: pathlib.Path) -> int:
  """The last step that deltas lead to, or led to before one was lost; −1 where there are none."""
  newest = _newest(folder)
  led = [int(_NAME.fullmatch(newest).group(2))] if newest else []
  return max([to for _, to, _ in names(folder)] + led, default=-1)


def chain(folder: pathlib.Path, base: Before) -> list[Delta]:
  """The deltas that lead on from a full checkpoint, every file of them compared with its checksum.

  Deltas up to its step are of the time before it, and are passed over.

  Raises:
    FileNotFoundError: a delta, or a file of one, is missing.
    ValueError: one is damaged, or is not in its place.
  """
  found = [name for _, to, name in names(folder) if to > base.step]
  newest = _newest(folder)
  if newest and int(_NAME.fullmatch(newest).group(2)) > base.step and newest not in found:
    raise _missing(folder / newest, ': it was the newest')
  deltas, before = [], base
  for name in found:
    delta = _opened(folder / name)
    _check_place(delta, before)
    deltas, before = [*deltas, delta], delta.end
  return deltas


def rows(delta: Delta) -> Iterable[tuple[str, Rows]]:
  """Yields (path of a leaf, what became of its rows); the arrays are read-only, mapped."""
  for path, entry in delta.manifest['rows'].items():
    slots = entry['slots']
    described = [entry['rows'], entry['values'], *slots.values()]
    here, values, *rest = _mapped(delta.folder / _file(path), described)
    yield path, Rows(here, values, dict(zip(slots, rest, strict=True)))


def moved(deltas: Iterable[Delta]) -> dict[str, np.ndarray]:
  """Path of a leaf → its rows that changed in any of some deltas, int32, ascending."""
  found: dict[str, np.ndarray] = {}
  for delta in deltas:
    for path, x in rows(delta):
      found[path] = np.union1d(found[path], x.rows) if path in found else np.array(x.rows)
  return found


def whole(delta: Delta) -> dict[str, np.ndarray]:
  """Name → array, of what is not by row."""
  entries = delta.manifest['whole']
  return dict(zip(entries, _mapped(delta.folder / WHOLE, entries.values()), strict=True))


def drop(folder: pathlib.Path, step: int) -> None:
  """Removes the deltas up to the step of a full checkpoint, and what was never completed."""
  left = [to for _, to, _ in names(folder) if to > step]
  for _, to, name in names(folder):
    if to <= step:
      shutil.rmtree(folder / name)
  for partial in folder.glob('.*.partial*'):
    shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
  if not left and folder.is_dir():
    (folder / NEWEST).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # Somebody keeps something else in it.
      folder.rmdir()


def _file(path):
  return f'rows/{path}.bin'


def _described(array):
  return [array.dtype.name, list(array.shape)]


def _blocks(array):
  flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
  for start in range(0, len(flat), _BLOCK):
    yield flat[start : start + _BLOCK]


def _dumped(content):
  return (json.dumps(content, indent=1, sort_keys=True, allow_nan=True) + '\n').encode()


def _text(manifest):
  """The one text of a manifest, its own checksum included. Keys are kept in their order."""
  content = {key: value for key, value in manifest.items() if key != 'checksum'}
  checksum = hashlib.sha256(json.dumps(content).encode()).hexdigest()
  return (json.dumps(content | {'checksum': checksum}, indent=1) + '\n').encode()


def _newest(folder):
  path = folder / NEWEST
  if not path.exists():
    return None
  try:
    name = json.loads(path.read_bytes())['newest']
    whole = path.read_bytes() == _dumped({'newest': name}) and _NAME.fullmatch(name)
  except (ValueError, KeyError, TypeError):
    whole = False
  if not whole:
    raise _damaged(path, 'it names no delta')
  return name


def _opened(folder):
  manifest, text = _manifest(folder)
  files = manifest['files']
  found = {p.relative_to(folder).as_posix() for p in folder.rglob('*') if not p.is_dir()}
  for name in sorted(found - files.keys() - {MANIFEST}):
    raise _damaged(folder / name, 'it is not in the manifest')
  for name, entry in files.items():
    if name not in found:
      raise _missing(folder / name)
    _check_content(folder / name, entry)
  return Delta(folder, manifest, hashlib.sha256(text).hexdigest())


def _manifest(folder):
  path = folder / MANIFEST
  if not path.is_file():
    raise _missing(path)
  text = path.read_bytes()
  try:
    manifest = json.loads(text)
    whole = isinstance(manifest, dict) and _text(manifest) == text
  except (ValueError, RecursionError):
    whole = False
  if not whole:
    raise _damaged(path, 'its text is not what was saved')
  if manifest['format'] != FORMAT:
    raise _damaged(path, f'it has the format {manifest["format"]}, and this version reads {FORMAT}')
  return manifest, text


def _check_content(path, entry):
  digest, size = hashlib.sha256(), path.stat().st_size
  if size != entry['size']:
    raise _damaged(path, f'it has {size} bytes, and {entry["size"]} were saved')
  with path.open('rb') as file:
    while block := file.read(_BLOCK):
      digest.update(block)
  if digest.hexdigest() != entry['sha256']:
    raise _damaged(path, 'its content is not what was saved')


def _check_place(delta, before):
  """Whether a delta follows what was restored so far."""
  folder, manifest = delta.folder, delta.manifest
  own = f'delta-{manifest["from"]}-{manifest["to"]}'
  if own != folder.name:
    raise _damaged(folder, f'it holds {own}, under the name of another')
  follows = manifest['follows']
  if follows == before.name and manifest['follows_mark'] == before.mark:
    return
  if follows == before.name:
    raise _damaged(folder, f'it follows another {follows} than the one that is here')
  if _NAME.fullmatch(follows) and not (folder.parent / follows).exists():
    raise _missing(folder.parent / follows, f': {own} follows it')
  raise _damaged(folder, f'it follows {follows}, and what is here before it is {before.name}')


def _mapped(path, described):
  """The arrays of a file, one after another, mapped."""
  sizes = [math.prod(shape) * _dtype(dtype).itemsize for dtype, shape in described]
  if sum(sizes) != path.stat().st_size:
    raise _damaged(path, 'its size is not that of its arrays')
  data = b''
  if sum(sizes):
    with path.open('rb') as file:
      data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  arrays, start = [], 0
  for (dtype, shape), size in zip(described, sizes, strict=True):
    flat = np.frombuffer(data, np.uint8, size, start) if size else np.zeros(0, np.uint8)
    arrays.append(_typed(flat, dtype).reshape(shape))
    start += size
  return arrays


def _typed(flat, dtype):
  """Bytes at any place of a file as numbers: copied where they are not aligned."""
  kind = _dtype(dtype)
  aligned = flat.ctypes.data % max(1, kind.alignment) == 0
  return (flat if aligned else flat.copy()).view(kind)


def _dtype(name):
  try:
    return np.dtype(name)
  except TypeError:
    import ml_dtypes  # bfloat16 and its kind, which NumPy knows only by this package.

    return np.dtype(getattr(ml_dtypes, name))


def _missing(path, why=''):
  return FileNotFoundError(f'{path} is missing{why}. {_remedy(path)}')


def _damaged(path, what):
  return ValueError(f'{path} is damaged: {what}. {_remedy(path)}')


def _remedy(path):
  """`path` is a delta, lies in one, or lies beside them."""
  own = [place for place in (path, *path.parents) if _NAME.fullmatch(place.name)]
  return (
    f'Copy it again from where it is whole. Or remove all of {(own[0] if own else path).parent}: '
    'the run then goes on from the full checkpoint before, and takes its steps again, to the same '
    'bits.'
  )
