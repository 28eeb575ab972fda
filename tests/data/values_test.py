"""Hashes against known answers and a slow implementation; buckets against the definition."""

import datetime
import math
import time

import hypothesis
import numpy as np
from hypothesis import strategies as st

from ctr_jax.data import schema, values
from tests.data import reference


def _hash(*texts):
  data = [t if isinstance(t, bytes) else t.encode() for t in texts]
  offsets = np.cumsum([0, *map(len, data)])
  return values.hash64(np.frombuffer(b''.join(data), np.uint8), offsets)


def _unmix(h):
  """Undoes the finaliser, leaving FNV-1a, whose answers are published."""
  mask = 2**64 - 1
  h ^= h >> 33
  h = h * pow(0xC4CEB9FE1A85EC53, -1, 2**64) & mask
  h ^= h >> 33
  h = h * pow(0xFF51AFD7ED558CCD, -1, 2**64) & mask
  return h ^ (h >> 33)


def test_hash_is_fnv1a_with_its_published_answers():
  found = [_unmix(int(h)) for h in _hash('', 'a', 'b', 'foobar')]
  assert found == [0xCBF29CE484222325, 0xAF63DC4C8601EC8C, 0xAF63DF4C8601F1A5, 0x85944171F73967E8]


def test_hash_never_changes():
  # Stored data sets and served models hold rows that came of these.
  found = [f'{int(h):016x}' for h in _hash('', 'a', 'foobar', '68fd1e64', 'ø')]
  assert found == [
    'efd01f60ba992926',
    '82a2a958a9bece5b',
    '2c22194922d1672b',
    'a9ab96d049fc30db',
    'e7585df120a75be3',
  ]


def test_a_long_text_is_soon_hashed():
  # Among short ones, which are hashed side by side.
  texts = [b'', *(bytes([i] * (i + 1)) for i in range(40)), bytes(range(256)) * 1500]
  began = time.perf_counter()
  found = _hash(*texts)
  assert time.perf_counter() - began < 1  # One position at a time takes two seconds.
  np.testing.assert_array_equal(found, np.array([reference.hash64(t) for t in texts], np.uint64))


@hypothesis.given(st.lists(st.binary(max_size=40), max_size=30))
def test_hash_equals_the_slow_one(texts):
  np.testing.assert_array_equal(
    _hash(*texts), np.array([reference.hash64(t) for t in texts], np.uint64)
  )


def test_hash_rows():
  feature = schema.Feature('agent', 'hash', buckets=7)
  texts = ['x', '', None, 'safari', 'x']
  expected = [1 + reference.hash64(t.encode()) % 7 if t else 0 for t in texts]
  found = values.hash_rows(feature, texts)
  assert found.dtype == np.int32
  np.testing.assert_array_equal(found, expected)


def test_hash_spreads_evenly():
  feature = schema.Feature('id', 'hash', buckets=64)
  counts = np.bincount(values.hash_rows(feature, [f'{i:08x}' for i in range(64_000)]))[1:]
  assert counts.size == 64
  # Chi-square with 63 degrees of freedom: mean 63, standard deviation 11.
  assert ((counts - 1000) ** 2 / 1000).sum() < 63 + 5 * 11


@hypothesis.given(st.lists(st.floats(-1e6, 1e12), min_size=1))
def test_log2_buckets(numbers):
  feature = schema.Feature('n', 'bucket', transform='log2')
  expected = [math.floor(math.log(x) ** 2) if x > 2 else math.floor(x) - 3 for x in numbers]
  np.testing.assert_array_equal(values.buckets(feature, np.array(numbers)), expected)


def test_log2_keeps_small_numbers_apart():
  feature = schema.Feature('n', 'bucket')
  found = values.buckets(feature, np.arange(-3.0, 8.0))
  #                                     -3  -2  -1   0   1   2  3  4  5  6  7
  np.testing.assert_array_equal(found, [-6, -5, -4, -3, -2, -1, 1, 1, 2, 3, 3])


def test_boundaries():
  feature = schema.Feature('n', 'bucket', transform='boundaries', boundaries=(0, 10, 100))
  found = values.buckets(feature, np.array([-1, 0, 9.9, 10, 99, 100, 1e9]))
  np.testing.assert_array_equal(found, [0, 1, 1, 2, 2, 3, 3])


def test_clock():
  begin = datetime.datetime(2000, 1, 1)
  times = [begin + datetime.timedelta(hours=7919 * i) for i in range(100)]
  x = np.array([float(t.strftime('%y%m%d%H')) for t in times])
  for transform, expected in (
    ('hour', [t.hour for t in times]),
    ('weekday', [t.weekday() for t in times]),
    ('weekend', [int(t.weekday() >= 5) for t in times]),
  ):
    feature = schema.Feature('t', 'bucket', transform=transform)
    np.testing.assert_array_equal(values.buckets(feature, x), expected)
