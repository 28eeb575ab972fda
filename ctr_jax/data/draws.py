"""Random numbers that are functions of a key and a counter, in vectorised NumPy.

Nothing has a state: the number of any row, or of any value, is had without those before it.
"""

import hashlib

import numpy as np


def key(seed: int, what: str, name: str) -> np.uint64:
  """The key of a stream; by name, so that a field added or removed changes no other."""
  digest = hashlib.blake2b(f'{seed}/{what}/{name}'.encode(), digest_size=8).digest()
  return np.uint64(int.from_bytes(digest, 'little'))


def hashed(key, counter: np.ndarray) -> np.ndarray:
  """SplitMix64: the counter-th number of the generator that starts at `key`."""
  x = counter.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
  x += key
  x ^= x >> np.uint64(30)
  x *= np.uint64(0xBF58476D1CE4E5B9)
  x ^= x >> np.uint64(27)
  x *= np.uint64(0x94D049BB133111EB)
  x ^= x >> np.uint64(31)
  return x


def uniform(bits: np.ndarray) -> np.ndarray:
  """In [0, 1): the upper 53 bits."""
  return (bits >> np.uint64(11)).view(np.int64) * 2.0**-53


# A 16-bit number p as 2p - 65535 is uniform and centred; this is its variance.
_VARIANCE = (2.0**32 - 1) / 3


def normal(bits: np.ndarray) -> np.ndarray:
  """Sum of the four 16-bit numbers, scaled to mean 0 and variance 1: nearly normal, |x| < 3.5.

  In integers, and so the same bits everywhere.
  """
  low = np.uint64(0x0000FFFF0000FFFF)
  pairs = (bits & low) + ((bits >> np.uint64(16)) & low)
  four = ((pairs + (pairs >> np.uint64(32))) & np.uint64(0xFFFFFFFF)).view(np.int64)
  return (2 * four - 4 * 65535) * (4 * _VARIANCE) ** -0.5


def vector(bits: np.ndarray) -> list[np.ndarray]:
  """The four 16-bit numbers, centred, as integers."""
  parts = [(bits >> np.uint64(16 * j)) & np.uint64(0xFFFF) for j in range(4)]
  return [2 * part.view(np.int64) - 65535 for part in parts]


def dot(a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
  """Inner product of two `vector`s, scaled to variance one."""
  return sum(x * y for x, y in zip(a, b, strict=True)) * (0.5 / _VARIANCE)


def power_law(u: np.ndarray, values: int, exponent: float) -> np.ndarray:
  """Rows 1..values: x of density ∝ x^-exponent on [1, values + 1), by inversion, rounded down."""
  end, power = values + 1.0, 1.0 - exponent
  if abs(power) < 1e-9:
    x = np.exp(u * np.log(end))
  else:
    x = (1 + u * (end**power - 1)) ** (1 / power)
  return np.minimum(x, values).astype(np.int32)
