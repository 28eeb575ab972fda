"""What a raw value becomes before it is a row number: hashes and buckets, in NumPy alone.

Encoding and serving use these same functions, so a value cannot mean two things.
"""

from collections.abc import Sequence

import numpy as np

from ctr_jax.data import schema as schema_lib

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_FEW = 16  # Texts that are sooner done one after another in Python than side by side in NumPy.


def hash64(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
  """A 64-bit hash of each text: FNV-1a over its UTF-8 bytes, then MurmurHash3's finaliser.

  FNV-1a alone leaves the high bytes of short texts poorly mixed; the finaliser spreads them.

  Args:
    data: uint8, the texts' bytes end to end.
    offsets: integers [n + 1]; text i is data[offsets[i]:offsets[i + 1]], as Arrow lays it out.

  Returns:
    uint64 [n].
  """
  starts = np.asarray(offsets[:-1], np.int64)
  lengths = np.asarray(offsets[1:], np.int64) - starts
  hashes = np.full(len(lengths), _FNV_OFFSET)
  # One byte position at a time over all texts that are that long, while there are many.
  position, left = 0, np.flatnonzero(lengths)
  while len(left) > _FEW:
    hashes[left] = (hashes[left] ^ data[starts[left] + position]) * _FNV_PRIME
    position += 1
    left = left[lengths[left] > position]
  for i in left.tolist():
    found = int(hashes[i])
    for byte in data[starts[i] + position : starts[i] + lengths[i]].tobytes():
      found = (found ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    hashes[i] = found
  return mix64(hashes)


def mix64(x: np.ndarray) -> np.ndarray:
  """MurmurHash3's 64-bit finaliser: a bijection of uint64 that spreads every bit."""
  x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
  x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
  return x ^ (x >> np.uint64(33))


def hash_rows(feature: schema_lib.Feature, texts: Sequence[str | None]) -> np.ndarray:
  """int32 rows of a `hash` feature: 0 for a missing text, else 1 + hash64 mod buckets."""
  encoded = [(text or '').encode() for text in texts]
  offsets = np.cumsum([0, *map(len, encoded)])
  return reduce_hash(feature, np.frombuffer(b''.join(encoded), np.uint8), offsets)


def reduce_hash(feature: schema_lib.Feature, data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
  """As `hash_rows`, from bytes and offsets; an empty text is missing."""
  rows = (hash64(data, offsets) % np.uint64(feature.buckets)).astype(np.int32) + np.int32(1)
  rows[np.diff(offsets) == 0] = 0
  return rows


def is_time(x: np.ndarray) -> np.ndarray:
  """Whether numbers are times YYMMDDHH; NaN is none."""
  with np.errstate(invalid='ignore'):
    hour, day, month = x % 100, np.floor(x / 100) % 100, np.floor(x / 10_000) % 100
    whole = (np.floor(x) == x) & (x >= 0) & (x <= 99_123_123)
    return whole & (hour < 24) & (day >= 1) & (day <= 31) & (month >= 1) & (month <= 12)


def buckets(feature: schema_lib.Feature, x: np.ndarray) -> np.ndarray:
  """int64 buckets of float64 numbers, none of them NaN: see `Feature.transform`."""
  if feature.transform == 'log2':
    large = x > 2
    logs = np.floor(np.log(np.where(large, x, 3.0)) ** 2)
    # 2, 1, 0, -1, ... become -1, -2, -3, -4, ...: apart from every logarithm, which is >= 0.
    return np.where(large, logs, np.floor(x) - 3).astype(np.int64)
  if feature.transform == 'boundaries':
    return np.searchsorted(np.asarray(feature.boundaries), x, side='right').astype(np.int64)
  hours = x.astype(np.int64)
  if feature.transform == 'hour':
    return hours % 100
  day, month, year = hours // 100 % 100, hours // 10_000 % 100, hours // 1_000_000
  months = ((year + 30) * 12 + month - 1).astype('datetime64[M]')  # Since 1970-01.
  days = months.astype('datetime64[D]').astype(np.int64) + day - 1
  weekday = (days + 3) % 7  # 1970-01-01 was a Thursday.
  return weekday if feature.transform == 'weekday' else (weekday >= 5).astype(np.int64)
