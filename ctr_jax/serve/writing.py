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
  array = array.reshape(1) if array.ndim == 0 else array
  stored = artifact_lib.stored_dtype(_name(array))
  array = array.view(np.uint16) if _name(array) == 'bfloat16' else array
  rows = max(1, _BLOCK // max(1, array[:1].nbytes))
  for start in range(0, len(array), rows):
    yield np.ascontiguousarray(array[start : start + rows], stored).tobytes()


def _name(array):
  return array.dtype.name


def entry(path: str, array: np.ndarray) -> dict[str, object]:
  """An array's part of the manifest.

  Raises:
    ValueError: its dtype is none that artifacts hold.
  """
  if _name(array) not in artifact_lib.DTYPES:
    raise ValueError(
      f'{path} has the dtype {_name(array)}; artifacts hold {", ".join(artifact_lib.DTYPES)}.'
    )
  return {'dtype': _name(array), 'shape': list(array.shape)}
