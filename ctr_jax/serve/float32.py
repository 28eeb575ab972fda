"""What a float32 says: the double of its text, as the ETL engine writes it.

The engine reads a column as text, and a float32's text is its own: 1.1, not 1.10000002384185791.
So a float32 becomes the double 1.1 before it is looked up, put into a bucket or rounded again.
"""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from typing import Any

import numpy as np


def doubles(x: np.ndarray) -> np.ndarray:
  """float64 [n] from float16 or float32 [n], by their texts; NaN and infinities as they are.

  A text has the fewest digits that only this float32 has, the nearest of those; where that does not
  say which (see `_undecided`), the engine writes the digits of the double, and so it is here.
  """
  x = x.astype(np.float32)
  exact = x.astype(np.float64)
  short = x.astype('U16').astype(np.float64)
  with np.errstate(over='ignore', invalid='ignore'):
    bounds = [
      (exact + np.nextafter(x, np.float32(towards)).astype(np.float64)) / 2
      for towards in (-np.inf, np.inf)
    ]
    # Others have more digits than a float32 needs, so that nothing is undecided.
    few = np.any([np.ldexp(value, 14) % 1 == 0 for value in (exact, *bounds)], axis=0)
  for i in np.flatnonzero(few & (short != exact) & (np.abs(exact) < 1e20)).tolist():
    if _undecided(exact[i], short[i], [value[i] for value in bounds]):
      short[i] = exact[i]
  return short


def _undecided(exact, short, bounds):
  """Whether fewer digits say a bound, halfway to a neighbour, or two texts are equally near."""
  last = _last(short)[1]
  if any(bound == short or _last(bound)[1] > last for bound in bounds):
    return True
  return _last(exact) == (5, last - 1)


def _last(x):
  """The last digit of a number that is not zero, and which power of ten it counts."""
  _, digits, power = decimal.Decimal(repr(float(x))).normalize().as_tuple()
  return digits[-1], power


def plain(column: Sequence[Any]) -> Sequence[Any]:
  """A column whose float16 and float32 are floats, by their texts; another as it is."""
  at = [i for i, x in enumerate(column) if isinstance(x, (np.float16, np.float32))]
  if not at:
    return column
  found = list(column)
  values = doubles(np.array([found[i] for i in at], np.float32)).tolist()
  for i, value in zip(at, values, strict=True):
    found[i] = value
  return found
