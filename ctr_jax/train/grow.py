"""Features that come and go: a trained state for another schema and other rules.

  state, report = grow.grow(state, old, new, recipe, seed=0)
  print(report)                                   # What was kept, enlarged, new, dropped ...
  state, report = grow.from_checkpoint(
    folder / 'checkpoints', 'best', description, old, recipe, new, recipe, seed=0
  )

`old` and `new` are models (`predict.build`). Tables that both have are taken over row by row, with
what the optimizer keeps of each row. A vocabulary may be larger, old rows in place or where `moved`
says; new tables are drawn as before any training. The net grows such that the logits of all samples
are the same before training goes on (evaluated, up to float32's rounding):

- A net that reads vectors by weights of its own alone (`net.weighs_all`: DNN, DCN, DCNv2, IPNN,
  pairwise relations) gets zero weights for a new field, whose vectors are drawn. In the first step
  the weights move, from the second on the vectors too.
- Any other (LR, FM, FwFM, DeepFM, FiBiNET) gets zero vectors, and drawn weights where it has some:
  the vectors move in the first step. `zeros='vectors'` asks for this elsewhere.

Features that are gone are left out of the net (`models.part`): logits are those of the old model
with their vectors zero. Where a technique was exchanged, tables are encoded anew of their vectors,
or, if links were put to the end of a chain, of what is stored. AutoInt and attentive relations can
neither grow nor shrink: a softmax gives each field some weight, whatever its vector is.

What cannot be carried over is never guessed: all of it is named in one ValueError, and `accept`
says what may be lost. Row 0 of a table, missing or unseen, stays row 0. Whether row 7 means the
same value in both data sets is for the caller to know: `moved` is how to say that it does not.

The count of steps goes on, so that Adam, which corrects its bias by it, moves fresh weights in
their first step by up to three times the learning rate, and what techniques anneal by steps is as
far as it was. The scale of learning rates stays as the schedule has left it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from ctr_jax import predict
from ctr_jax.models import part
from ctr_jax.tables import leaf as leaf_lib
from ctr_jax.tables import stack
from ctr_jax.train import carry, checkpoint, growth, mesh, moments, silent
from ctr_jax.train import state as state_lib


def grow(
  state: state_lib.State,
  old: predict.Model,
  new: predict.Model,
  recipe: state_lib.Recipe,
  *,
  seed: int,
  moved: Mapping[str, np.ndarray] | None = None,
  accept: Iterable[str] = (),
  zeros: str | None = None,
) -> tuple[state_lib.State, growth.Report]:
  """The state of `old`, trained, as one of `new`.

  Args:
    state: of `old`; on a mesh or not.
    old: the model that was trained.
    new: the model that goes on.
    recipe: how it goes on. The optimizer's state follows where it has the same names and shapes.
    seed: of what is drawn for the first time.
    moved: table → int32 [rows of the new one], for each the old row that it goes on from, -1 for
      one that is new. Tables that are not named have their old rows in place. Several rows may go
      on from one: with row 0 for those that are new, samples that were unseen keep their logits.
    accept: patterns of names that need not be carried over: tables, 'net', 'optimizer', features.
    zeros: for new fields, whether 'weights' are zero or 'vectors'; None chooses by the net.

  Returns:
    The state and a report. Arrays are whole on this process (for a mesh: `mesh.placed`); those that
    were kept are those of `state`, which a training step that is given either will use up.

  Raises:
    ValueError: something cannot be carried over, or `moved` makes no sense.
  """
  log, state = growth.Log(accept), mesh.fetched(state)
  key = jax.random.key(seed)
  zeros = _side(new, zeros)
  _features(log, old, new, zeros)
  found = _tables(log, state, old, new, moved or {}, key, zeros)
  net, axes = _net(log, state, old, new, key, zeros)
  leaves = {path: x for table in found.values() for path, x in table.arrays.items()}
  tables = stack.pack(new.layout, leaves)
  rows = {path: x for table in found.values() for path, x in table.rows.items()}
  kept = moments.Kept(old, new, recipe, rows, axes)
  slots, lost = moments.slots(kept, state, key)
  opt, more = moments.opt(kept, state, tables, net)
  lost |= more
  if lost:
    log.refuse('optimizer', f'it has no state yet, or one of another form, of {_some(lost)}')
  grown = state._replace(tables=tables, slots=slots, net=net, opt=opt)
  return grown, _described(log.done(), kept, lost)


def from_checkpoint(
  folder: pathlib.Path,
  kind: str,
  description: Mapping[str, Any],
  old: predict.Model,
  before: state_lib.Recipe,
  new: predict.Model,
  recipe: state_lib.Recipe,
  *,
  seed: int,
  **how: Any,
) -> tuple[state_lib.State, growth.Report]:
  """`grow` of a checkpoint of another schema, for `loop.Run(start=...)`:

    start=lambda state: grow.from_checkpoint(...)[0]

  Args:
    folder: of the checkpoints (`checkpoints` within a run's folder).
    kind: 'last' or 'best'.
    description: that the checkpoint was saved with; `checkpoint.described` reads it.
    old: the model of that time.
    before: how it learned.
    new, recipe, seed, how: see `grow`.

  Raises:
    ValueError: there is no such checkpoint, it is of something else, or as `grow`.
  """
  checkpoint.described(folder, kind)  # Refuses where there is none, before a folder is made.
  saved = checkpoint.Checkpoints(folder, old, dict(description))
  try:
    like = jax.eval_shape(lambda: state_lib.init(old, before, 0))
    state, _ = saved.restore(kind, like)
  finally:
    saved.close()
  return grow(state, old, new, recipe, seed=seed, **how)


def _side(new, zeros):
  """Which of a new field's vectors and weights are zero."""
  weighs = getattr(new.net, 'weighs_all', False)
  if zeros not in (None, 'weights', 'vectors'):
    raise ValueError(f"For new fields 'weights' or 'vectors' can be zero, got zeros={zeros!r}.")
  if zeros == 'weights' and not weighs:
    raise ValueError(
      f'{type(new.net).__name__} reads vectors otherwise than by weights of its own, so zero '
      "weights would not silence a new field: use zeros='vectors', or leave it out."
    )
  return zeros or ('weights' if weighs else 'vectors')


def _features(log, old, new, zeros):
  """Refuses features that read another table, and new ones that cannot be silent."""
  before = {f.name: f for f in old.features}
  for feature in new.features:
    name, was = feature.name, before.get(feature.name)
    if was and was.table != feature.table:
      log.refuse(
        name, f'it read the table {was.table!r} and would read {feature.table!r}: give the feature '
        'another name, so that the net sees it as a new one'
      )  # fmt: skip
    if not was and zeros == 'vectors' and carry.leaves(old, feature.table):
      log.refuse(
        name, f'it reads the trained table {feature.table!r}, whose vectors would change logits: '
        'this net has no weights that could be zero at first'
      )  # fmt: skip


def _tables(log, state, old, new, moved, key, zeros):
  """Table → what became of it (`carry.Carried`)."""
  arrays = stack.unpack(old.layout, state.tables)
  drawn, found = _Drawn(new, key), {}
  unknown = sorted(moved.keys() - new.rows.keys())
  if unknown:
    raise ValueError(f'moved names {unknown}, which the new model does not have.')
  for table in sorted(old.codec.plan.keys() | new.codec.plan.keys()):
    here, there = carry.leaves(old, table), carry.leaves(new, table)
    before, after = (str(m.rows[table]) if x else '-' for m, x in ((old, here), (new, there)))
    if not there:
      if here:
        log.add(table, 'dropped', before)
    elif not here:
      found[table] = _new(log, table, old, new, drawn, zeros)
      log.add(table, 'new', '-', after, 'fresh', found[table].note)
    else:
      own = {path: arrays[path] for path in here}
      what, found[table] = _table(log, table, old, new, own, drawn, moved)
      log.add(table, what, before, after, '-', found[table].note)
  return found


def _new(log, table, old, new, drawn, zeros):
  """A table as before training, its vectors zero where the net needs it."""
  own = {path: drawn[path] for path in carry.leaves(new, table)}
  if zeros == 'weights' or _reset_net(old, new):
    return carry.Carried(own, {})
  try:
    return carry.Carried(silent.silenced(new, table, own), {}, 'vectors are zero')
  except ValueError as error:
    log.refuse(table, str(error))
    return carry.Carried(own, {}, 'as drawn: logits change')


def _table(log, table, old, new, arrays, drawn, moved):
  """A table that both models have."""
  reason = _other_sense(table, old, new) if table not in moved else ''
  if old.width != new.width:
    reason = f'its rows have {old.width} columns and would have {new.width}'
  if reason:
    log.refuse(table, reason)
    own = {path: drawn[path] for path in carry.leaves(new, table)}
    return 'reset', carry.Carried(own, {}, reason)
  where = _moved(table, old.rows[table], new.rows[table], moved.get(table))
  exchanged = _exchanged(table, old, new)
  found = carry.extended(table, old, new, arrays, where) if exchanged else None
  if found is None:
    found = carry.copied(table, old, new, arrays, drawn, where)
    if not isinstance(found, str):
      gone = old.rows[table] - len(np.unique(where[where >= 0]))
      note = f'{gone} old rows are left out' if gone else found.note
      return _change(old.rows[table], new.rows[table], where), found._replace(note=note)
    if not exchanged:
      log.refuse(table, f'{found}; accepted, it is encoded anew of its vectors')
    found = carry.encoded(table, old, new, arrays, drawn, where)
  return 're-encoded', found


def _change(old, new, where):
  if len(where) == old and np.array_equal(where, np.arange(old)):
    return 'kept'
  return 'enlarged' if new > old else 'cut'


def _exchanged(table, old, new):
  one, other = carry.technique(old, table), carry.technique(new, table)
  if one is None or other is None:
    return False
  return carry.codec_lib.describe(one) != carry.codec_lib.describe(other)


def _other_sense(table, old, new):
  """Why rows of a table cannot mean what they did, as far as features tell; '' if they can."""
  before = {f.name: f for f in old.features if f.table == table}
  for feature in new.features:
    was = before.get(feature.name)
    if was and feature.table == table:
      kinds = [x.kind.replace('ids', 'id') for x in (was, feature)]
      if kinds[0] != kinds[1]:
        return f'{feature.name!r} was of kind {was.kind!r} and is {feature.kind!r}'
      for name in {'hash': ('buckets',), 'bucket': ('transform', 'boundaries')}.get(was.kind, ()):
        one, other = getattr(was, name), getattr(feature, name)
        if one != other:
          return f'{name} of {feature.name!r} were {one} and are {other}: values have other rows'
  return ''


def _moved(table, old, new, moved):
  """For each new row the old one, -1 for none; checked."""
  if moved is None:
    if new < old:
      raise ValueError(
        f'Table {table!r} had {old} rows and would have {new}: say which stay, by '
        f'moved={{{table!r}: int32 [{new}]}}, the old row of each new one.'
      )
    ids = np.arange(new, dtype=np.int32)
    return np.where(ids < old, ids, np.int32(-1))
  moved = np.asarray(moved)
  if moved.shape != (new,) or not np.issubdtype(moved.dtype, np.integer):
    raise ValueError(
      f'moved[{table!r}] is {moved.dtype}{list(moved.shape)}; it says for each of {new} new rows '
      'which old one it goes on from: integers, -1 for none.'
    )
  if moved.min() < -1 or moved.max() >= old:
    raise ValueError(
      f'moved[{table!r}] has {moved.min() if moved.min() < -1 else moved.max()}; old rows are 0 to '
      f'{old - 1}, and -1 stands for none.'
    )
  if moved[0] != 0:
    raise ValueError(
      f'moved[{table!r}] begins with {moved[0]}: row 0, missing or unseen, has to stay row 0.'
    )
  return moved.astype(np.int32)


class _Drawn(Mapping):
  """Path → array as before training, each drawn once it is asked for."""

  def __init__(self, model, key):
    self._leaves, self._key = model.layout.leaves, key

  def __getitem__(self, path):
    leaf, key = self._leaves[path], leaf_lib.path_key(self._key, path)
    return jax.jit(lambda key: leaf.init(key, leaf.shape, leaf.dtype))(key)

  def __iter__(self):
    return iter(self._leaves)

  def __len__(self):
    return len(self._leaves)


def _reset_net(old, new):
  return old.net != new.net or old.width != new.width


def _net(log, state, old, new, key, zeros):
  """The net's variables, and path → its labels before and after (None: nothing was kept)."""
  before, after, width = old.columns, new.columns, new.width
  try:
    if _reset_net(old, new):
      raise ValueError(f'it was {old.net}, and would be {new.net}')
    if before == after:
      return _listed(log, state.net, state.net, {})
    both = tuple(name for name in after if name in before)
    net = state.net
    if len(both) < len(before):
      net = part.part(new.net, net, before, both, width)
    if len(both) < len(after):
      drawn = _drawn_net(new, key) if zeros == 'vectors' else None
      net = part.grown(new.net, net, both, after, width, drawn)
    elif len(both) == len(before):
      net = part.part(new.net, net, before, after, width)  # The same ones in another order.
    return _listed(log, state.net, net, part.moves(new.net, before, after, width))
  except ValueError as error:
    log.refuse('net', str(error))
    log.add('net', 'reset', '-', '-', 'reset', str(error).split('\n')[0])
    return _drawn_net(new, key), None


def _drawn_net(model, key):
  return jax.jit(lambda key: predict.init_net(model, key))(leaf_lib.path_key(key, 'net'))


def _listed(log, before, after, axes):
  here, there = (traverse_util.flatten_dict(x['params'], sep='/') for x in (before, after))
  for path, array in there.items():
    was, now = here[path].shape, array.shape
    what = 'enlarged' if array.size > here[path].size else 'cut' if was != now else 'kept'
    log.add(f'net/{path}', what, str(was), str(now))
  return after, axes


def _described(report, kept, lost):
  """The report with what became of the optimizer's state."""
  rows = []
  for row in report.rows:
    word = moments.word(kept, lost, row.name)
    rows.append(row._replace(optimizer=row.what if word == 'kept' else word))
  what = 'reset' if lost else 'kept'
  note = f'fresh: {_some(lost)}' if lost else ''
  return growth.Report((*rows, growth.Row('optimizer', what, note=note)))


def _some(names):
  names = sorted(names)
  return ', '.join(names[:5]) + (f' and {len(names) - 5} more' if len(names) > 5 else '')
