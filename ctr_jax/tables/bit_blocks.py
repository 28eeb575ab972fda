"""A code cut into blocks of bits, each the row number of a table of its own."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Block(NamedTuple):
  """A block of a code.

  Attributes:
    bits: which bits of the code it reads, lowest first.
    rows: of its table.
  """

  bits: list[int]
  rows: int


def blocks(rows: int, block: int, bits: int | None, strategy: str, hashed: bool) -> list[Block]:
  """The blocks of a table's codes; every bit is in exactly one.

  Args:
    rows: of the table.
    block: bits of a block.
    bits: of a code; as many as the row numbers have if None.
    strategy: 'succession' (neighbouring bits form a block) or 'skip' (every so many-th bit).
    hashed: whether codes are hashes; else they are row numbers, whose highest bits are seldom all
      used, and rows that no id reads are not stored.
  """
  length = max(1, (rows - 1).bit_length()) if bits is None else bits
  count = math.ceil(length / block)
  if strategy == 'skip':
    cut = [list(range(b, length, count)) for b in range(count)]
  else:
    cut = [list(range(b * block, min((b + 1) * block, length))) for b in range(count)]
  return [Block(own, _reach(own, rows, length, not hashed)) for own in cut]


def _reach(own, rows, length, is_row_number):
  """How many rows a block needs."""
  if is_row_number and _neighbours(own) and (own[-1] == length - 1 or own[0] == 0):
    top = (rows - 1) >> own[0]
    return min(top, 2 ** len(own) - 1) + 1
  return 2 ** len(own)


def read(code, own: list[int]):
  """The bits `own` of uint32 codes (NumPy's or jax's) as int32 numbers, the first bit lowest."""
  if _neighbours(own):  # One shift and one mask.
    return ((code >> np.uint32(own[0])) & np.uint32(2 ** len(own) - 1)).astype(np.int32)
  value = (code >> np.uint32(own[0])) & np.uint32(1)
  for place, bit in enumerate(own[1:], start=1):
    value = value | (((code >> np.uint32(bit)) & np.uint32(1)) << np.uint32(place))
  return value.astype(np.int32)


def _neighbours(own):
  return own == list(range(own[0], own[-1] + 1))
