r"""What has changed between two exports of a model, as a folder; and the newer export made of it.

  python -m ctr_jax.serve.delta --artifact=model_1 --new=model_2 --output=delta_1_2
  python -m ctr_jax.serve.delta --artifact=model_1 --delta=delta_1_2 --output=model_2

The first command compares two artifacts, the second makes the newer one of the older one and their
delta, to the bit, its version included. (`delta_export` makes a delta of a trained state, without
any newer export.) A server then takes the new folder as it takes any other.

A delta has an artifact's form (`artifact`), with other arrays, and is as well protected:

  manifest.json          also names the version of the artifact that it changes
  rows/<path>.bin        numbers of the rows of an array that changed, int32, ascending
  values/<path>.bin      those rows, as they are stored
  whole/<path>.bin       an array that is replaced

Files without a change are linked (copied, on another file system): artifacts are not written to.
"""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from ctr_jax.serve import artifact as artifact_lib
from ctr_jax.serve import writing

_BLOCK = 1 << 22


class Change(NamedTuple):
  """What became of an array.

  Attributes:
    rows: int32 [n], ascending, or None where the array is replaced.
    values: [n, ...] or the whole array, as it is stored; bfloat16 or its bits, uint16.
  """

  rows: np.ndarray | None
  values: np.ndarray


def write(
  folder: str | pathlib.Path, base: artifact_lib.Artifact, changes: Mapping[str, Change]
) -> pathlib.Path:
  """Writes a delta; it appears when it is complete and on the disk, and not before.

  Args:
    folder: to make; it must not be there.
    base: what it changes.
    changes: path of an array of `base` → what became of it. However it is told: only rows that
      differ are written, and an array whole where most of it does.

  Returns:
    The folder.

  Raises:
    ValueError: an array is not there, or of another shape or dtype; rows are out of range.
    FileExistsError: the folder is there.
  """
  folder = pathlib.Path(folder)
  kept = {path: _kept(base, path, _checked(base, path, x)) for path, x in changes.items()}
  with writing.folder(folder) as made:
    arrays, files = {}, {}

    def add(name, array, dtype):
      file = artifact_lib.file_of(name)
      arrays[name] = {'dtype': dtype, 'shape': list(array.shape)}
      files[file] = writing.file(made, file, writing.blocks(array))

    for path, change in kept.items():
      if change is not None and change.rows is None:
        add(f'whole/{path}', change.values, base.dtype(path))
      elif change is not None:
        add(f'rows/{path}', change.rows, 'int32')
        add(f'values/{path}', change.values, base.dtype(path))
    manifest = {
      'format': artifact_lib.FORMAT,
      'delta': {'base': base.version},
      'arrays': arrays,
      'files': files,
    }
    writing.file(made, artifact_lib.MANIFEST, [artifact_lib.text_of(manifest)])
  return folder


def between(
  old: str | pathlib.Path, new: str | pathlib.Path, folder: str | pathlib.Path
) -> pathlib.Path:
  """Writes the delta from one artifact to another of the same model.

  Raises:
    ValueError: they differ in more than the values of their arrays, or one is damaged.
  """
  old, new = artifact_lib.open_artifact(old), artifact_lib.open_artifact(new)
  owners = {artifact_lib.file_of(path): path for path in old.manifest['arrays']}
  entries, others = old.manifest['files'], new.manifest['files']
  changed = [n for n in entries.keys() | others.keys() if entries.get(n) != others.get(n)]
  parts = {k for k in old.manifest.keys() | new.manifest.keys() if k not in ('files', 'checksum')}
  different = [k for k in parts if old.manifest.get(k) != new.manifest.get(k)]
  different += [n for n in changed if n not in owners]
  if different:
    raise ValueError(
      f'{new.folder} differs from {old.folder} in {min(different)!r}, not only in the values of '
      'arrays: no delta leads from one to the other. Serve the new one whole.'
    )
  paths = [path for name, path in owners.items() if name in changed]
  return write(folder, old, {path: Change(None, new.arrays[path]) for path in paths})


def apply(
  artifact: str | pathlib.Path, delta: str | pathlib.Path, folder: str | pathlib.Path
) -> pathlib.Path:
  """Makes the artifact that a delta leads to; it appears when it is complete, and not before.

  Args:
    artifact: folder of the artifact that the delta was made from. It stays as it is.
    delta: folder of the delta.
    folder: to make; it must not be there.

  Returns:
    The folder.

  Raises:
    ValueError: the delta changes another artifact, or one of the two is damaged.
    FileExistsError: the folder is there.
  """
  base, change = artifact_lib.open_artifact(artifact), artifact_lib.open_artifact(delta)
  changes = _changes(base, change)
  folder = pathlib.Path(folder)
  files = dict(base.manifest['files'])
  with writing.folder(folder) as made:
    for path, change in changes.items():
      name = artifact_lib.file_of(path)
      files[name] = writing.file(made, name, _patched(base.arrays[path], change))
    for name in files.keys() - {artifact_lib.file_of(path) for path in changes}:
      _linked(base.folder / name, made / name)
    text = artifact_lib.text_of(base.manifest | {'files': files})
    writing.file(made, artifact_lib.MANIFEST, [text])
  return folder


