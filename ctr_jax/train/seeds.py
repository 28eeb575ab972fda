"""Several seeds of one trial trained at once on one device, with the results of one by one.

Every seed keeps what makes it a run of its own: order of samples, random keys, learning-rate
scale, validation, early stop, journal and checkpoints, all in its folder and as `loop.Run` writes
them. So seeds that were trained at once can go on one by one, and the other way round. What they
share is the program of a step, the rows of the split in memory, and the thread that reads them;
batches are prepared in a thread for each seed.

How one program takes the steps of K seeds is a `Together`:

- `side_by_side` has K copies of the step in one program, on K states. Each copy is the program of
  one seed, so its numbers have the same bits; the compiler may run copies at the same time, and
  fuse small operations across them.
- `stacked` maps one step (`jax.vmap`) over states whose arrays are stacked along axis 0. Products
  of the net then become batched ones, which add up in another order: a step differs by 1e-7, and
  where training is not smooth (codes that are rounded at random, Adam's first steps) so does, by
  and by, everything.

A seed that has stopped leaves, and the step is compiled for those that are left: a masked seed
would compute for nothing until the last one stops.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax import predict
from ctr_jax.data import batches
from ctr_jax.train import journal, loop, processes
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib


class Together(NamedTuple):
  """How K seeds are held, and take a step at once.

  Attributes:
    join: a list of K states → what is held of them.
    take: (held, k) → the state of seed k.
    rescaled: (held, k, scale) → held, with another learning-rate scale of seed k.
    keep: (held, numbers) → held, of these seeds alone.
    inputs: a list of K batches → what `step` takes; NumPy, for the thread that prepares batches.
    step: (held, inputs) → (held, metrics, each [K]); jitted, what was held is donated.
  """

  join: Callable[[list[state_lib.State]], Any]
  take: Callable[[Any, int], state_lib.State]
  rescaled: Callable[[Any, int, jax.Array], Any]
  keep: Callable[[Any, list[int]], Any]
  inputs: Callable[[list[step_lib.Batch]], Any]
  step: Callable[[Any, Any], tuple[Any, dict[str, jax.Array]]]


def side_by_side(model: predict.Model, recipe: state_lib.Recipe) -> Together:
  """K copies of the step in one program: the same bits as one by one. Held is a tuple of states."""

  def train_step(states, inputs):
    found = [step_lib.step(model, recipe, s, x) for s, x in zip(states, inputs, strict=True)]
    states, metrics = zip(*found, strict=True)
    return states, {n: jnp.stack([x[n] for x in metrics]) for n in metrics[0]}

  def rescaled(states, k, scale):
    return (*states[:k], states[k]._replace(scale=scale), *states[k + 1 :])

  return Together(
    join=tuple,
    take=lambda states, k: states[k],
    rescaled=rescaled,
    keep=lambda states, numbers: tuple(states[k] for k in numbers),
    inputs=tuple,
    step=_jitted(train_step),
  )


def stacked(model: predict.Model, recipe: state_lib.Recipe) -> Together:
  """One step mapped over states stacked along axis 0: equal to one by one up to rounding."""

  def stack(*states):
    return jax.tree.map(lambda *x: jnp.stack(x), *states)

  def put(states, k, scale):
    return states._replace(scale=states.scale.at[k].set(scale))

  taken = jax.jit(lambda states, k: jax.tree.map(lambda x: x[k], states))
  return Together(
    join=lambda states: jax.jit(stack)(*states),
    take=lambda states, k: taken(states, np.int32(k)),
    rescaled=put,
    keep=lambda states, numbers: taken(states, np.array(numbers, np.int32)),
    inputs=lambda found: jax.tree.map(lambda *x: np.stack(x), *found),
    step=_jitted(jax.vmap(functools.partial(step_lib.step, model, recipe))),
  )


def _jitted(step):
  return jax.jit(step, donate_argnums=0, compiler_options=predict.compiler_options())


FORMS = {'side_by_side': side_by_side, 'stacked': stacked}


def fit(runs: Sequence[loop.Run], together: Together) -> list[loop.Position]:
  """Trains runs that differ in their seeds, each from its last checkpoint; `Run.fit` then has them.

  Args:
    runs: of one model, recipe, schedule and split, on one device, each in a folder of its own.
    together: of this model and recipe.

  Returns:
    How each run went.

  Raises:
    ValueError: a mesh, several processes, or tables in the host's memory.
    loop.Diverged: the loss of one is not finite; the others go on from their last checkpoints.
    loop.Interrupted: SIGTERM arrived; all were saved.
  """
  _refuse(runs)
  for run in runs[1:]:
    run.batches.share(runs[0].batches)
  return _Runs(runs, together).fit()


def _refuse(runs):
  if processes.joined():
    raise ValueError(
      'Several seeds at once are trained by one process: start it alone, or train them one by one.'
    )
  for run in runs:
    if run.program.hosts > 1 or run.program.scorer.multiple > 1:
      raise ValueError(
        'Several seeds at once are trained on one device: leave out the mesh, or train them one by '
        'one.'
      )
    on_host = [n for n, x in run.program.like().tables.items() if isinstance(x, np.ndarray)]
    if on_host:
      raise ValueError(
        f"{on_host}: tables in the host's memory change in place, for one seed at a time. Train "
        'seeds one by one, or place them on the device.'
      )


@dataclasses.dataclass
class _Lane:
  """A seed under way."""

  run: loop.Run
  position: loop.Position

  @property
  def left(self) -> int:
    """Steps to the end of its epoch."""
    return self.run.batches.steps_per_epoch - self.position.step


class _Runs:
  """Runs that take their steps at once, until none is left."""

  def __init__(self, runs, together):
    self._runs, self._together = runs, together
    self._terminated = threading.Event()
    self._warm = 0  # The number of seeds that the last step was compiled for.

  def fit(self):
    with contextlib.ExitStack() as opened:
      opened.enter_context(loop.Listening(self._terminated))
      for run in self._runs:
        opened.callback(run.close)
      begun = [run.begin() for run in self._runs]
      lanes = [_Lane(run, how) for run, (_, how) in zip(self._runs, begun, strict=True)]
      positions = [lane.position for lane in lanes]
      states = [state for state, position in begun if not position.done]
      lanes = [lane for lane in lanes if not lane.position.done]
      held = self._together.join(states) if lanes else None
      del begun, states
      while lanes:
        held = self._until_an_end(held, lanes)
        held, lanes = self._ended(held, lanes)
    return positions

  def _until_an_end(self, held, lanes):
    """Steps until the first of the seeds is at its epoch's end: all of them, if begun together."""
    steps = min(lane.left for lane in lanes)
    started, pending = time.perf_counter(), None
    with (
      journal.progress(_title(lanes), steps) as bar,
      contextlib.closing(_stream(lanes, steps, self._together)) as stream,
    ):
      for inputs, each in stream:
        held, metrics = self._together.step(held, inputs)
        if self._warm != len(lanes):  # This call has compiled: it is outside of the clock.
          jax.block_until_ready(metrics)
          self._warm, started = len(lanes), time.perf_counter()
          _count(lanes, -1)
        # The losses of the step before are fetched after this one is dispatched.
        if pending is not None:
          _note(lanes, pending, bar)
        pending = (metrics, each)
        for lane in lanes:
          lane.position.step += 1
        _count(lanes, 1)
        # Whoever is at its epoch's end is validated before it is saved, see `_ended`.
        leave = self._terminated.is_set() and all(lane.left for lane in lanes)
        due = [k for k, lane in enumerate(lanes) if leave or lane.run.is_due(lane.position)]
        if due:
          _note(lanes, pending, bar)
          pending = None
          _clock(lanes, started)
          self._save(held, lanes, due)
          started = time.perf_counter()
        if leave:
          _leave(lanes)
      if pending is not None:
        _note(lanes, pending, bar)
    _clock(lanes, started)
    return held

  def _ended(self, held, lanes):
    """Validates the seeds whose epoch has ended; those that are done leave."""
    within = []
    for k, lane in enumerate(lanes):
      if lane.left:
        within.append(k)
        continue
      state = self._together.take(held, k)
      scale = lane.run.validate(state, lane.position).scale
      held = self._together.rescaled(held, k, scale)
    staying = [k for k, lane in enumerate(lanes) if not lane.position.done]
    if self._terminated.is_set() and staying:
      self._save(held, lanes, within)
      _leave([lanes[k] for k in staying])
    if 0 < len(staying) < len(lanes):
      held = self._together.keep(held, staying)
    return held, [lanes[k] for k in staying]

  def _save(self, held, lanes, numbers):
    for k in numbers:
      lanes[k].run.save(self._together.take(held, k), lanes[k].position)


