"""Results that fill up: rows, and seeds of a row, join those that experiments/results has already.

A table may so be filled by several runs, and on several machines: `--first_seed=2 --seeds=3` adds
three seeds to a row that has two.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import common, measure

# Flags that are part of the recipe of rows whatever their names. Of these only --core_rows is of
# every sweep; the next are of those that make columns of pairs, then of days whose tables admit and
# evict, and the last of published recipes.
_RECIPE = (
  'core_rows', 'pairs', 'min_count', 'vector_dim', 'vector_l2',
  'admitted_rows', 'admission_threshold', 'admission_decay',
  'rows_learning_rate', 'rows_l2',
)  # fmt: skip
# What a row has a value of for each seed.
_PER_SEED = (
  *measure.PER_SEED, 'importance', 'seconds', 'aukc', 'auc_by_day', 'log_loss_by_day', 'samples',
  'bytes_written', 'rows_anew',
)  # fmt: skip
# Lists of points, each with a value per seed of all but what it is a point of.
_POINTS = {'curve': ('k',), 'within': ('cost', 'part')}
# What differs by seed where rules are made of the data, and is that of the first.
_OF_THE_FIRST = ('bytes_by_table', 'axes_by_table')


def merged(found: dict[str, Any], name: str, recipe: Sequence[str] = ()) -> dict[str, Any]:
  """`found` with the rows that experiments/results already has of the same data and settings.

  Of a row that both have, the one with all seeds of the other stays, the new one if they are the
  same; else the seeds of both are put into one row.

  Args:
    found: a result.
    name: of its file.
    recipe: more flags that are part of the recipe, of results that do not describe their `base`.

  Raises:
    ValueError: with --save_result, if those rows are of other data, another recipe or other days,
      or seeds of a row are not of one model. Without it `found` is then left as it is.
  """
  path = common.RESULTS / f'{name}.json'
  for row in found['rows']:
    row.setdefault('command', found['command'])
  if changed := _changed(recipe):
    found = found | {'flags': changed}
  if not path.exists():
    return found
  before = json.loads(path.read_text())
  same = ('data_checksum', 'base', 'added', 'how', 'flags')
  differ = [key for key in same if before.get(key) != found.get(key)]
  if differ:
    if common.SAVE.value:
      there = ', '.join(f'{key}: {before.get(key, "by default")}' for key in differ)
      raise ValueError(
        f'{path} has rows of other data or settings ({there}): rows are compared with each '
        'other, so move it away first, or leave out --save_result.'
      )
    return found
  new = {row['name']: row for row in found['rows']}
  rows = []
  for row in before['rows']:
    row.setdefault('command', before['command'])
    again = new.pop(row['name'], None)
    try:
      rows.append(row if again is None else joined(row, again))
    except ValueError:
      if common.SAVE.value:
        raise
      return found  # A look is not stopped by what it will not be saved beside.
  return found | {'rows': [*rows, *new.values()]}


def _changed(more=()) -> dict[str, Any]:
  """Flags that are part of the recipe, where not at their defaults."""
  there = {name: flags.FLAGS[name] for name in (*_RECIPE, *more) if name in flags.FLAGS}
  return {name: flag.value for name, flag in there.items() if flag.value != flag.default}


def joined(before: dict[str, Any], again: dict[str, Any]) -> dict[str, Any]:
  """One row of all seeds of two; of a seed that both have, what was measured last.

  Raises:
    ValueError: they do not agree in what all seeds of a row share.
  """
  if set(before['seeds']) <= set(again['seeds']):
    return again
  if set(again['seeds']) <= set(before['seeds']):
    return before  # A look with fewer seeds does not take the place of a measurement with more.
  seeds = sorted({*before['seeds'], *again['seeds']})

  def both(one, other):
    values = dict(zip(before['seeds'], one, strict=True))
    values |= dict(zip(again['seeds'], other, strict=True))
    return [values[seed] for seed in seeds]

  def each(one, other, fixed=()):
    return {k: x if k in fixed else both(x, other[k]) for k, x in one.items()}

  row = {'seeds': seeds, 'command': f'{before["command"]} && {again["command"]}'}
  shared = before.keys() & again.keys()
  sizes = {k: both(_sizes(before, k), _sizes(again, k)) for k in measure.SIZES if k in shared}
  row |= measure.sizes(
    [dict(zip(sizes, x, strict=True)) for x in zip(*sizes.values(), strict=True)]
  )
  for key in shared:
    one, other = before[key], again[key]
    if key in _PER_SEED:
      row[key] = both(one, other)
    elif key == 'test' and one.keys() == other.keys():
      row[key] = each(one, other)
    elif key in _POINTS:
      pairs = zip(one, other, strict=True)
      row[key] = [each(point, twin, _POINTS[key]) for point, twin in pairs]
  left = (before.keys() | again.keys()) - row.keys() - {*_OF_THE_FIRST}
  if differ := [key for key in sorted(left) if before.get(key) != again.get(key)]:
    raise ValueError(
      f'Row {before["name"]!r} of seeds {again["seeds"]} is not the one there of seeds '
      f'{before["seeds"]}: {", ".join(differ)} differ. Run all seeds at once, with this version.'
    )
  return {key: row.get(key, value) for key, value in before.items()} | row


def _sizes(row, name):
  return row.get(f'{name}_by_seed', [row[name]] * len(row['seeds']))
