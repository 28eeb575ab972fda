"""A folder that is whole or not there: written beside its place, and renamed when complete."""

import contextlib
import errno
import fcntl
import glob
import os
import pathlib
import shutil
import tempfile

from ctr_jax.data import storage


@contextlib.contextmanager
def create(out):
  """Yields a temporary folder that becomes `out` when the block ends well, and goes when not.

  Folders that interrupted runs left behind are removed first. A running one holds a lock on its
  own, which ends with its process, so nobody's work is removed.
  """
  out = pathlib.Path(out)
  out.parent.mkdir(parents=True, exist_ok=True)
  clean(out)
  folder = pathlib.Path(tempfile.mkdtemp(prefix=f'{out.name}.tmp-', dir=out.parent))
  with (folder / 'lock.new').open('w') as lock:
    # Locked before it has its name, so a file named `lock` that is not locked has lost its process.
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(folder / 'lock.new', folder / 'lock')
    try:
      yield folder
      # mkdtemp's folders are for their owner alone.
      umask = os.umask(0)
      os.umask(umask)
      folder.chmod(0o777 & ~umask)
      _rename(folder, out)
      (out / 'lock').unlink()
    except BaseException as e:
      _remove(folder)
      if storage.disk_is_full(e):
        free = shutil.disk_usage(out.parent).free / 2**20
        raise OSError(
          errno.ENOSPC,
          f'No more could be written beside {out} ({free:.0f} MB are free; encoding needs for a '
          'while up to twice the size of the uncompressed raw files). Free some space, raise the '
          f'quota, or choose another --out; nothing was left behind. ({str(e).splitlines()[0]})',
        ) from e
      raise


def is_empty(out) -> bool:
  """Whether it is an empty folder in whose place another can be renamed."""
  out = pathlib.Path(out)
  return out.is_dir() and not (out.is_symlink() or out.is_mount() or any(out.iterdir()))


def _rename(folder, out):
  try:
    os.rename(folder, out)
  except OSError as e:
    if e.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
      raise FileExistsError(f'{out} was made by somebody else in the meantime.') from e
    raise


def clean(out):
  """Removes what interrupted runs left beside `out`."""
  for left in glob.glob(f'{glob.escape(str(out))}.tmp-*'):
    # Without the file it is somebody's that is just beginning or just complete.
    gone_or_running = contextlib.suppress(FileNotFoundError, BlockingIOError)
    with gone_or_running, pathlib.Path(left, 'lock').open() as lock:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      _remove(pathlib.Path(left))


def _remove(folder):
  """Its lock last: what is left by who is interrupted here, too, can be found."""
  with contextlib.suppress(OSError):
    for left in folder.iterdir():
      if left.is_dir():
        shutil.rmtree(left, ignore_errors=True)
      elif left.name != 'lock':
        left.unlink(missing_ok=True)
  shutil.rmtree(folder, ignore_errors=True)
