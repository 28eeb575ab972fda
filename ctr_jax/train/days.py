"""Training on days as they arrive: each day is scored, and then learned (progressive validation).

A `Plan` says what is learned on a day: only what is new, a window, or everything so far, from the
last state or afresh. A `Stage` is the model from some day on; the next one may have more features,
and takes over by its `carry` (`train.grow`). After each day the state and what was measured are
saved: a run that is killed goes on from the last finished day, with the same bits.

  run(Plan(), {0: stage}, stream, folder, described, seed)     one pass over each day
  run(Plan(window=4, afresh=True, epochs=3), ...)              a window, from scratch
  run(Plan(), {0: stage, 5: grown}, ...)                       a feature more from day 5 on
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ctr_jax import predict
from ctr_jax.data import batches, columns
from ctr_jax.tables import stack
from ctr_jax.train import anew, checkpoint, journal, loop
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib

# Epochs are numbered through all days, so that each has an order of its own.
_EPOCHS = 1000


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is learned of each day.

  Attributes:
    window: days that are learned from, the new one the last of them; 0 = all so far.
    epochs: passes over them.
    first_epochs: passes over the very first day.
    afresh: from a fresh state each day; else on from the last one.
    batch_size: samples per step.
    scale: factor of every learning rate after the first day.
  """

  window: int = 1
  epochs: int = 1
  first_epochs: int = 1
  afresh: bool = False
  batch_size: int = 1024
  scale: float = 1.0

  def __post_init__(self):
    epochs = (self.epochs, self.first_epochs)
    if self.window < 0 or min(epochs) < 1 or max(epochs) >= _EPOCHS:
      raise ValueError(f'{self}: a window of 0 or more days, and 1 to {_EPOCHS - 1} epochs.')

  def days(self, day: int) -> tuple[int, int]:
    """The first and the last day that are learned on a day."""
    return (max(0, day + 1 - self.window) if self.window else 0), day


class Stage(NamedTuple):
  """A model, from some day on.

  Attributes:
    model: what learns.
    recipe: how.
    program: of both, on one device.
    carry: the state of the stage before → one of this model; needed by all but the first stage,
      unless each day starts afresh.
  """

  model: predict.Model
  recipe: state_lib.Recipe
  program: step_lib.Program
  carry: Callable[[state_lib.State], state_lib.State] | None = None


class Stream(NamedTuple):
  """What arrives.

  Attributes:
    days: how many.
    learned: (first day, last day), both included → a source of which they are 'train'.
    score: (stage, state, day) → what is measured of that day; plain numbers.
    admit: called with each day before it is learned: table → rows that now belong to another value
      (`data.admission`), which are made anew. Called again for the days before when a run resumes.
  """

  days: int
  learned: Callable[[int, int], columns.Source]
  score: Callable[[Stage, state_lib.State, int], Mapping[str, float]]
  admit: Callable[[int], Mapping[str, np.ndarray]] | None = None


def run(
  plan: Plan,
  stages: Mapping[int, Stage],
  stream: Stream,
  folder: pathlib.Path,
  description: Mapping[str, Any],
  seed: int,
  name: str = 'days',
) -> list[dict[str, Any]]:
  """Scores and learns day after day, or goes on with it, or opens what was measured.

  The last day is scored only, since nothing would be scored after it.

  Args:
    plan: what is learned of each day.
    stages: day from which → stage; one from day 0 on.
    stream: the days.
    folder: of this run alone.
    description: plain JSON that the folder has to agree with.
    seed: of everything random.
    name: in the progress bar.

  Returns:
    For each day: 'day', what `score` measured (but for day 0), and of learning it 'samples' and
    'seconds' (compilation excluded), 'bytes_written' (`written`), 'rows_anew'.

  Raises:
    Interrupted: SIGTERM arrived; the finished days are kept.
    Diverged: the loss is NaN or infinite.
    ValueError: the folder holds another run.
  """
  return _Run(plan, stages, stream, pathlib.Path(folder), description, seed, name).run()


