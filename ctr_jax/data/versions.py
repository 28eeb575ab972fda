"""The versions of an encoded data set: what lies where, and how one becomes the next.

  <path>/manifest.json       the newest version; replaced as the last act of a change
  <path>/versions/<n>.json   former manifests, until they are pruned
  <path>/versions/lock       held by whoever changes the data set
  <path>/changes/<n>/        what version n added: <split>/<column>/, vocabulary/<table>.parquet

A data set as it was encoded is version 1. A change writes only into its own folder, which no
version names before the manifest is replaced, and numbers are never given twice: so a reader finds
the old version or the new one, whenever the change dies. What a killed change leaves behind is what
no version names; `leftovers` finds it, and the next change or `prune` removes it.
"""

import contextlib
import copy
import errno
import fcntl
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ctr_jax.data import columns, folders, segments, storage
from ctr_jax.data import schema as schema_lib

# Files that encoding and changes make; whatever else lies in the folder is somebody's own.
_OURS = re.compile(
  r'changes/.+|(versions/)?\.[^/]+\.json\.partial|vocabulary/[^/]+\.parquet'
  r'|(train|valid|test)/[^/]+/(zarr\.json|c/\d+(/0)?)'
)


class Draft:
  """The version that a change is about to make.

  Attributes:
    path: of the data set.
    version: its number.
    manifest: to be changed freely; what the version says of itself is filled in at the end.
    folder: for its files.
    said: lines for whoever asked for the change.
  """

  def __init__(self, path: pathlib.Path):
    self.path, self._former = path, (path / columns.MANIFEST).read_bytes()
    self._old = json.loads(self._former)
    self.manifest = copy.deepcopy(self._old)
    self.version = number(self._old) + 1
    self.folder = path / 'changes' / str(self.version)
    self.said: list[str] = []

  @property
  def schema(self) -> schema_lib.Schema:
    """Of the samples."""
    return schema_lib.Schema.from_dict(self.manifest['schema'])

  def at(self, name: str) -> str:
    """What a file of `folder` is called in the manifest."""
    return f'changes/{self.version}/{name}'

  def columns(self) -> columns.Columns:
    """The version so far, to be read."""
    return columns.Columns(self.path, {**self.manifest, 'checksum': ''})

  def commit(self, what: str, same_samples: bool):
    """Makes it the newest version."""
    manifest, old = self.manifest, self._old
    known = {*old.get('same_samples', ()), old['checksum']} if same_samples else ()
    manifest |= {'format': columns.CHANGED, 'version': self.version, 'digest': self.schema.digest}
    manifest |= {'checksum': columns.checksum(manifest), 'same_samples': sorted(known)}
    past = old.get('history', [{'version': 1, 'change': 'encoded', 'checksum': old['checksum']}])
    now = {'version': self.version, 'change': what, 'checksum': manifest['checksum']}
    manifest['history'] = [*past, now]
    if self.folder.exists():
      _sync(self.folder)
    folders.replace(self.path / 'versions' / f'{number(old)}.json', self._former)
    folders.replace(self.path / columns.MANIFEST, json.dumps(manifest, indent=1).encode())


def number(manifest: dict[str, Any]) -> int:
  """The version that a manifest is of."""
  return manifest.get('version', 1)


def known(path) -> list[int]:
  """The versions that can be opened, the newest last."""
  newest = number(columns.read_manifest(path))
  names = (p.stem for p in pathlib.Path(path, 'versions').glob('*.json'))
  return [*sorted(n for n in map(int, filter(str.isdecimal, names)) if n < newest), newest]


@contextlib.contextmanager
def change(path, what: str, *, same_samples: bool = True, dry_run: bool = False) -> Iterator[Draft]:
  """Yields a draft that becomes the newest version when the block ends well.

  Args:
    path: of the data set.
    what: the change was, in a few words.
    same_samples: whether columns made of the samples before are still of these.
    dry_run: make the draft, and let it go.

  Raises:
    BlockingIOError: another change is under way.
    OSError: the disk is full; the data set is as it was.
    ValueError: the data set cannot be changed.
  """
  with locked(path) as path:
    draft = Draft(path)
    if 'beside' in draft.manifest:
      raise ValueError(
        f'{path} holds columns that were made of another data set: make others, and leave these.'
      )
    # Of a change that was killed.
    shutil.rmtree(draft.folder, ignore_errors=True)
    try:
      yield draft
      if not dry_run:
        draft.commit(what, same_samples)
    except BaseException as e:
      if _undo(draft) and storage.disk_is_full(e):
        free = shutil.disk_usage(path).free / 2**20
        raise OSError(
          errno.ENOSPC,
          f'No more could be written in {path} ({free:.0f} MB are free). Free some space or raise '
          f'the quota; the data set is as it was. ({str(e).splitlines()[0]})',
        ) from e
      raise
    if dry_run:
      _undo(draft)


