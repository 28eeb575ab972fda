"""Seeded integer hashes: the same bits from NumPy and from JAX.

Everything is uint32 with wrap-around: no floats, and no 64-bit integers, which JAX lacks unless x64
is on. Only operators and `astype` are used, so an array stays what it is: NumPy on the host (input
pipeline, serving), JAX on the device or while tracing.
"""

import numpy as np

_GOLDEN = np.uint32(
  0x9E3779B9
)  # 2^32 / golden ratio: keeps seed 0 and id 0 away from the fixed point.


def _scramble(x):
  """Wellons' `lowbias32`: a bijection of uint32 in which each input bit flips each output bit with
  probability 1/2 to within 0.2%."""
  x = x ^ (x >> np.uint32(16))
  x = x * np.uint32(0x7FEB352D)
  x = x ^ (x >> np.uint32(15))
  x = x * np.uint32(0x846CA68B)
  return x ^ (x >> np.uint32(16))


def _uint32(x, what: str):
  if isinstance(x, int):
    return np.uint32(x & 0xFFFFFFFF)
  if not np.issubdtype(x.dtype, np.integer):
    raise TypeError(f'hashing: {what} must be integers, got {x.dtype}; cast them first.')
  return x.astype(np.uint32)


def mix(x, seed):
  """A uint32 hash of the low 32 bits of each of `x`; each seed is a function of its own.

  For one seed it is a bijection, so two ids never share all 32 bits. The seed is scrambled into two
  keys, one before each of two rounds: with the first alone, x and y under seed s and under seed t
  would differ by the same x ^ y, and their collisions would be related.

  Args:
    x: an int, or an integer array of NumPy or JAX.
    seed: an int, or an integer array that broadcasts against x. Neighbours 0, 1, 2, ... do.
  """
  with np.errstate(over='ignore'):  # NumPy warns when a scalar wraps, although arrays may.
    first = _scramble(_uint32(seed, 'the seed') + _GOLDEN)
    second = _scramble(first + _GOLDEN)
    return _scramble(_scramble(_uint32(x, 'ids') ^ first) + second)


def bucket(ids, seed, buckets: int):
  """A bucket in 0..buckets-1 for each id, as int32.

  The remainder, not multiply-shift, which needs the high half of a 64-bit product. A bucket's
  probability is off by less than buckets / 2^32 of itself. The number of buckets is static, so
  compilers turn the division into a multiplication.
  """
  if not 1 <= buckets < 2**31:
    raise ValueError(f'hashing: the number of buckets must be in 1..2^31-1, got {buckets}.')
  return (mix(ids, seed) % np.uint32(buckets)).astype(np.int32)


def family(ids, seed: int, count: int, buckets: int):
  """`bucket` by each of the seeds seed, seed + 1, ..., on a last axis of `count`."""
  seeds = (seed + np.arange(count)).reshape((1,) * ids.ndim + (count,))
  return bucket(ids[..., None], seeds, buckets)
