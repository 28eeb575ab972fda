"""Value → row number from memory-mapped arrays, many at a time, without loading the vocabulary.

Texts of id and ids features, in ascending order of a 64-bit hash (`data.values.hash64`):

  hash    uint64 [n]       row  int32 [n]
  text    uint8 [bytes]    the texts' UTF-8 bytes, in the order of `hash`
  start   int64 [n + 1]    text i is text[start[i]:start[i + 1]]

A value is found by its hash and then compared byte by byte, so that no other value passes for it.
Numbers of bucket features: key int64 [n], ascending, and row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ctr_jax.data import values


def texts(words: Sequence[str]) -> dict[str, np.ndarray]:
  """The arrays of a vocabulary of texts; word i has row i + 1.

  Raises:
    ValueError: a word is there twice, or (once in 10⁷ vocabularies of a million) two share a hash.
  """
  data, start = _joined(words)
  found = values.hash64(data, start)
  order = np.argsort(found, kind='stable')
  ordered = found[order]
  twice = np.flatnonzero(ordered[1:] == ordered[:-1])
  if len(twice):
    one, other = (words[order[i]] for i in (twice[0], twice[0] + 1))
    raise ValueError(f'The vocabulary cannot tell {one!r} from {other!r}: their hashes are equal.')
  data, start = _joined([words[i] for i in order])
  return {'hash': ordered, 'row': (order + 1).astype(np.int32), 'text': data, 'start': start}


def numbers(words: Sequence[str]) -> dict[str, np.ndarray]:
  """The arrays of a vocabulary of whole numbers; word i has row i + 1."""
  keys = np.array([int(word) for word in words], np.int64)
  order = np.argsort(keys, kind='stable')
  return {'key': keys[order], 'row': (order + 1).astype(np.int32)}


def _joined(words):
  encoded = [word.encode() for word in words]
  start = np.zeros(len(encoded) + 1, np.int64)
  np.cumsum([len(x) for x in encoded], out=start[1:])
  return np.frombuffer(b''.join(encoded), np.uint8), start


def of_texts(arrays: Mapping[str, np.ndarray]) -> Callable[[Sequence[str]], np.ndarray]:
  """Texts → int32 rows, 0 for those that are not there (an empty one never is)."""
  hashes, rows, text, start = (arrays[name] for name in ('hash', 'row', 'text', 'start'))
  longest = int(np.diff(start).max(initial=0))

  def find(words):
    encoded = np.zeros(len(words), np.int32)
    asked = [i for i, word in enumerate(words) if 0 < len(word) <= longest]
    if not asked or not len(hashes):
      return encoded
    data, begin = _joined([words[i] for i in asked])
    lengths = np.diff(begin)
    wanted = values.hash64(data, begin)
    place = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
    alike = hashes[place] == wanted
    alike &= start[place + 1] - start[place] == lengths
    hits = np.flatnonzero(alike)
    same = _same(text, start[place[hits]], data, begin[hits], lengths[hits])
    hits = hits[same]
    encoded[np.asarray(asked)[hits]] = rows[place[hits]]
    return encoded

  return find


def _same(text, here, data, there, lengths):
  """Whether text[here:here + length] = data[there:there + length], for each; lengths ≥ 1."""
  if not len(lengths):
    return np.zeros(0, bool)
  first = np.cumsum(lengths) - lengths
  inner = np.arange(lengths.sum()) - np.repeat(first, lengths)
  equal = text[np.repeat(here, lengths) + inner] == data[np.repeat(there, lengths) + inner]
  return np.logical_and.reduceat(equal, first)


def of_numbers(arrays: Mapping[str, np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
  """Whole numbers, int64 → int32 rows, 0 for those that are not there."""
  keys, rows = np.asarray(arrays['key']), np.asarray(arrays['row'])

  def find(numbers):
    if not len(keys):
      return np.zeros(len(numbers), np.int32)
    place = np.minimum(np.searchsorted(keys, numbers), len(keys) - 1)
    return np.where(keys[place] == numbers, rows[place], 0).astype(np.int32)

  return find


def of_row_numbers(rows: int) -> Callable[[Sequence[str]], np.ndarray]:
  """Texts of row numbers → those rows, where data has no vocabulary; 0 for what is none."""

  def find(words):
    def one(word):
      return int(word) if word.isascii() and word.isdigit() and len(word) < 10 else 0

    found = np.array([one(word) for word in words], np.int64)
    return np.where(found < rows, found, 0).astype(np.int32)

  return find
