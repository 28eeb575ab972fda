"""Codes of centroids, without jax; see `codec`."""

from __future__ import annotations

import math

import numpy as np

from ctr_jax.serve import hashing
from ctr_jax.serve.codec import WHOLE, Codec, Leaf


def _leaves(leaf, centroids, parts):
  """Leaves of the codes and of the vectors that they name."""
  rows, cols = leaf.shape
  codes = Leaf((rows, parts), 'uint8', ('row', 'byte'))
  shape = (parts, min(centroids, rows), math.ceil(cols / parts))
  return codes, Leaf(shape, 'float32', ('part', 'centroid', 'col'))


def _look_up(xp, vectors, codes, cols):
  """Vectors [parts, centroids, sub], codes [..., parts] → [..., cols]."""
  parts, centroids, sub = vectors.shape
  # A code that names no centroid reads the last one, as in jax, and none of the next part's.
  codes = xp.minimum(codes.astype(np.int32), np.int32(centroids - 1))
  at = codes + np.arange(parts, dtype=np.int32) * np.int32(centroids)
  found = xp.take(xp.reshape(vectors, (parts * centroids, sub)), at, axis=0)
  found = xp.reshape(found, (-1, *codes.shape[1:-1], parts * sub))
  return found if parts * sub == cols else xp.take(found, np.arange(cols), axis=-1)


def _product_quantize(leaf, centroids, parts, iterations):
  del iterations
  codes, vectors = _leaves(leaf, centroids, parts)
  return Codec(
    {'code': codes, 'codebook': vectors},
    lambda ids: {'code': ids, 'codebook': WHOLE},
    lambda xp, rows: _look_up(xp, rows['codebook'], rows['code'], leaf.shape[1]),
  )


def _cce(leaf, centroids, parts, seed, iterations):
  del iterations
  cols = leaf.shape[1]
  codes, vectors = _leaves(leaf, centroids, parts)
  _, stored, sub = vectors.shape
  plan = {'code': codes, 'cluster': vectors}
  names = [f'helper_{j}' for j in range(parts)]
  for j, name in enumerate(names):
    plan[name] = leaf._replace(shape=(stored, min(cols, (j + 1) * sub) - j * sub))

  def address(ids):
    helpers = {name: hashing.bucket(ids, seed + j, stored) for j, name in enumerate(names)}
    return {'code': ids, 'cluster': WHOLE} | helpers

  def decode(xp, rows):
    helpers = xp.concatenate([rows[name] for name in names], axis=-1)
    return _look_up(xp, rows['cluster'], rows['code'], cols) + helpers

  return Codec(plan, address, decode)


TECHNIQUES = {'product_quantize': _product_quantize, 'cce': _cce}
"""Name → (table, **arguments of the technique) → codec."""
