"""Ranges of row numbers, that is of frequency ranks, each stored in its own way."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax.compress.codec import Codec, Technique, identity, prices_rows, technique, where_read
from ctr_jax.tables import leaf as leaf_lib


def _identity_matrix(key, shape, dtype):
  del key
  return jnp.eye(*shape, dtype=dtype)


@technique
def partition(starts: tuple[int, ...], parts: tuple[Technique, ...]):
  """Rows starts[i] ≤ id < starts[i+1] are stored by parts[i].

  Row numbers are frequency ranks, so that a range is a level of popularity. An id reads nothing in
  the parts of others. As vectors are made from what was gathered alone, the part of an id is itself
  gathered: `which`, a row of the identity matrix of as many bytes as parts squared.

  One part ≡ that part. partition((0, k), (identity(), t)) ≡ hot_cold(k, t).

  Args:
    starts: where each part begins, ascending from 0; parts that begin beyond the table are empty.
    parts: a technique for each; `drop()` gives zero vectors.
  """
  starts, parts = tuple(starts), tuple(parts)
  if len(starts) != len(parts) or starts[:1] != (0,) or list(starts) != sorted(set(starts)):
    raise ValueError(
      f'partition needs starts that ascend from 0 and a part for each, got {starts} and '
      f'{len(parts)} parts.'
    )

  def build(leaf):
    rows, cols = leaf.shape
    used = [start for start in starts if start < rows]
    ends = [*used[1:], rows]
    counts = [end - start for start, end in zip(used, ends, strict=True)]
    codecs = [
      part(dataclasses.replace(leaf, shape=(n, cols)))
      for part, n in zip(parts[: len(used)], counts, strict=True)
    ]
    names = [f'part_{i}' for i in range(len(used))]
    plan = {name: codec.plan for name, codec in zip(names, codecs, strict=True)}
    plan['which'] = leaf_lib.Leaf(
      (len(used),) * 2, jnp.uint8, ('row', 'part'), _identity_matrix, frozen=True
    )

    def address(ids):
      xp = jnp if isinstance(ids, jax.Array) else np
      bounds = xp.asarray([*used[1:], rows], np.int32)
      found = {'which': xp.searchsorted(bounds, ids, side='right').astype(np.int32)}
      for i, (name, codec) in enumerate(zip(names, codecs, strict=True)):
        inside = found['which'] == i
        local = xp.where(inside, ids - np.int32(used[i]), np.int32(counts[i]))
        found[name] = where_read(inside, codec.plan, codec.address(local))
      return found

    def decode(gathered, **context):
      which = gathered['which'] != 0
      total = jnp.zeros((*which.shape[:-1], cols), jnp.float32)
      for i, (name, codec) in enumerate(zip(names, codecs, strict=True)):
        vectors = codec.decode(gathered[name], **context)
        if vectors is not None:
          total = jnp.where(which[..., i, None], vectors, total)
      return total

    def encode(table):
      cut = zip(names, codecs, used, ends, strict=True)
      arrays = {name: codec.encode(table[start:end]) for name, codec, start, end in cut}
      return arrays | {'which': jnp.eye(len(used), dtype=jnp.uint8)}

    for part, codec in zip(parts, codecs, strict=False):
      if codec.penalty and prices_rows(codec.plan):
        raise ValueError(
          f'partition cannot take {part}: it prices the rows that are read, and most reads of a '
          'part are none. Use a threshold per table or per column.'
        )
    penalised = [(n, c, k) for n, c, k in zip(names, codecs, counts, strict=True) if c.penalty]

    def penalty(gathered, **context):  # Each by its share of the rows.
      return sum(c.penalty(gathered[n], **context) * (k / rows) for n, c, k in penalised)

    return Codec(plan, encode, address, decode, penalty if penalised else None)

  return build


@technique
def hot_cold(hot: int, tail: Technique):
  """A row of its own for each of the `hot` most frequent ids, `tail` for the others (after CAFE,
  Zhang et al., SIGMOD 2024, whose hot ids are found while training; here ranks are known).

  Lossless for hot ids. ≡ partition((0, hot), (identity(), tail)).
  """
  if hot < 1:
    raise ValueError(f'hot_cold needs at least one hot row, got {hot}.')
  return partition((0, hot), (identity(), tail)).build