class _Run:
  """One run."""

  def __init__(self, plan, stages, stream, folder, description, seed, name):
    self._plan, self._stages, self._stream = plan, dict(stages), stream
    self._folder, self._seed, self._name = folder, seed, name
    described = {**description, 'plan': dataclasses.asdict(plan), 'seed': seed}
    self._described = json.loads(json.dumps(described))
    self._terminated = threading.Event()
    self._warm = set()

  def run(self):
    done = self._folder / 'days.json'
    if done.exists():
      saved = json.loads(done.read_text())
      if saved['described'] != self._described:
        raise ValueError(f'{self._folder} holds another run ({saved["described"]}): use another.')
      self._forget(self._stream.days)
      return saved['days']
    state, entries = self._restored()
    with loop.Listening(self._terminated):
      for day in range(len(entries), self._stream.days):
        state, entry = self._day(state, day)
        entries.append(entry)
        if day + 1 < self._stream.days:
          self._save(state, entries)
      loop.write_json(done, {'described': self._described, 'days': entries})
    self._forget(self._stream.days)
    return entries

  def _stage(self, day):
    """The stage that learns a day, and whether it is the first day that it does."""
    first = max(d for d in self._stages if d <= day)
    return self._stages[first], first == day

  def _day(self, state, day):
    """Scores a day, and learns it."""
    entry: dict[str, Any] = {'day': day}
    if day:
      entry |= self._stream.score(self._stage(day - 1)[0], state, day)
    if day + 1 == self._stream.days:
      return state, entry
    stage, new = self._stage(day)
    # Copies: what a step is given is not there after it.
    before = {} if state is None else copied(self._stage(day - 1)[0].model, state)
    if state is None or self._plan.afresh:
      state = stage.program.create(self._seed)
    elif new:
      state = jax.device_put(stage.carry(state))
    given = self._stream.admit(day) if self._stream.admit else {}
    state = anew.rows(stage.model, stage.recipe, state, given, day)
    state, samples, seconds = self._learn(stage, state, day)
    entry |= {'samples': samples, 'seconds': seconds}
    entry['bytes_written'] = written(before, copied(stage.model, state), state.net)
    entry['rows_anew'] = sum(len(x) for x in given.values())
    return state, entry

  def _learn(self, stage, state, day):
    """(state, samples, seconds) after the passes over a day and its window."""
    plan, (first, last) = self._plan, self._plan.days(day)
    scale = plan.scale if day and not plan.afresh else 1.0
    state = loop.committed(state._replace(scale=jax.device_put(np.float32(scale))))
    source, names = self._stream.learned(first, last), (*stage.model.columns, 'label')
    reader = batches.Batches(source, 'train', names, plan.batch_size, seed=self._seed)
    epochs = plan.epochs if day else plan.first_epochs
    total, seconds = epochs * reader.steps_per_epoch, 0.0
    with journal.progress(f'{self._name} day {day + 1}', total) as bar:
      for epoch in range(epochs):
        stream = reader.epoch(day * _EPOCHS + epoch)
        state, spent = self._pass(stage, state, stream, reader.steps_per_epoch, bar)
        seconds += spent
    return state, total * plan.batch_size, seconds

  def _pass(self, stage, state, stream, steps, bar):
    """One pass: (state, seconds); the first step of a stage compiles, and counts as the others."""
    compiles = id(stage) not in self._warm
    self._warm.add(id(stage))
    started, pending = time.perf_counter(), None
    for inputs in batches.prefetch(stream, stage.program.batch):
      state, metrics = stage.program.step(state, inputs)
      if compiles and pending is None:
        jax.block_until_ready(metrics)
        started = time.perf_counter()
      # The loss of the step before is fetched after this one is dispatched.
      if pending is not None:
        bar.update(self._checked(pending))
      pending = metrics
      if self._terminated.is_set():
        raise loop.Interrupted(
          f'SIGTERM: the finished days are in {self._folder}; the same command goes on from there.'
        )
    bar.update(self._checked(pending))
    jax.block_until_ready(state)
    spent = time.perf_counter() - started
    return state, spent * steps / max(steps - 1, 1) if compiles else spent

  def _checked(self, metrics):
    value = float(metrics['loss'])
    if not np.isfinite(value):
      raise loop.Diverged(
        f'{self._name}: the loss is {value}; lower the learning rate, or clip gradients.'
      )
    return value

  def _place(self, day):
    return self._folder / f'day_{day:04d}'

  def _checkpoints(self, day):
    model = self._stage(day)[0].model
    return checkpoint.Checkpoints(self._place(day), model, self._described)

  def _save(self, state, entries):
    """What goes on after this day; what earlier days left is removed when this is complete."""
    day = entries[-1]['day']
    saved = self._checkpoints(day)
    saved.save('last', state, {'days': entries})
    saved.wait()
    saved.close()
    self._forget(day)

  def _forget(self, day):
    """Removes what was saved of the days before: of all, since kills may have left several."""
    for before in range(day):
      shutil.rmtree(self._place(before), ignore_errors=True)

  def _restored(self):
    """(state, entries) after the last finished day."""
    for day in reversed(range(self._stream.days - 1)):
      if not self._place(day).exists():
        continue
      saved = self._checkpoints(day)
      found = saved.restore('last', self._stage(day)[0].program.like())
      saved.close()
      if found is None:
        continue  # Killed while it was being written.
      journal.say(f'{self._name} resumes after day {day + 1}')
      for before in range(day + 1 if self._stream.admit else 0):
        self._stream.admit(before)
      return found[0], found[1]['days']
    return None, []


def copied(model: predict.Model, state: state_lib.State) -> dict[str, np.ndarray]:
  """The tables by path, on the host."""
  return stack.unpack(model.layout, {n: np.array(x) for n, x in state.tables.items()})


def written(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], net: Any) -> int:
  """Bytes that have to be sent to who serves the last model, for it to serve this one.

  The net and small leaves whole; of tables the rows that have changed, each with its number, or
  the whole table where that is less. A table that was not there is whole.

  Args:
    before: path → array (`copied`); {} before the first day.
    after: likewise.
    net: the net's variables.
  """
  nbytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(net))
  for path, now in after.items():
    then = before.get(path)
    if then is None or then.shape != now.shape or now.ndim < 2:
      nbytes += now.nbytes
      continue
    changed = int((now != then).reshape(len(now), -1).any(axis=1).sum())
    nbytes += min(now.nbytes, changed * (now.nbytes // len(now) + 4))
  return nbytes
