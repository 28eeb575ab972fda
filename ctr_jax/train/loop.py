"""The training loop: epochs, validation, plateau and early stop, checkpoints, and leaving in order.

Everything random is a function of (seed, epoch, step), and the position is saved with the state, so
a run that is killed at any moment and started again ends with the same bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ctr_jax import predict
from ctr_jax.data import batches, columns
from ctr_jax.train import checkpoint, journal, processes
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib


@dataclasses.dataclass(frozen=True)
class Schedule:
  """How long a run goes on.

  Attributes:
    epochs: at most.
    batch_size: samples per step.
    patience: epochs without a better validation metric, in all, after which the run stops.
    decay: the learning rates' factor after each epoch without improvement.
    floor: the smallest factor.
    min_delta: what counts as better.
    monitor: 'auc', 'gauc' or 'log_loss', on the validation split.
    checkpoint_steps: a checkpoint every so many steps, beside the one after each epoch; 0 for none.
    deltas: after a full checkpoint so many save what has changed since the one before, and no more.
  """

  epochs: int = 100
  batch_size: int = 4096
  patience: int = 2
  decay: float = 0.1
  floor: float = 1e-3
  min_delta: float = 1e-6
  monitor: str = 'auc'
  checkpoint_steps: int = 0
  deltas: int = 0


class Diverged(RuntimeError):
  """The loss is NaN or infinite."""


class Interrupted(RuntimeError):
  """SIGTERM arrived; a checkpoint was saved."""


@dataclasses.dataclass
class Position:
  """Where a run is: saved as JSON beside every checkpoint."""

  epoch: int = 0
  step: int = 0  # Within the epoch.
  best: float | None = None
  best_epoch: int = -1
  misses: int = 0
  done: bool = False
  loss: float = 0.0  # Sum over the epoch's steps, for the log.
  traffic: dict[str, float] = dataclasses.field(default_factory=dict)  # The epoch's worst.
  seconds: float = 0.0  # Spent in training steps.
  samples: int = 0
  history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class Trained(NamedTuple):
  """What `fit` returns.

  Attributes:
    state: after the best epoch.
    last: after the last epoch.
    position: how the run went.
  """

  state: state_lib.State
  last: state_lib.State
  position: Position


class Run:
  """One training run in one folder: `fit` drives it, or `seeds.fit` several of them.

  `description` says in plain JSON what a checkpoint has to agree with; `validate` measures a state
  on held-out data and has at least the schedule's `monitor`; `start` maps the fresh state to that
  which training starts from, for runs that follow another; `split` is what is learned from.
  """

  def __init__(
    self,
    model: predict.Model,
    program: step_lib.Program,
    schedule: Schedule,
    source: columns.Source,
    folder: pathlib.Path,
    description: dict[str, Any],
    seed: int,
    validate: Callable[[state_lib.State], dict[str, float]],
    name: str = 'train',
    start: Callable[[state_lib.State], state_lib.State] | None = None,
    split: str = 'train',
  ):
    self.program, self.schedule = program, schedule
    self.folder, self.name, self._seed = folder, name, seed
    self.batches = batches.Batches(
      source, split, (*model.columns, 'label'), schedule.batch_size, seed=seed,
      host=program.host, hosts=program.hosts,
    )  # fmt: skip
    self._checkpoints = checkpoint.Checkpoints(
      folder / 'checkpoints', model, description, schedule.deltas
    )
    self._journal = journal.Journal(folder)
    self._validation = validate
    self._start = start
    self._terminated = threading.Event()
    self._warm = False

  def fit(self) -> Trained:
    """Trains until the schedule ends, from the last checkpoint if there is one."""
    state, position = self.begin()
    with self._listening():
      while not position.done:
        state = self._epoch(state, position)
        state = self.validate(state, position)
        if self._terminated.is_set() and not position.done:
          self._leave(position)
      self._checkpoints.wait()
    best, _ = self._checkpoints.restore('best', self.program.like())
    self.close()
    return Trained(best, state, position)

  def begin(self) -> tuple[state_lib.State, Position]:
    """What to go on from: the last checkpoint, or the state before the first step."""
    restored = self._checkpoints.restore('last', self.program.like())
    if restored is None:
      state = self.program.create(self._seed)
      return committed(self._start(state) if self._start else state), Position()
    state, position = restored[0], Position(**restored[1])
    if not position.step and position.best_epoch == position.epoch:
      # Both are written at the same time, and a kill may have left the last one alone.
      self._checkpoints.save('best', state, dataclasses.asdict(position))
    if not position.done:
      journal.say(f'{self.name} resumes at epoch {position.epoch + 1}, step {position.step}')
    return state, position

  def _epoch(self, state, position):
    total = self.batches.steps_per_epoch
    stream = batches.prefetch(self.batches.epoch(position.epoch, position.step), self.program.batch)
    title = f'{self.name} epoch {position.epoch + 1}'
    started, pending = time.perf_counter(), None
    with journal.progress(title, total, position.step) as bar:
      for inputs in stream:
        state, metrics = self.program.step(state, inputs)
        if not self._warm:  # The first call compiles: it is outside of the clock.
          jax.block_until_ready(metrics)
          self._warm, started = True, time.perf_counter()
          position.samples -= self.schedule.batch_size
        # The loss of the step before is fetched after this one is dispatched.
        if pending is not None:
          bar.update(self.note(*pending, position))
        pending = (metrics, inputs)
        position.step += 1
        position.samples += self.schedule.batch_size
        # At the epoch's end it is validated first: what is saved then is of the next epoch.
        leave = self._terminated.is_set() and position.step < total
        if leave or self.is_due(position):
          bar.update(self.note(*pending, position))
          pending = None
          position.seconds += time.perf_counter() - started
          self.save(state, position)
          started = time.perf_counter()
        if leave:
          self._leave(position)
      if pending is not None:
        bar.update(self.note(*pending, position))
    position.seconds += time.perf_counter() - started
    return state

  def is_due(self, position: Position) -> bool:
    """Whether the schedule wants a checkpoint here, within an epoch."""
    every, within = self.schedule.checkpoint_steps, self.batches.steps_per_epoch
    return every > 0 and position.step % every == 0 and position.step < within

  def save(self, state: state_lib.State, position: Position) -> None:
    """The last checkpoint."""
    self._checkpoints.save('last', state, dataclasses.asdict(position))

  def note(self, metrics: Mapping[str, Any], inputs: Any, position: Position) -> float:
    """Adds a step's metrics to those of the epoch, its rows to what is to be saved; the loss.

    Raises:
      Diverged: the loss is not finite.
    """
    value = float(metrics['loss'])
    if not np.isfinite(value):
      raise Diverged(self._diagnosis(value, inputs, position))
    self._checkpoints.moved(inputs)
    position.loss += value
    for name, found in metrics.items():
      if name != 'loss':  # Of the exchange between devices: the worst of the epoch.
        position.traffic[name] = max(float(found), position.traffic.get(name, 0.0))
    return value

  def validate(self, state: state_lib.State, position: Position) -> state_lib.State:
    """Ends an epoch: measures, writes the journal and checkpoints, and moves the position on.

    Returns:
      The state; without improvement, with a smaller `scale`.
    """
    schedule = self.schedule
    measured = self._validation(state)
    if schedule.monitor not in measured:
      raise ValueError(
        f'{schedule.monitor!r} is to be monitored, and validation measures {", ".join(measured)}. '
        "GAUC needs a schema's `group`, and a group of the split with both classes: monitor 'auc'."
      )
    sign = -1 if schedule.monitor == 'log_loss' else 1
    value = sign * measured[schedule.monitor]
    entry = {
      'epoch': position.epoch + 1,
      'step': int(state.step),
      'train_loss': position.loss / max(position.step, 1),
      'scale': float(state.scale),
      **position.traffic,
      **{f'valid_{k}': float(v) for k, v in measured.items()},
    }
    better = position.best is None or value >= position.best + schedule.min_delta
    position.history.append(entry)
    position.epoch, position.step, position.loss = position.epoch + 1, 0, 0.0
    position.traffic = {}
    if better:
      position.best, position.best_epoch = value, position.epoch
      self._checkpoints.save('best', state, dataclasses.asdict(position))
    else:
      position.misses += 1
      scale = max(float(state.scale) * schedule.decay, schedule.floor)
      where = getattr(state.scale, 'sharding', None)  # On all devices, if the others are.
      state = state._replace(scale=jax.device_put(np.float32(scale), where))
    position.done = position.misses >= schedule.patience or position.epoch >= schedule.epochs
    self._journal.write(entry)  # Before the checkpoint: a resumed run writes no line twice.
    self.save(state, position)
    return state

  def close(self) -> None:
    """Returns when everything is on disk; the run is then over."""
    self._checkpoints.wait()
    self._checkpoints.close()
    self._journal.close()

  def _leave(self, position):
    self._checkpoints.wait()
    raise Interrupted(
      f'SIGTERM: saved epoch {position.epoch + 1}, step {position.step} in {self.folder}; '
      'the same command goes on from there.'
    )

  def _listening(self):
    # One of several processes cannot leave in order by itself: it dies, and the others with it.
    return contextlib.nullcontext() if processes.joined() else Listening(self._terminated)

  def _diagnosis(self, value, inputs, position):
    """A sentence for a diverged run: which step, what was in the batch, where to go on from."""
    self._checkpoints.wait()
    inputs = getattr(inputs, 'inner', inputs)  # Of tables on the host (`hosted.Prepared`).
    lines = [
      f'The loss is {value} at epoch {position.epoch + 1}, step {position.step}. '
      f'Labels: mean {float(np.mean(_here(inputs.label))):.4f}. Values of the batch:'
    ]
    for name, x in inputs.values.items():
      x = _here(x)
      bad = int(np.sum(~np.isfinite(x)))
      lines.append(f'  {name}: min {np.min(x):.4g}, max {np.max(x):.4g}, not finite {bad}')
    for name, x in inputs.index.items():
      x = _here(x)
      lines.append(f'  {name}: rows {np.min(x)}..{np.max(x)}')
    lines.append(
      f'The last good checkpoint is in {self.folder / "checkpoints"}. '
      'Lower the learning rate, clip gradients, or look at the numeric features above.'
    )
    return '\n'.join(lines)


def _here(x):
  """What this process has of an array of the batch."""
  if isinstance(x, jax.Array):
    return np.concatenate([np.asarray(part.data) for part in x.addressable_shards])
  return x


class Listening:
  """While inside, SIGTERM sets an event in place of killing the process.

  Whoever ends without having heeded it, since all was done, is interrupted by the end: else the
  process would go on with what comes next, and whoever sent the signal would wait.
  """

  def __init__(self, event: threading.Event):
    self._event = event

  def __enter__(self):
    self._before = None
    if threading.current_thread() is threading.main_thread():
      self._before = signal.signal(signal.SIGTERM, lambda *_: self._event.set())

  def __exit__(self, kind, *exc):
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)
    if kind is None and self._event.is_set():
      raise Interrupted(
        'SIGTERM: what was under way is finished and saved; the same command goes on from there.'
      )


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes atomically: whoever reads finds the old file or the new one. One process for all."""
  if not processes.is_first():
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix('.tmp')
  temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + '\n')
  temporary.replace(path)


def committed(state: state_lib.State) -> state_lib.State:
  """The state with each array held to the device that it lies on.

  Arrays of a checkpoint are, and so is the `scale` after an epoch without improvement; those that
  were made are not. Where both go into a step it is compiled anew, and what comes out of it is held
  as a whole, so that the next one is compiled once more.
  """

  def hold(x):
    return jax.device_put(x, x.sharding) if isinstance(x, jax.Array) and not x.committed else x

  return jax.tree.map(hold, state)