def _undo(draft) -> bool:
  """Removes what a draft has written; not once the manifest was replaced, should a signal come."""
  if number(columns.read_manifest(draft.path)) == draft.version:
    return False
  shutil.rmtree(draft.folder, ignore_errors=True)
  for path in (draft.path, draft.path / 'versions'):
    for left in path.glob('.*.json.partial'):
      left.unlink(missing_ok=True)
  with contextlib.suppress(OSError):
    draft.folder.parent.rmdir()
  return True


@contextlib.contextmanager
def locked(path) -> Iterator[pathlib.Path]:
  """Keeps other changes of a data set out; the lock ends with the process that holds it."""
  if '://' in str(path):
    raise ValueError(f'{path} is read-only here: change a copy on a disk.')
  columns.read_manifest(path)
  path = pathlib.Path(path)
  (path / 'versions').mkdir(exist_ok=True)
  with (path / 'versions' / 'lock').open('a') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      raise BlockingIOError(
        f'Another change of {path} is under way; try again when it has ended.'
      ) from e
    yield path


def _sync(folder):
  """Makes all files of a folder, and the folders above it that are new, reach the disk."""
  for where, _, names in os.walk(folder):
    for name in (*names, '.'):
      folders.sync(os.path.join(where, name))
  for above in (folder.parent, folder.parent.parent):
    folders.sync(above)


def named(path, kept: list[int]) -> dict[str, list]:
  """The files that any of these versions reads -> [bytes, SHA-256]."""
  found = {}
  for version in kept:
    found |= segments.files(columns.read_manifest(path, version))
  return found


def leftovers(path, kept: list[int]) -> dict[str, int]:
  """Files of the data set that none of these versions reads -> bytes."""
  path, needed, found = pathlib.Path(path), named(path, kept), {}
  files = [path / f'.{columns.MANIFEST}.partial', path / 'versions' / f'{max(kept)}.json']
  for folder in ('changes', 'versions', 'vocabulary', *schema_lib.SPLITS):
    files += sorted((path / folder).rglob('*'))
  for number, file in enumerate(files):
    name = file.relative_to(path).as_posix()
    if file.is_file() and name not in needed and (number < 2 or _OURS.fullmatch(name)):
      found[name] = file.stat().st_size
  return found


def verify(path, step: Callable[[int, int], None]) -> dict[str, int]:
  """Reads every file of every version and compares checksums.

  Args:
    path: of the data set.
    step: told how many files there are and how many are done.

  Returns:
    The leftovers.

  Raises:
    ValueError: a file, or a version's manifest, is damaged.
  """
  kept = known(path)
  for version in kept:
    manifest = columns.read_manifest(path, version)
    if number(manifest) != version or columns.checksum(manifest) != manifest['checksum']:
      raise ValueError(f'The manifest of version {version} of {path} is damaged.')
  files = named(path, kept)
  for done, (name, expected) in enumerate(files.items(), 1):
    try:
      columns.check(path, name, expected)
    except FileNotFoundError:
      raise FileNotFoundError(f'{path}/{name} is missing. Encode the data set again.') from None
    step(done, len(files))
  return leftovers(path, kept)


class Pruned(NamedTuple):
  """What was removed.

  Attributes:
    versions: their numbers.
    files: name -> bytes, manifests aside.
  """

  versions: list[int]
  files: dict[str, int]


def prune(path, keep: int = 1, dry_run: bool = False) -> Pruned:
  """Removes all versions but the newest, and the files that no other version reads.

  First the versions go, then the files: whenever this dies, what can be opened is complete, and the
  next call removes the rest. Who still reads an older version loses it.

  Args:
    path: of the data set.
    keep: how many of the newest versions stay.
    dry_run: say what would go.
  """
  if keep < 1:
    raise ValueError(f'At least the newest version is kept; keep is {keep}.')
  with locked(path) as path:
    versions = known(path)
    gone, kept = versions[:-keep], versions[-keep:]
    found = leftovers(path, kept)
    if not dry_run:
      for version in gone:
        (path / 'versions' / f'{version}.json').unlink()
      folders.sync(path / 'versions')
      for name in found:
        (path / name).unlink()
      _remove_empty(path)
    return Pruned(gone, found)


def _remove_empty(path):
  for folder in ('changes', *schema_lib.SPLITS):
    for where, _, _ in os.walk(path / folder, topdown=False):
      with contextlib.suppress(OSError):
        os.rmdir(where)
