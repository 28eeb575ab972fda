"""Columns made later: a folder of their own beside the data set that they were made of.

It is an encoded data set like any other, but without labels; `beside.join` reads both as one.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ctr_jax.data import beside, columns, history, storage, workspace
from ctr_jax.data import schema as schema_lib


class Made(NamedTuple):
  """What was written.

  Attributes:
    arrays: their parts of the manifest, as `storage.write_splits` gives them.
    tables: table -> its part of the manifest.
    lookups: what serving has to look up before it has these columns; name -> {'bytes': of it,
      'features': that need it}.
  """

  arrays: dict[str, Any]
  tables: dict[str, Any]
  lookups: dict[str, Any]


def make(
  source: columns.Source,
  out,
  features: Sequence[schema_lib.Feature],
  made_of: dict[str, Any],
  fill: Callable[[pathlib.Path, dict[str, int]], Made],
) -> columns.Columns:
  """Makes columns beside a source, or opens what an equal call has made.

  Args:
    source: what they are made of.
    out: folder to make, which may be there if it is empty. What is in it appears only when it is
      complete.
    features: of the new columns.
    made_of: plain JSON that says how; the same columns are not made twice.
    fill: (folder, split -> samples) -> what it wrote there; files besides the arrays go into
      `vocabulary` or `lookup`.

  Raises:
    FileExistsError: `out` holds something else, or columns of another version of the data set.
  """
  schema = schema_lib.Schema(f'{source.schema.name}-beside', tuple(features))
  out, counts = pathlib.Path(out), {s: source.num_samples(s) for s in schema_lib.SPLITS}
  if not out.exists() or workspace.is_empty(out):
    # Who is second opens what the first has made meanwhile.
    with contextlib.suppress(FileExistsError), workspace.create(out) as folder:
      (folder / 'vocabulary').mkdir()
      (folder / 'lookup').mkdir()
      made = fill(folder, counts)
      manifest = _manifest(folder, schema, counts, made)
      manifest |= {'beside': sorted(beside.checksums(source)), 'made_of': made_of}
      storage.write_json(folder / columns.MANIFEST, manifest)
  found = columns.open_columns(out)
  known, of = sorted(beside.checksums(source)), found.manifest.get('beside', [])
  if known != of and set(known) & set(of) and found.manifest.get('made_of') == made_of:
    raise FileExistsError(
      f'{out} holds columns that were made of another version of the data set, which may have had '
      'other values in columns of the same names. If it had not, open them (columns.open_columns) '
      'and join them; else remove them or choose another folder.'
    )
  if known != of or found.manifest.get('made_of') != made_of:
    raise FileExistsError(
      f'{out} holds columns that were made of another data set or otherwise '
      f'({found.manifest.get("made_of")}). Remove it or choose another folder.'
    )
  return found


def _manifest(folder, schema, counts, made):
  paths = (path for part in ('vocabulary', 'lookup') for path in (folder / part).iterdir())
  files = [str(path.relative_to(folder)) for path in sorted(paths)]
  manifest = {
    'format': columns.FORMAT,
    'schema': schema.to_dict(),
    'digest': schema.digest,
    'title': schema.name,
    'samples': counts,
    'skipped': {},
    'chunk': storage.CHUNK,
    'tables': made.tables,
    'arrays': made.arrays,
    'files': {name: storage.digest(folder, name) for name in files},
    'lookups': made.lookups,
  }
  return manifest | {'checksum': columns.checksum(manifest)}


def numbers(
  source: columns.Source,
  out,
  names: Sequence[str],
  made_of: dict[str, Any],
  of: Callable[[str, int, int], dict[str, np.ndarray]],
  lookups: dict[str, int] | None = None,
) -> columns.Columns:
  """Columns of numbers that a function knows.

  Args:
    source: as in `make`.
    out: as in `make`.
    names: of the columns.
    made_of: as in `make`.
    of: (split, start, stop) -> name -> float32 [stop - start], NaN = missing.
    lookups: name -> bytes of what serving any of the columns needs.
  """
  features = [schema_lib.Feature(name, 'numeric') for name in names]

  def fill(folder, counts):
    writers = {
      f'{split}/{name}': storage.Writer(
        folder, f'{split}/{name}', length, 'float32', 0, chunk=storage.CHUNK
      )
      for split, length in counts.items()
      for name in names
    }
    for split, total in counts.items():
      for start in range(0, total, history.BLOCK):
        found = of(split, start, min(start + history.BLOCK, total))
        for name in names:
          writers[f'{split}/{name}'].append(found[name])
    arrays = {key: writer.close() for key, writer in writers.items()}
    needed = {k: {'bytes': n, 'features': list(names)} for k, n in (lookups or {}).items()}
    return Made(arrays, {name: {'rows': 2, 'kind': 'numeric'} for name in names}, needed)

  return make(source, out, features, made_of, fill)
