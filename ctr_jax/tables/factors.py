"""Rows and columns of a table as products, for tensor trains: plain integers, no arrays of jax."""

from __future__ import annotations

import math


def shapes(rows: int, cols: int, rank: int, cores: int) -> tuple[list[int], list[int], list[int]]:
  """(heights, widths, ranks) of a train: core k has heights[k] rows of ranks[k] · widths[k] ·
  ranks[k + 1] values, with Π heights ≥ rows and Π widths = cols.

  Args:
    rows: of the table.
    cols: of the table; factored exactly.
    rank: between neighbouring cores, capped where a full rank is smaller.
    cores: of the train.
  """
  heights, widths = _heights(rows, cores), _widths(cols, cores)
  sizes = [n * d for n, d in zip(heights, widths, strict=True)]
  inner = range(1, cores)
  between = [min(rank, math.prod(sizes[:k]), math.prod(sizes[k:])) for k in inner]
  return heights, widths, [1, *between, 1]


def digits(ids, heights: list[int]) -> list:
  """Row numbers → the row of each core, the first core's digit being the highest.

  Args:
    ids: integer array of NumPy or jax.
    heights: of the cores. The first digit is not reduced: an id of `rows` may reach past its core.
  """
  found = []
  for height in reversed(heights[1:]):
    found.append(ids % height)
    ids = ids // height
  return [ids, *reversed(found)]


def _heights(rows, cores):
  """Near-equal factors with a product ≥ rows. The first is the least that suffices."""
  if cores == 1:
    return [rows]
  last = next(n for n in range(1, rows + 1) if n**cores >= rows)
  return [*_heights(-(-rows // last), cores - 1), last]


def _widths(cols, cores):
  """Factors with the product cols, and the smallest sum."""
  if cores == 1:
    return [cols]
  divisors = [d for d in range(1, cols + 1) if cols % d == 0]
  return min(([d, *_widths(cols // d, cores - 1)] for d in divisors), key=sum)
