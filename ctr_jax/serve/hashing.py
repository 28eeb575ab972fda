"""The seeded hashes of `compress.hashing` in NumPy alone: the same bits, as a test holds."""

import numpy as np

_GOLDEN = np.uint32(0x9E3779B9)


def _scramble(x):
  """Wellons' `lowbias32`."""
  x = x ^ (x >> np.uint32(16))
  x = x * np.uint32(0x7FEB352D)
  x = x ^ (x >> np.uint32(15))
  x = x * np.uint32(0x846CA68B)
  return x ^ (x >> np.uint32(16))


def mix(ids: np.ndarray, seed: int) -> np.ndarray:
  """A uint32 hash of the low 32 bits of each id; two rounds, each with a key of the seed."""
  with np.errstate(over='ignore'):  # NumPy warns when a scalar wraps, although arrays may.
    first = _scramble(np.uint32(seed & 0xFFFFFFFF) + _GOLDEN)
    second = _scramble(first + _GOLDEN)
    return _scramble(_scramble(ids.astype(np.uint32) ^ first) + second)


def bucket(ids: np.ndarray, seed: int, buckets: int) -> np.ndarray:
  """A bucket in 0..buckets-1 for each id, int32."""
  return (mix(ids, seed) % np.uint32(buckets)).astype(np.int32)


def family(ids: np.ndarray, seed: int, count: int, buckets: int) -> np.ndarray:
  """`bucket` by each of the seeds seed, seed + 1, ..., on a last axis of `count`."""
  return np.stack([bucket(ids, seed + j, buckets) for j in range(count)], axis=-1)
