"""The arrays of an artifact as bytes, and its folder, which appears whole (`data.folders`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ctr_jax.data.folders import file, folder, sync
from ctr_jax.serve import artifact as artifact_lib

__all__ = ['blocks', 'entry', 'file', 'folder', 'sync']

_BLOCK = 1 << 22  # Bytes written at a time.


def blocks(array: np.ndarray) -> Iterator[bytes]:
  """An array's bytes in C order, little-endian, some rows at a time."""
  stored = artifact_lib.stored_dtype(_name(array))
  array = array.view(np.uint16) if _name(array) == 'bfloat16' else array
  for part in _parts(array):
    yield np.ascontiguousarray(part, stored).tobytes()


def _parts(array):
  array = array.reshape(1) if array.ndim == 0 else array
  rows = max(1, _BLOCK // max(1, array[:1].nbytes))
  return (array[start : start + rows] for start in range(0, len(array), rows))


def _name(array):
  return array.dtype.name


def entry(path: str, array: np.ndarray) -> dict[str, object]:
  """An array's part of the manifest.

  Raises:
    ValueError: its dtype is none that artifacts hold, or it has numbers that are not finite.
  """
  if _name(array) not in artifact_lib.DTYPES:
    raise ValueError(
      f'{path} has the dtype {_name(array)}; artifacts hold {", ".join(artifact_lib.DTYPES)}.'
    )
  if array.dtype.kind not in 'biu' and not all(np.isfinite(part).all() for part in _parts(array)):
    raise ValueError(
      f'{path} has numbers that are not finite: the training that made it has diverged, or they '
      'overflow what they are stored in. Export an earlier checkpoint.'
    )
  return {'dtype': _name(array), 'shape': list(array.shape)}
