"""One trained table in another codec: row by row where both read the same rows, else encoded anew.

Nothing here knows a technique. Whether stored rows can stay is asked of the two codecs: for every
leaf, the rows that an id reads before and after are compared. Where each row of the new leaf stands
for one row of the old leaf, rows are copied, and so is what an optimizer keeps of them; then the
vectors of all ids are decoded both ways and have to be the same. Where rows do not correspond (the
digits of a tensor train's ids change with the number of rows) or vectors differ, it is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ctr_jax import predict
from ctr_jax.compress import codec as codec_lib
from ctr_jax.compress.encode import encode, extend
from ctr_jax.tables import gather
from ctr_jax.tables import leaf as leaf_lib

# Ids that are decoded at a time.
_BLOCK = 1 << 15

# Of the largest value: vectors that differ by less are the same.
_SAME = 1e-6


class Carried(NamedTuple):
  """What became of a table.

  Attributes:
    arrays: path → array, rows in order.
    rows: path → int32, for each row of the new leaf the row of the old one, -1 for none; None for a
      leaf that is taken whole. A path that is not there has nothing of the old table.
    note: what is to be said of it; '' for nothing.
  """

  arrays: dict[str, Any]
  rows: dict[str, np.ndarray | None]
  note: str = ''


def leaves(model: predict.Model, table: str) -> dict[str, leaf_lib.Leaf]:
  """Path → leaf, of one table; none of a table that is dropped or unknown."""
  return leaf_lib.flatten(model.codec.plan.get(table, {}), table)


def technique(model: predict.Model, table: str) -> codec_lib.Technique | None:
  """How a table is stored, where the model knows."""
  return codec_lib.match(table, model.rules) if model.rules else None


def vectors(model: predict.Model, table: str, arrays: Mapping[str, Any], ids: np.ndarray):
  """The vectors of ids of one table, float32 [ids, width], as they are evaluated."""
  plan = {table: model.codec.plan[table]}
  stored = leaf_lib.unflatten(plan, arrays)
  found = np.empty((len(ids), model.width), np.float32)
  for start in range(0, len(ids), _BLOCK):
    some = ids[start : start + _BLOCK]
    rows = gather.gather(plan, stored, model.codec.address({table: some}))
    found[start : start + _BLOCK] = model.codec.decode(rows, train=False)[table]
  return found


def copied(
  table: str,
  old: predict.Model,
  new: predict.Model,
  arrays: Mapping[str, Any],
  fresh: Mapping[str, Any],
  moved: np.ndarray,
) -> Carried | str:
  """The rows of a table where the new codec reads them, or why they cannot be copied.

  Args:
    table: its name.
    old: that it was trained in.
    new: that it is wanted in.
    arrays: path → array of the old plan, rows in order.
    fresh: path → array of the new plan, as before training: for rows that no old one stands for.
    moved: int32, for each id of the new table the old one, -1 for none.
  """
  here, there = leaves(old, table), leaves(new, table)
  if here.keys() != there.keys():
    return f'{_names(here, table)} became {_names(there, table)}'
  kept = np.flatnonzero(moved >= 0).astype(np.int32)
  before = leaf_lib.flatten(old.codec.address({table: moved[kept]}))
  after = leaf_lib.flatten(new.codec.address({table: kept}))
  count = min(old.rows[table], new.rows[table])
  in_place = len(kept) == count and np.array_equal(moved[:count], np.arange(count))
  found, rows = {}, {}
  for path, leaf in there.items():
    if not _alike(here[path], leaf):
      return f'{path} is {_form(here[path])}, and would be {_form(leaf)}'
    if not leaf.by_row:
      found[path], rows[path] = arrays[path], None
      continue
    rows[path] = _rows(here[path].rows, leaf.rows, before[path], after[path], in_place)
    if rows[path] is None:
      return f'ids read other rows of {path} than before, in other company'
    found[path] = put(arrays[path], rows[path], lambda path=path: fresh[path])
  error = _error(vectors(old, table, arrays, moved[kept]), vectors(new, table, found, kept))
  if error:
    return f'the same stored rows give other vectors (by up to {error:.1e})'
  rest = any(x is not None and (x < 0).any() for x in rows.values())
  frozen = rest and all(leaf.frozen for leaf in there.values())
  return Carried(found, rows, 'frozen: new rows stay as drawn' if frozen else '')


def extended(
  table: str,
  old: predict.Model,
  new: predict.Model,
  arrays: Mapping[str, Any],
  moved: np.ndarray,
) -> Carried | None:
  """What is stored with more links at the end of its chain; None if that is not what is asked.

  Args:
    table, old, new, arrays, moved: see `copied`.

  Raises:
    ValueError: the table's rows change, or move, at the same time.
  """
  one, other = technique(old, table), technique(new, table)
  first, last = ([] if x is None else _links(x) for x in (one, other))
  length = len(first)
  same = codec_lib.describe(last[:length]) == codec_lib.describe(first)
  if not first or length >= len(last) or not same:
    return None
  if not np.array_equal(moved, np.arange(old.rows[table])):
    raise ValueError(
      f'Table {table!r} gets other rows and links at the end of its chain ({other} after {one}): '
      'grow the rows first, and then, from that state, add the links.'
    )
  plan = old.codec.plan[table]
  stored = leaf_lib.unflatten(plan, arrays, table)
  found = extend(plan, stored, codec_lib.chain(*last[length:]))
  ids = np.arange(new.rows[table], dtype=np.int32)
  found = leaf_lib.flatten(found, table)
  return Carried(found, {}, _off(old, new, table, arrays, found, ids, ids))


def encoded(
  table: str,
  old: predict.Model,
  new: predict.Model,
  arrays: Mapping[str, Any],
  fresh: Mapping[str, Any],
  moved: np.ndarray,
) -> Carried:
  """The table made of its vectors, encoded anew; ids that are new have those of `fresh`."""
  kept = np.flatnonzero(moved >= 0).astype(np.int32)
  table_RxC = vectors(new, table, fresh, np.arange(new.rows[table], dtype=np.int32))
  table_RxC[kept] = vectors(old, table, arrays, moved[kept])
  found = encode(new.codec, {table: jnp.asarray(table_RxC)})
  found = leaf_lib.flatten(found[table], table)
  return Carried(found, {}, _off(old, new, table, arrays, found, moved[kept], kept))


def put(array: Any, rows: np.ndarray | None, fresh: Callable[[], Any]) -> Any:
  """Rows of `array` where they are wanted, and of `fresh()` elsewhere (None: all of `array`)."""
  if rows is None or (len(rows) == len(array) and np.array_equal(rows, np.arange(len(array)))):
    return array
  kept = rows >= 0
  found = np.array(fresh())
  found[kept] = np.asarray(array)[rows[kept]]
  return found if isinstance(array, np.ndarray) else jnp.asarray(found)


def _rows(old: int, new: int, before, after, in_place):
  """Row of the new leaf → row of the old one; None if one row would stand for several."""
  before, after = before.reshape(-1), after.reshape(-1)
  nothing = after == new
  if not np.array_equal(nothing, before == old):
    return None
  here, there = after[~nothing], before[~nothing]
  rows = np.full(new, -1, np.int32)
  rows[here] = there
  if not np.array_equal(rows[here], there):
    return None
  everywhere = np.arange(min(old, new), dtype=np.int32)
  head, read = rows[: len(everywhere)], rows >= 0
  if in_place and np.array_equal(rows[read], np.flatnonzero(read)):
    head[:] = everywhere  # Rows that no id has read yet stay where they are, too.
  return rows


def _alike(one: leaf_lib.Leaf, other: leaf_lib.Leaf) -> bool:
  by_row = int(one.by_row and other.by_row)
  same = ('axes', 'fixed')
  return (
    one.shape[by_row:] == other.shape[by_row:]
    and jnp.dtype(one.dtype) == jnp.dtype(other.dtype)
    and all(getattr(one, name) == getattr(other, name) for name in same)
  )


def _error(wanted: np.ndarray, found: np.ndarray) -> float:
  """The largest difference; 0 if it is rounding."""
  largest = float(np.abs(wanted).max(initial=0.0))
  error = float(np.abs(wanted - found).max(initial=0.0))
  return error if error > _SAME * largest else 0.0


def _off(old, new, table, arrays, found, before, after):
  wanted = vectors(old, table, arrays, before)
  error = _error(wanted, vectors(new, table, found, after))
  if not error:
    return 'encoded anew, vectors the same'
  return f'encoded anew, vectors off by up to {error:.1e} of {np.abs(wanted).max():.1e}'


def _links(chosen: codec_lib.Technique) -> list[codec_lib.Technique]:
  if chosen.name == 'identity':
    return []
  if chosen.name != 'chain':
    return [chosen]
  return [link for x in chosen.arguments['links'] for link in _links(x)]


def _form(leaf: leaf_lib.Leaf) -> str:
  return f'{jnp.dtype(leaf.dtype).name}{list(leaf.shape)}'


def _names(found: Mapping[str, Any], table: str) -> str:
  """The leaves of a table, by what follows its name."""
  return ', '.join(path.removeprefix(table).lstrip('/') or 'one table' for path in found)
