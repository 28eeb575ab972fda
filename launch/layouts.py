"""How many bytes an array takes in a TPU's memory, which holds tiles and not rows.

A tile is 8×128 numbers, or of short types 8×128 of which 2 (4) share a word; the last dimension of
the layout is padded to 128, the one before to 8, or if it has fewer than 8 numbers to a power of
two (at least one word). Which dimension comes last is the compiler's choice, of what pads least:

  f32[2500000,16]    {0,1:T(8,128)}         rows last: 160 MB, no padding; {1,0} would take 8 times
  f32[2500000,17]    {0,1:T(8,128)}         17 columns take 24, as those of FM and DeepFM do
  bf16[1250016,128]  {1,0:T(8,128)(2,1)}    columns last: 128 of them are a row of a tile
  u8[2500000,20]     {0,1:T(8,128)(4,1)}    20 bytes (alpt of 16 columns) take 24
  f32[2500000]       {0:T(1024)}

(Read off programs compiled for v5e by libtpu 0.0.42; tests/launch/compile_test.py holds `padded` to
the compiler.) So a table's padding is small whatever its width, but where rows come last the values
of one row are 512 bytes apart: reading it touches a line for every column (`lines`). With 128
columns, or multiples of it, a row is whole lines.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

_LANES, _SUBLANES, _WORD = 128, 8, 4
LINE = 512
"""Bytes that are read at a time: one row of a tile."""


def padded(shape: Sequence[int], dtype) -> int:
  """Bytes of an array in the layout that the compiler gives the arguments of a program."""
  size, shape = np.dtype(dtype).itemsize, [x for x in shape if x] or [1]
  if len(shape) == 1:
    return size * _line(shape[0], _WORD // min(size, _WORD))
  return size * min(_tiled(shape, *pair, size) for pair in itertools.permutations(_last(shape), 2))


def _last(shape):
  return range(len(shape))


def _line(n, packed):
  tile = min(1024, _LANES * packed * (1 << max(0, math.ceil(math.log2(n / (_LANES * packed))))))
  return -(-n // tile) * tile


def _tiled(shape, before, last, size):
  """Numbers of an array whose tiles lie along two of its dimensions."""
  rest = math.prod(x for i, x in enumerate(shape) if i not in (before, last))
  packed = _WORD // min(size, _WORD)
  rows = max(packed, min(_SUBLANES, 1 << (shape[before] - 1).bit_length()))
  return rest * (-(-shape[before] // rows) * rows) * (-(-shape[last] // _LANES) * _LANES)


def lines(rows: int, columns: int, dtype) -> int:
  """Bytes that reading one row of a table touches."""
  size = np.dtype(dtype).itemsize
  packed = _WORD // min(size, _WORD)
  by_row = _tiled((rows, columns), 0, 1, size)
  if by_row <= _tiled((rows, columns), 1, 0, size):
    return -(-columns // _LANES) * LINE
  return -(-columns // packed) * LINE