def _stream(lanes, steps, together):
  """Yields (what the step takes, a list of each seed's batch), prepared ahead."""

  def columns():
    with contextlib.ExitStack() as opened:
      streams = [
        opened.enter_context(
          contextlib.closing(lane.run.batches.epoch(lane.position.epoch, lane.position.step))
        )
        for lane in lanes
      ]
      # One thread reads for all seeds, whose rows are kept once.
      yield from itertools.islice(zip(*streams, strict=False), steps)

  with futures.ThreadPoolExecutor(len(lanes), 'batches') as pool:

    def prepared(found):
      each = list(pool.map(lanes[0].run.program.batch, found))
      return together.inputs(each), each

    yield from batches.prefetch(columns(), prepared)


def _title(lanes):
  epochs = sorted({lane.position.epoch + 1 for lane in lanes})
  more = f' and {len(lanes) - 1} more' if len(lanes) > 1 else ''
  return f'{lanes[0].run.name}{more}, epoch {", ".join(map(str, epochs))}'


def _note(lanes, pending, bar):
  metrics, each = pending
  metrics = {name: np.asarray(x) for name, x in metrics.items()}
  losses = [
    lane.run.note({name: x[k] for name, x in metrics.items()}, each[k], lane.position)
    for k, lane in enumerate(lanes)
  ]
  bar.update(float(np.mean(losses)))


def _count(lanes, steps):
  for lane in lanes:
    lane.position.samples += steps * lane.run.schedule.batch_size


def _clock(lanes, started):
  """Each seed has its share of the time: the seconds of all add up to those that passed."""
  for lane in lanes:
    lane.position.seconds += (time.perf_counter() - started) / len(lanes)


def _leave(lanes):
  places = ', '.join(
    f'epoch {lane.position.epoch + 1}, step {lane.position.step} in {lane.run.folder}'
    for lane in lanes
  )
  raise loop.Interrupted(f'SIGTERM: saved {places}; the same command goes on from there.')
