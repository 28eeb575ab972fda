"""What values were encoded as, at hand for when they come again.

Most values of a request came before: the same items, cities, devices. Finding a text in a
vocabulary means to hash and compare it in several passes; one that is remembered is one look into a
dict.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

LIMIT = 16_384
"""Values that are remembered; one more, and all are forgotten. Mostly some 3 MB."""

LONGEST = 1_000
"""Bytes of a value that is remembered: a text, a list of texts or an integer of many digits; so the
limit is one of memory too."""

_ENCODED = 4 << 20  # Bytes of what they are encoded as: of long lists fewer are remembered.


class Remembered:
  """`encode`, asked for distinct values that are not at hand. Safe to call from several threads.

  Args:
    encode: values → array [n, ...], each value by itself.
    unknown: remember those too that are encoded as zeros and padding. Without it a flood of unknown
      values drives no known one out.
    limit: see `LIMIT`.
  """

  def __init__(
    self,
    encode: Callable[[Sequence[Any]], np.ndarray],
    unknown: bool = False,
    limit: int = LIMIT,
  ):
    self._encode, self._unknown, self._limit = encode, unknown, limit
    self._lock = threading.Lock()
    self._held: tuple[dict[Hashable, int], np.ndarray | None] = {}, None

  def __call__(self, values: Sequence[Hashable]) -> np.ndarray:
    """Encoded values, [n, ...].

    Raises:
      Whatever `encode` raises; where it names a row, it is the row in `values`.
    """
    place, held = self._held  # Together: another thread may forget them at any time.
    at = list(map(place.get, values))
    if held is not None and None not in at:
      return held[at]
    new = list(dict.fromkeys(x for x, i in zip(values, at, strict=True) if i is None))
    made = self._made(new, values)
    found = np.empty((len(at), *made.shape[1:]), made.dtype)
    of_new = {x: i for i, x in enumerate(new)}
    fresh = [i for i, where in enumerate(at) if where is None]
    found[fresh] = made[[of_new[x] for x, where in zip(values, at, strict=True) if where is None]]
    if len(fresh) < len(at):
      known = [i for i, where in enumerate(at) if where is not None]
      found[known] = held[[at[i] for i in known]]
    self._remember(new, made)
    return found

  def _made(self, new, values):
    try:
      return self._encode(new)
    except ValueError:
      self._encode(values)  # For the row that it names.
      raise

  def _remember(self, new, made):
    kept = [i for i, x in enumerate(new) if _size(x) <= LONGEST]
    if not self._unknown:
      known = (made > 0).any(axis=tuple(range(1, made.ndim))).tolist()  # Lists are padded with -1.
      kept = [i for i in kept if known[i]]
    if not kept:
      return
    limit = min(self._limit, max(_ENCODED // made[0].nbytes, 1))
    kept = kept[:limit]
    with self._lock:
      place, held = self._held
      kept = [i for i in kept if new[i] not in place]  # Another thread may have been first.
      if held is None or len(place) + len(kept) > limit:
        place, held = {}, np.empty((limit, *made.shape[1:]), made.dtype)
      start = len(place)
      held[start : start + len(kept)] = made[kept]
      # Only now may they be found.
      place.update((new[i], start + j) for j, i in enumerate(kept))
      self._held = place, held


def _size(value):
  inner = map(sys.getsizeof, value) if isinstance(value, tuple) else ()
  return sys.getsizeof(value) + sum(inner)
