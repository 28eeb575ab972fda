"""What a folder would look like after a kill, at every moment at which something is written."""

import contextlib
import os
import pathlib
import shutil
import sys

_ASKED = {
  'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.link', 'os.truncate', 'shutil.rmtree',
  'tempfile.mkdtemp', 'open', 'os.chmod',
}  # fmt: skip
_watching = None


def _hook(event, arguments):
  if _watching is None or event not in _ASKED:
    return
  if event == 'open' and (not isinstance(arguments[2], int) or not arguments[2] & os.O_ACCMODE):
    return  # Reads.
  _unasked(_watching)


sys.addaudithook(_hook)


@contextlib.contextmanager
def taken(folder: pathlib.Path, out: pathlib.Path, monkeypatch):
  """Yields a list that fills with copies of `folder`, one before each write within.

  A kill leaves what the system calls before it have written. Calls are seen by Python's audit
  events, and each write to an opened file by fsync, before which half of its bytes are there.
  """
  global _watching
  found = []

  def watch():
    copy = out / str(len(found))
    with contextlib.suppress(FileNotFoundError, shutil.Error):  # Others write at the same time.
      shutil.copytree(folder, copy, symlinks=True)
    found.append(copy)

  def torn(file):
    """As before, with half of a file that was just written."""
    name = pathlib.Path(os.readlink(f'/proc/self/fd/{file}'))
    if name.is_relative_to(folder) and name.is_file():
      watch()
      half = found[-1] / name.relative_to(folder)
      os.truncate(half, half.stat().st_size // 2)

  sync = os.fsync

  def fsync(file):
    sync(file)
    _unasked(watch)
    _unasked(lambda: torn(file))

  monkeypatch.setattr(os, 'fsync', fsync)
  _watching = watch
  try:
    yield found
  finally:
    _watching = None
    monkeypatch.undo()


def _unasked(call):
  """Calls what writes itself, which is not asked about; nothing, if nobody watches."""
  global _watching
  watch, _watching = _watching, None
  try:
    if watch is not None:
      call()
  finally:
    _watching = watch
