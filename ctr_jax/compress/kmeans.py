"""k-means in blocks of rows: no array of rows × centroids is made, whatever the rows.

Deterministic: where Lloyd's iterations start is drawn by hashes, not by a key.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from ctr_jax.compress import hashing

# Rows compared with all centroids at a time: a megabyte or two of distances for 256 of them.
_BLOCK = 1 << 11


def squared_distance(points: jax.Array, centres: jax.Array) -> jax.Array:
  """[n, d] × [k, d] → [n, k].

  By differences, column by column, which takes two CPU cores as long as |x|² − 2xc + |c|² by a
  product (50k × 256 × 8: 60 ms), and does not cancel where points are close.
  """
  columns = range(points.shape[1])
  return sum(jnp.square(points[:, i, None] - centres[None, :, i]) for i in columns)


@functools.partial(jax.jit, static_argnums=1)
def start(points: jax.Array, centroids: int) -> jax.Array:
  """k-means++ (Arthur & Vassilvitskii, 2007): each next centre with probability ∝ distance².

  A point at distance zero is never drawn while others are left, so that as many centroids as
  distinct points are these points: nothing is lost from there on. The draw is a race: the smallest
  of exponential times of rate distance².

  Args:
    points: float32 [n, d].
    centroids: k.

  Returns:
    [k, d] of the points.
  """
  ids = jnp.arange(points.shape[0])

  def race(rate, turn):
    # Small times win, and float32 is finest near 0: -log(u) would round them to 0.
    uniform = ((hashing.mix(ids, turn) >> 8).astype(jnp.float32) + 0.5) * 2.0**-24
    return points[jnp.argmin(jnp.where(rate > 0, -jnp.log1p(-uniform) / rate, jnp.inf))]

  def distance(centre):
    return squared_distance(points, centre[None])[:, 0]

  def add(turn, found):
    centres, nearest = found
    centre = race(nearest, turn)
    return centres.at[turn].set(centre), jnp.minimum(nearest, distance(centre))

  first = race(jnp.ones(ids.shape), 0)  # Drawn evenly.
  centres = jnp.zeros((centroids, points.shape[1]), points.dtype).at[0].set(first)
  return jax.lax.fori_loop(1, centroids, add, (centres, distance(first)))[0]


def _blocks(n: int):
  """Length of a block, how many there are; the last one overlaps that before it."""
  length = min(n, _BLOCK)
  return length, -(-n // length)


def assign(points: jax.Array, centres: jax.Array) -> jax.Array:
  """int32 [n], the nearest centre of each point; the first of those as near."""
  length, blocks = _blocks(points.shape[0])

  def block(i, codes):
    at = jnp.minimum(i * length, points.shape[0] - length)
    x = jax.lax.dynamic_slice_in_dim(points, at, length)
    near = jnp.argmin(squared_distance(x, centres), axis=1).astype(jnp.int32)
    return jax.lax.dynamic_update_slice_in_dim(codes, near, at, 0)

  return jax.lax.fori_loop(0, blocks, block, jnp.zeros(points.shape[0], jnp.int32))


def update(points: jax.Array, codes: jax.Array, centres: jax.Array) -> jax.Array:
  """The mean of the points of each code; a centre that has none stays where it is."""
  total = jnp.zeros_like(centres).at[codes].add(points)
  # Integers: a float32 counts no further than 2^24.
  count = jnp.zeros((centres.shape[0], 1), jnp.int32).at[codes].add(1)
  return jnp.where(count > 0, total / jnp.maximum(count, 1).astype(total.dtype), centres)


@functools.partial(jax.jit, static_argnums=2)
def lloyd(points: jax.Array, centres: jax.Array, iterations: int) -> tuple[jax.Array, jax.Array]:
  """Lloyd's iterations: the codes are the nearest of the centres that are returned.

  Args:
    points: float32 [n, d].
    centres: [k, d], where to start.
    iterations: how many times centres move; the squared error never grows.

  Returns:
    Codes, int32 [n], and centres [k, d].
  """

  def iterate(_, centres):
    return update(points, assign(points, centres), centres)

  centres = jax.lax.fori_loop(0, iterations, iterate, centres)
  return assign(points, centres), centres


def by_part(
  table: jax.Array, parts: int, centroids: int, iterations: int
) -> tuple[jax.Array, jax.Array]:
  """k-means of each of `parts` slices of the columns, padded with zeros to ⌈cols/parts⌉ each.

  Returns:
    Codes, uint8 [rows, parts], and centres [parts, centroids, ⌈cols/parts⌉].
  """
  sub = -(-table.shape[1] // parts)
  table = jnp.pad(table.astype(jnp.float32), [(0, 0), (0, parts * sub - table.shape[1])])
  found = []
  for part in range(parts):
    points = table[:, part * sub : (part + 1) * sub]
    found.append(lloyd(points, start(points, centroids), iterations))
  codes, centres = zip(*found, strict=True)
  return jnp.stack(codes, axis=1).astype(jnp.uint8), jnp.stack(centres)
