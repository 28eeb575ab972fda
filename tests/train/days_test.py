"""Days that arrive: scored before they are learned, resumed after a kill, rows made anew."""

import contextlib
import functools

import jax
import numpy as np
import optax
import pytest

from ctr_jax import compress, models, predict
from ctr_jax.data import admission, drift
from ctr_jax.data import days as days_lib
from ctr_jax.tables import leaf, rowwise, stack
from ctr_jax.train import anew, days, grow, loop, step
from ctr_jax.train import state as state_lib

STREAM = days_lib.by_column(days_lib.held(drift.Drift(drift.small(day=100)), ('day',)))
CAPACITY = {'user': 20, 'item': 15}
RECIPE = state_lib.Recipe(optax.adam(1e-2), rowwise.adagrad(0.05, 1e-3))


@functools.cache
def stage(late=True):
  rules = [('.*', compress.identity())]
  rules = rules if late else [('badge', compress.drop()), *rules]
  sized = days_lib.Mapped(STREAM.source, tables())
  net = models.NETS['dnn'](hidden=(4,), dropout=0.1)
  model = predict.build(sized.schema, sized.rows, rules, net, 3, leaf.normal(0.1))
  return days.Stage(model, RECIPE, step.program(model, RECIPE))


def tables():
  return {t: admission.Table(n, n, threshold=1.0, decay=0.5) for t, n in CAPACITY.items()}


class Killed(Exception):
  """As SIGKILL, for this test."""


class Watch:
  """A stream that says what was asked of it."""

  def __init__(self, dies=None):
    self.learned, self.scored, self.tables, self.dies = [], [], tables(), dies

  def stream(self):
    return days.Stream(STREAM.days, self._learned, self._score, self._admit)

  def _learned(self, first, last):
    self.learned.append((first, last))
    return days_lib.Mapped(STREAM.window(first, last), self.tables)

  def _score(self, at, state, day):
    if day == self.dies:
      raise Killed
    self.scored.append((day, len(self.learned)))
    total = sum(float(np.abs(np.asarray(x)).sum()) for x in jax.tree.leaves(state._asdict()))
    return {'auc': total, 'step': int(state.step), 'fields': len(at.model.features)}

  def _admit(self, day):
    window = STREAM.window(day, day)
    found = {t: x.observe(admission.observed(window, t), day) for t, x in self.tables.items()}
    return {t: x.given for t, x in found.items()}


def stages():
  def carry(state):
    return grow.grow(state, stage(False).model, stage().model, RECIPE, seed=0)[0]

  return {0: stage(False), 3: stage()._replace(carry=carry)}


def run(folder, watch, plan, **more):
  return days.run(plan, stages(), watch.stream(), folder, {'what': 'test', **more}, 7)


PLAN = days.Plan(window=2, epochs=1, first_epochs=2, batch_size=50, scale=0.5)


def bare(entries):
  """Without times."""
  return [{k: v for k, v in day.items() if k != 'seconds'} for day in entries]


@pytest.mark.long
def test_a_run_that_is_killed_goes_on_with_the_same_bits(tmp_path):
  whole = Watch()
  want = run(tmp_path / 'whole', whole, PLAN)
  assert [day['day'] for day in want] == list(range(6))
  # Each day is scored when those before it were learned, and is not learned itself.
  assert whole.scored == [(day, day) for day in range(1, 6)]
  assert whole.learned == [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4)]
  assert [day['samples'] for day in want[:-1]] == [200, 200, 200, 200, 200]
  assert [day['step'] for day in want[1:]] == [4, 8, 12, 16, 20]
  assert [day['fields'] for day in want[1:]] == [4, 4, 4, 5, 5]  # The feature came on day 3.
  assert all(day['rows_anew'] > 0 for day in want[:-1])
  for dies in (4,):  # The new feature was learned on the day before.
    with pytest.raises(Killed):
      run(tmp_path / f'{dies}', Watch(dies), PLAN)
    again = Watch()
    assert bare(run(tmp_path / f'{dies}', again, PLAN)) == bare(want)
    assert again.learned == whole.learned[dies:]
  done = Watch()
  assert run(tmp_path / 'whole', done, PLAN) == want and not done.learned
  assert sorted(x.name for x in (tmp_path / 'whole').iterdir()) == ['days.json']
  with pytest.raises(ValueError, match='holds another run'):
    run(tmp_path / 'whole', Watch(), PLAN, other=True)


def test_afresh_forgets_what_was_learned(tmp_path):
  plan = days.Plan(window=1, afresh=True, batch_size=50)
  found = run(tmp_path, Watch(), plan)
  assert [day['step'] for day in found[1:]] == [2] * 5


