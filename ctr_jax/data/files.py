"""Raw files on disk: found, told apart, decompressed. Nothing here needs the database."""

import collections
import contextlib
import glob
import gzip
import hashlib
import io
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import IO

from ctr_jax.data import schema as schema_lib


def find(schema: schema_lib.Schema, data_dir) -> dict[str, list[pathlib.Path]]:
  """Split -> its raw files, sorted by name.

  For a pattern P also P.gz and P.zst are matched; `**` in it is any number of folders.
  """
  found, root = {}, pathlib.Path(data_dir)
  for split, patterns in schema.files.items():
    tried = [pattern + end for pattern in patterns for end in ('', '.gz', '.zst')]
    matched = {n for pattern in tried for n in glob.glob(pattern, root_dir=root, recursive=True)}
    # A `**` at the end matches folders too.
    # One that two patterns spell differently, as ./a.csv, is one file.
    paths = sorted({root / name for name in matched if not (root / name).is_dir()})
    if not paths:
      raise FileNotFoundError(
        f'No {split} files of {schema.name!r}: nothing in {data_dir} matches {" or ".join(tried)}.'
      )
    stems = collections.Counter(str(bare(p)) for p in paths)
    twice = [stem for stem, n in stems.items() if n > 1]
    if twice:
      raise ValueError(f'{twice[0]} is there both plain and compressed; remove one of the two.')
    found[split] = paths
  check_apart(found)
  if not found:
    raise ValueError(f'Schema {schema.name!r} names no files; add a [files] section.')
  return found


def check_apart(paths: Mapping[str, Sequence[pathlib.Path]]):
  """Raises for a file that is in two splits: its samples would be learned and then tested."""
  split_of = {}
  for split, found in paths.items():
    for path in found:
      other = split_of.setdefault(path.resolve(), split)
      if other != split:
        raise ValueError(
          f'{path} is a file of both {other} and {split}: a sample belongs to one split. Name '
          'files, or write patterns, that do not overlap.'
        )


def bare(path: pathlib.Path) -> pathlib.Path:
  """The path without .gz or .zst."""
  return path.with_suffix('') if path.suffix in ('.gz', '.zst') else path


def identity(paths, data_dir) -> list:
  """[name, size, time of last change] of each raw file: cheap, and changes when they do."""
  stats = [(path, path.stat()) for found in paths.values() for path in found]
  root = pathlib.Path(data_dir)
  names = [path.relative_to(root) if path.is_relative_to(root) else path for path, _ in stats]
  return [[str(n), s.st_size, s.st_mtime_ns] for n, (_, s) in zip(names, stats, strict=True)]


def open_stream(path: pathlib.Path) -> IO[bytes]:
  """The bytes of a file, decompressed."""
  if path.suffix == '.gz':
    return gzip.open(path)
  if path.suffix == '.zst':
    # Only this needs Arrow.
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(path), compression='zstd'), 1 << 20)
  return path.open('rb')


@contextlib.contextmanager
def whole(path: pathlib.Path):
  """Turns a decompressor's complaint into a sentence."""
  try:
    yield
  except (EOFError, zlib.error, OSError) as e:
    # Arrow's complaints about zstd are OSErrors without a number; those of the disk have one.
    if isinstance(e, OSError) and e.errno is not None:
      raise
    raise ValueError(
      f'{path} is truncated or damaged ({e}); fetch it again and compare its checksum.'
    ) from e


def read_through(path):
  """Raises for a damaged file: DuckDB takes a truncated zstd file for a short one, and does not
  compare the checksums of gzip."""
  with whole(path), open_stream(path) as file:
    while file.read(1 << 20):
      pass


def md5(path: pathlib.Path) -> str:
  """Of the uncompressed bytes."""
  digest = hashlib.md5(usedforsecurity=False)
  with whole(path), open_stream(path) as file:
    while block := file.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()
