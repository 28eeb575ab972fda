"""A folder that appears whole, once it is on the disk, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary folder that becomes `out` when the block ends well, and goes when not.

  What somebody who was killed has left beside `out` is removed first; one that is running holds a
  lock on its folder.

  Raises:
    FileExistsError: `out` is there.
  """
  out.parent.mkdir(parents=True, exist_ok=True)
  if out.exists():
    raise _there(out)
  _clean(out)
  made = pathlib.Path(tempfile.mkdtemp(prefix=f'.{out.name}.partial-', dir=out.parent))
  held = os.open(made, os.O_RDONLY)
  try:
    fcntl.flock(held, fcntl.LOCK_EX)
    yield made
    umask = os.umask(0)
    os.umask(umask)
    made.chmod(0o777 & ~umask)  # mkdtemp's folders are for their owner alone.
    for place, _, _ in os.walk(made):
      sync(place)
    _renamed(made, out)
    sync(out.parent)
  except BaseException:
    shutil.rmtree(made, ignore_errors=True)
    raise
  finally:
    os.close(held)


def _there(out):
  return FileExistsError(f'{out} is there already: remove it, or name another folder.')


def _renamed(made, out):
  try:
    os.rename(made, out)
  except OSError as error:
    if out.exists():
      raise _there(out) from error
    raise


def _clean(out):
  for left in glob.glob(f'{glob.escape(str(out.parent))}/.{glob.escape(out.name)}.partial-*'):
    with contextlib.suppress(OSError):  # Somebody's who is running, or removes it too.
      held = os.open(left, os.O_RDONLY)
      try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(left, ignore_errors=True)
      finally:
        os.close(held)


def sync(path: str | os.PathLike) -> None:
  """Waits until what is written is on the disk."""
  held = os.open(path, os.O_RDONLY)
  try:
    os.fsync(held)
  finally:
    os.close(held)


def file(folder: pathlib.Path, name: str, parts: Iterable[bytes]) -> dict[str, object]:
  """Writes one file, of bytes or arrays of uint8; returns its part of the manifest."""
  path, digest, size = folder / name, hashlib.sha256(), 0
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('xb') as opened:
    for part in parts:
      opened.write(part)
      digest.update(part)
      size += len(part)
    opened.flush()
    os.fsync(opened.fileno())
  return {'size': size, 'sha256': digest.hexdigest()}


def replace(path: pathlib.Path, data: bytes) -> None:
  """Writes a small file in the place of another: whoever reads finds the one or the other."""
  temporary = path.with_name(f'.{path.name}.partial')
  with temporary.open('wb') as opened:
    opened.write(data)
    opened.flush()
    os.fsync(opened.fileno())
  os.replace(temporary, path)
  sync(path.parent)
