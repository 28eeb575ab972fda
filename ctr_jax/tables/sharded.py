r"""Rows of tables that are split over a mesh: fetched from their owners, updated where they live.

Automatic partitioning has no all-to-all for `table[ids]`: it adds up an array of all reads, and of
the whole shard on the way back. Here each device asks the owners for the distinct rows of its own
samples, in buckets of a fixed capacity, and gets them in their stored type; gradients, one for each
distinct row, take the same way, and the owner adds up those of all devices before its optimizer
sees them. No message depends on the rows of a table.

Everything here runs inside `shard_map`: arrays are the part of one device. A bucket that is too
small loses nothing: the owners' rows are cut into 2, 4, 8, … ranges until each range of each owner
fits its bucket, and the exchange takes as many rounds. A row is in one range, whoever asks for it,
so that its gradients still meet in one update.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ctr_jax.tables import gather, rowwise
from ctr_jax.tables import leaf as leaf_lib


class Lie(NamedTuple):
  """How one array lies on the mesh.

  Attributes:
    split: 'rows', 'columns' or 'nothing'.
    over: mesh axes that it is split over.
    parts: devices along them.
    copies: the other mesh axes, along which devices hold the same.
  """

  split: str
  over: tuple[str, ...]
  parts: int
  copies: tuple[str, ...]


def capacity(reads: int, parts: int, slack: float) -> int:
  """Rows of a bucket: `slack` times the share of one owner, if all own as many of the reads."""
  return max(1, min(reads, int(-(-reads * slack // parts))))


class Plan(NamedTuple):
  """How the rows of one batch travel.

  Attributes:
    rounds: int32, a power of two, the same on all devices.
    width: int32, rows of each owner that a round is about.
    overflow: int32, rows of this device that one round would not have had room for.
    received: int32, rows that this device is asked for, by all.
  """

  rounds: jax.Array
  width: jax.Array
  overflow: jax.Array
  received: jax.Array


def plan(unique: jax.Array, rows: int, lie: Lie, bucket: int) -> Plan:
  """How `unique` (int32 [n], ascending, padded with `rows`) gets to its owners."""
  share = rows // lie.parts
  if bucket >= len(unique):
    nothing = jnp.int32(0)
    counts = _counts(unique, share, lie)
    return Plan(jnp.int32(1), jnp.int32(share), nothing, _received(counts, lie))
  owner, local = unique // share, unique % share

  def crowded(rounds):
    piece = local // -(-share // rounds)
    # Rows are in order: a bucket overflows where one and the `bucket`th after it are together.
    near, far = slice(None, -bucket), slice(bucket, None)
    together = (owner[near] == owner[far]) & (piece[near] == piece[far]) & (owner[far] < lie.parts)
    return jax.lax.pmax(jnp.any(together).astype(jnp.int32), (*lie.over, *lie.copies)) > 0

  rounds = jax.lax.while_loop(crowded, lambda rounds: rounds * 2, jnp.int32(1))
  counts = _counts(unique, share, lie)
  overflow = jnp.sum(jnp.maximum(counts - bucket, 0))
  return Plan(rounds, -(-share // rounds), overflow, _received(counts, lie))


def _counts(unique, share, lie):
  """Rows of each owner."""
  edges = jnp.searchsorted(unique, share * jnp.arange(lie.parts + 1, dtype=jnp.int32))
  return jnp.diff(edges).astype(jnp.int32)


def _received(counts, lie):
  if lie.split != 'rows':
    return jnp.sum(counts)
  return jnp.sum(_exchanged(counts[:, None], lie))


def _exchanged(x, lie):
  """[parts, ...], one entry for each device that shares the array, to one from each."""
  return x if lie.parts == 1 else jax.lax.all_to_all(x, lie.over, 0, 0, tiled=True)


def _bucket(unique, rows, lie, travel, turn, size):
  """What this device has to ask of each owner in one round.

  Returns:
    at: int32 [parts, size], places in `unique`; len(unique) where there is none.
    ids: int32 [parts, size], row numbers of the owner's part; its number of rows for none.
  """
  share = rows // lie.parts
  first = share * jnp.arange(lie.parts, dtype=jnp.int32)
  low = first + jnp.minimum(turn * travel.width, share)
  high = first + jnp.minimum((turn + 1) * travel.width, share)
  start, stop = jnp.searchsorted(unique, low), jnp.searchsorted(unique, high)
  at = start[:, None] + jnp.arange(size)[None]
  there = at < stop[:, None]
  ids = jnp.where(there, unique.at[at].get(mode='clip') - first[:, None], share)
  return jnp.where(there, at, len(unique)).astype(jnp.int32), ids.astype(jnp.int32)


def fetch(
  array: jax.Array, unique: jax.Array, rows: int, lie: Lie, travel: Plan, size: int
) -> jax.Array:
  """The stored rows at `unique`, wherever they live.

  Args:
    array: this device's part.
    unique: int32 [n], ascending distinct rows of the whole array, padded with `rows`.
    rows: of the whole array.
    lie: how the array lies.
    travel: of `plan`.
    size: of a bucket.

  Returns:
    [n, ...]; zeros at padding, if the array is split by rows.
  """
  if lie.split == 'nothing':
    return gather.rows_of(array, unique)
  if lie.split == 'columns':
    asked = jax.lax.all_gather(unique, lie.over)  # [parts, n]
    parts = _exchanged(array.at[asked].get(mode='clip'), lie)
    return jnp.concatenate(list(parts), axis=-1)

  def turn(i, found):
    at, ids = _bucket(unique, rows, lie, travel, i, size)
    sent = array.at[_exchanged(ids, lie)].get(mode='clip')
    got = _exchanged(sent, lie).reshape(-1, *array.shape[1:])
    return found.at[at.reshape(-1)].set(got, mode='drop', unique_indices=True)

  return _turns(travel, turn, jnp.zeros((len(unique), *array.shape[1:]), array.dtype))


def _turns(travel, turn, start):
  return jax.lax.fori_loop(0, travel.rounds, turn, start)


def update(
  optimizer: rowwise.RowOptimizer,
  leaf: leaf_lib.Leaf,
  array: jax.Array,
  slots: dict[str, jax.Array],
  unique: jax.Array,
  gradients: jax.Array,
  lie: Lie,
  travel: Plan,
  size: int,
  *,
  scale: Any,
  step: jax.Array,
  key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """One step on the rows that any device read: `rowwise.apply` by their owners.

  Args:
    optimizer, scale, step, key: as for `rowwise.apply`; the key is the same on all devices.
    leaf: describes the whole array.
    array, slots: this device's part.
    unique, lie, travel, size: as for `fetch`.
    gradients: float [n, ...], of the loaded rows at `unique`.

  Returns:
    The new part and slots.
  """
  local = dataclasses.replace(leaf, shape=array.shape)
  if lie.parts > 1:  # The parts round at random apart from each other, copies alike.
    key = jax.random.fold_in(key, jax.lax.axis_index(lie.over))

  def apply(array, slots, ids, slopes, key):
    if lie.copies:
      ids, slopes = jax.lax.all_gather((ids, slopes), lie.copies, tiled=True)
    own, total = summed(ids, slopes, local.rows)
    here = local.load(gather.rows_of(array, own))
    return rowwise.apply(
      optimizer, local, array, slots, own, here, total, scale=scale, step=step, key=key
    )

  if lie.split == 'nothing':
    if len(unique) > leaf.rows:  # As many rows as there are: added up as they lie.
      ids, slopes = _added(unique, gradients, leaf.rows, lie)
      here = local.load(gather.rows_of(array, ids))
      return rowwise.apply(
        optimizer, local, array, slots, ids, here, slopes, scale=scale, step=step, key=key
      )
    return apply(array, slots, unique, gradients, key)
  if lie.split == 'columns':
    ids = jax.lax.all_gather(unique, lie.over, tiled=True)
    slopes = jnp.stack(jnp.split(gradients, lie.parts, axis=-1))
    slopes = _exchanged(slopes, lie).reshape(len(ids), *array.shape[1:])
    return apply(array, slots, ids, slopes, key)

  def turn(i, now):
    at, ids = _bucket(unique, leaf.rows, lie, travel, i, size)
    slopes = gradients.at[at].get(mode='fill', fill_value=0)
    ids, slopes = _exchanged(ids, lie), _exchanged(slopes, lie)
    slopes = slopes.reshape(-1, *gradients.shape[1:])
    return apply(*now, ids.reshape(-1), slopes, jax.random.fold_in(key, i))

  return _turns(travel, turn, (array, slots))


def summed(ids: jax.Array, slopes: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
  """Distinct ids (ascending, padded with `rows`) and the sum of the gradients of each."""
  own, where = gather.deduplicate_on_device(ids, rows)
  return own, jax.ops.segment_sum(slopes, where, len(own))


def _added(unique, slopes, rows, lie):
  """`summed` over all devices, for an array with no more rows than a batch can touch."""
  dense = jnp.zeros((rows, *slopes.shape[1:]), slopes.dtype)
  dense = dense.at[unique].set(slopes, mode='drop', unique_indices=True)
  read = jnp.zeros((rows,), jnp.int32).at[unique].set(1, mode='drop', unique_indices=True)
  dense, read = jax.lax.psum((dense, read), (*lie.over, *lie.copies))
  own = jnp.nonzero(read, size=rows, fill_value=rows)[0].astype(jnp.int32)
  return own, dense.at[own].get(mode='fill', fill_value=0)