def test_a_loss_that_is_not_finite_is_said(tmp_path):
  recipe = RECIPE._replace(tx=optax.sgd(float('nan')))
  broken = days.Stage(stage().model, recipe, step.program(stage().model, recipe))
  with pytest.raises(loop.Diverged, match='lower the learning rate'):
    days.run(PLAN, {0: broken}, Watch().stream(), tmp_path, {}, 0)


@pytest.mark.parametrize('layout', [stack.apart, stack.stacked])
def test_rows_made_anew_and_no_others(layout):
  schema, rows = STREAM.source.schema, {**STREAM.source.rows, 'user': 40, 'item': 40}
  net = models.NETS['dnn'](hidden=(4,))
  model = predict.build(
    schema, rows, [('.*', compress.identity())], net, 3, leaf.normal(0.1), layout
  )
  state = state_lib.create(model, RECIPE, 0)
  trained = state._replace(
    tables={n: x + 5 for n, x in state.tables.items()},
    slots={n: {'sum': x['sum'] + 3} for n, x in state.slots.items()},
  )
  given = {'user': np.array([3, 17, 39], np.int32), 'item': np.zeros(0, np.int32)}
  found = anew.rows(model, RECIPE, trained, given, day=4)
  before, after = (stack.unpack(model.layout, s.tables) for s in (trained, found))
  sums = stack.unpack(model.layout, {n: x['sum'] for n, x in found.slots.items()})
  for table in before:
    changed = (np.asarray(before[table]) != np.asarray(after[table])).any(axis=1)
    want = given['user'].tolist() if table == 'user' else []
    assert np.flatnonzero(changed).tolist() == want
    assert np.flatnonzero(np.asarray(sums[table]) == 0).tolist() == want
  drawn = np.asarray(after['user'])[given['user']]
  assert np.abs(drawn).max() < 0.6 and len(np.unique(drawn)) == drawn.size
  other = anew.rows(model, RECIPE, trained, given, day=5)
  assert not np.array_equal(
    drawn, np.asarray(stack.unpack(model.layout, other.tables)['user'])[given['user']]
  )


def test_a_table_that_is_dropped_has_no_rows_to_make():
  state = state_lib.create(stage(False).model, RECIPE, 0)
  found = anew.rows(stage(False).model, RECIPE, state, {'badge': np.array([1])}, 0)
  assert found.tables == state.tables


def test_rows_that_are_nobodys_own_are_refused():
  schema, rows = STREAM.source.schema, STREAM.source.rows
  rules = [('user', compress.hash_trick(7)), ('.*', compress.identity())]
  model = predict.build(schema, rows, rules, models.NETS['dnn'](hidden=(4,)), 3)
  state = state_lib.create(model, RECIPE, 0)
  with pytest.raises(ValueError, match='no row for each value'):
    anew.rows(model, RECIPE, state, {'user': np.array([3])}, 0)
  with pytest.raises(ValueError, match='row 5000 was given'):
    anew.rows(model, RECIPE, state, {'item': np.array([5000])}, 0)
  dense = state_lib.Recipe(optax.adam(1e-2))
  with pytest.raises(ValueError, match='not trained by rows'):
    anew.rows(model, dense, state_lib.create(model, dense, 0), {'item': np.array([1])}, 0)


def test_bytes_written_are_those_of_changed_rows():
  state = state_lib.create(stage().model, RECIPE, 0)
  net = sum(x.nbytes for x in jax.tree.leaves(state.net))
  before, after = (days.copied(stage().model, state) for _ in range(2))
  assert days.written({}, after, state.net) == net + sum(x.nbytes for x in before.values())
  assert days.written(before, after, state.net) == net
  after['user'][[1, 4]] += 1
  assert days.written(before, after, state.net) == net + 2 * (3 * 4 + 4)
  after['user'] += 1
  assert days.written(before, after, state.net) == net + after['user'].nbytes


def test_a_run_that_goes_on_compiles_no_step_twice(tmp_path):
  for dies in (2, None):
    one = stage.__wrapped__()
    with contextlib.suppress(Killed):
      days.run(PLAN, {0: one}, Watch(dies).stream(), tmp_path, {}, 0)
    assert one.program.step._cache_size() == 1


def test_what_a_kill_has_left_of_earlier_days_goes_too(tmp_path):
  def short(dies=None):
    stream = Watch(dies).stream()._replace(days=3)
    return days.run(PLAN, {0: stage()}, stream, tmp_path, {}, 0)

  with pytest.raises(Killed):
    short(dies=2)
  assert [x.name for x in tmp_path.iterdir()] == ['day_0001']
  (tmp_path / 'day_0000' / 'last').mkdir(parents=True)  # Killed before it was removed.
  assert len(short()) == 3
  assert [x.name for x in tmp_path.iterdir()] == ['days.json']
