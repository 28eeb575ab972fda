"""Vectors that rows share, and the codes by which each row names its own: the leaves of both."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ctr_jax.tables import leaf as leaf_lib


def check(name: str, centroids: int, parts: int, iterations: int) -> None:
  """Refuses what no table could be stored with."""
  if not 1 <= centroids <= 256:
    raise ValueError(f'{name}: a code is one byte, so 1 to 256 centroids, got {centroids}.')
  if parts < 1 or iterations < 0:
    raise ValueError(f'{name} needs parts ≥ 1 and iterations ≥ 0, got {parts} and {iterations}.')


def width(name: str, leaf: leaf_lib.Leaf, parts: int) -> int:
  """Columns of a part, ⌈cols/parts⌉; every part has to have one."""
  cols = leaf.shape[1]
  sub = -(-cols // parts)
  if (parts - 1) * sub >= cols:
    raise ValueError(f'{name}: {parts} parts of {sub} columns leave one without: there are {cols}.')
  return sub


def codes(rows: int, parts: int, centroids: int) -> leaf_lib.Leaf:
  """A frozen byte for each part of each row, drawn evenly before anything is learned."""

  def init(key, shape, dtype):
    return jax.random.randint(key, shape, 0, centroids, jnp.int32).astype(dtype)

  return leaf_lib.Leaf((rows, parts), jnp.uint8, ('row', 'byte'), init, frozen=True)


def vectors(leaf: leaf_lib.Leaf, parts: int, centroids: int, sub: int) -> leaf_lib.Leaf:
  """The vectors of all parts, float32 and read whole."""
  axes = ('part', 'centroid', 'col')
  return leaf_lib.Leaf((parts, centroids, sub), jnp.float32, axes, leaf.init)


def look_up(vectors: jax.Array, codes: jax.Array) -> jax.Array:
  """Vectors [parts, centroids, sub], codes [..., parts] → [..., parts · sub]."""
  parts, _, sub = vectors.shape
  found = vectors[jnp.arange(parts), codes.astype(jnp.int32)]
  return found.reshape(*codes.shape[:-1], parts * sub)