def _changes(base, delta) -> dict[str, Change]:
  """What an opened delta changes, if it is one of `base`."""
  named = delta.manifest.get('delta')
  if not isinstance(named, dict) or 'base' not in named:
    raise ValueError(f'{delta.folder} is an artifact and no delta.')
  if named['base'] != base.version:
    raise ValueError(
      f'{delta.folder} changes version {named["base"]}, and {base.folder} is version '
      f'{base.version}: deltas are applied in the order in which they were made.'
    )
  rows, values, whole = (delta.within(f'{part}/') for part in ('rows', 'values', 'whole'))
  if rows.keys() != values.keys() or rows.keys() & whole.keys():
    raise ValueError(f'{delta.folder}: its rows and its values do not agree. Make the delta again.')
  changes = {path: Change(rows[path], values[path]) for path in rows}
  changes |= {path: Change(None, x) for path, x in whole.items()}
  return {path: _checked(base, path, change) for path, change in changes.items()}


def _checked(base, path, change):
  """A change with its values as the file has them, if the array is there and takes it."""
  entry = base.manifest['arrays'].get(path)
  if entry is None:
    raise ValueError(f'{base.folder} has no array {path!r}: export the model again.')
  rows, values = change.rows, np.asarray(change.values)
  values = values.view(np.uint16) if values.dtype.name == 'bfloat16' else values
  stored, shape = artifact_lib.stored_dtype(entry['dtype']), tuple(entry['shape'])
  wanted = shape if rows is None else (len(rows), *shape[1:])
  if values.dtype != stored or values.shape != wanted:
    raise ValueError(
      f'{path!r} has the dtype {entry["dtype"]} and the shape {shape} in {base.folder}, and cannot '
      f'take values of {values.dtype} and {values.shape}: it is another model.'
    )
  if rows is not None:
    rows = np.asarray(rows)
    ascending = rows.dtype == np.int32 and (np.diff(rows) > 0).all()
    if not ascending or (len(rows) and (rows[0] < 0 or rows[-1] >= shape[0])):
      raise ValueError(f'Rows of {path!r}: int32, ascending, each within [0, {shape[0]}).')
  return Change(rows, values)


def _kept(base, path, change) -> Change | None:
  """A change in fewest bytes, without the rows that stayed as they are; None if none is left."""
  old, values = base.arrays[path], change.values
  if old.ndim == 0:
    return None if old.tobytes() == values.tobytes() else change
  rows = np.arange(len(old), dtype=np.int32) if change.rows is None else change.rows
  parts = [np.zeros(0, int)]
  for start in range(0, len(rows), step := _step(values)):
    new, was = _bits(values[start : start + step]), _bits(old[rows[start : start + step]])
    parts.append(start + np.flatnonzero((new != was).any(axis=1)))
  chosen = np.concatenate(parts)
  if not len(chosen):
    return None
  if len(chosen) * (rows.itemsize + values[:1].nbytes) < old.nbytes:
    return Change(rows[chosen], values[chosen])
  whole = np.array(old)
  whole[rows[chosen]] = values[chosen]
  return Change(None, whole)


def _bits(array):
  """[n, ...] → [n, bytes], so that NaN is NaN and −0 is not 0."""
  return np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)


def _step(array):
  return max(1, _BLOCK // max(1, array[:1].nbytes))


def _patched(old, change) -> Iterator[bytes]:
  """The bytes of an array with a change, some rows at a time."""
  if change.rows is None:
    yield from writing.blocks(change.values)
    return
  for start in range(0, len(old), step := _step(old)):
    block = np.array(old[start : start + step])
    first, last = np.searchsorted(change.rows, [start, start + step])
    block[change.rows[first:last] - start] = change.values[first:last]
    yield from writing.blocks(block)


def _linked(file, to):
  to.parent.mkdir(parents=True, exist_ok=True)
  try:
    os.link(file, to)
  except OSError:  # Another file system, or one without links.
    shutil.copyfile(file, to)
    writing.sync(to)


def nbytes(folder: str | pathlib.Path) -> int:
  """Bytes of a folder's files."""
  return sum(path.stat().st_size for path in pathlib.Path(folder).rglob('*') if path.is_file())


def _define_flags():
  flags.DEFINE_string('artifact', None, 'Folder of the older exported model.')
  flags.DEFINE_string('new', None, 'Folder of the newer one: write the delta to it.')
  flags.DEFINE_string('delta', None, 'Folder of a delta: write the newer model.')
  flags.DEFINE_string('output', None, 'Folder to make.')
  flags.mark_flags_as_required(['artifact', 'output'])


def main(argv: Sequence[str], flags_: Mapping[str, Any] | None = None) -> None:
  """Runs from the command line."""
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments {argv[1:]}; every option is a --flag.')
  args = flags_ or flags.FLAGS
  if bool(args.new) == bool(args.delta):
    raise app.UsageError('Give --new to make a delta, or --delta to apply one.')
  try:
    if args.new:
      made, whole = between(args.artifact, args.new, args.output), args.new
    else:
      made, whole = apply(args.artifact, args.delta, args.output), args.artifact
  except (ValueError, OSError) as error:
    raise SystemExit(f'delta: {error}') from error
  print(f'{made}: {nbytes(made):,} bytes; {whole} has {nbytes(whole):,}.')


if __name__ == '__main__':
  _define_flags()
  app.run(main)
