"""What a run says while it goes: a progress bar, metrics.jsonl and TensorBoard events."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
import time
from typing import Any

import tqdm

from ctr_jax.train import processes


def say(text: str) -> None:
  """A line for whoever watches, once for all processes; standard output is for results."""
  if processes.is_first():
    print(text, file=sys.stderr, flush=True)


class Journal:
  """Appends each epoch's metrics to `metrics.jsonl` and to TensorBoard events in one folder."""

  def __init__(self, folder: pathlib.Path):
    self._silent = not processes.is_first()  # One of several processes writes for all.
    if self._silent:
      return
    import tensorboardX  # Here, because it is slow to import and a run may never need it.

    folder.mkdir(parents=True, exist_ok=True)
    self._path = folder / 'metrics.jsonl'
    self._events = tensorboardX.SummaryWriter(str(folder / 'events'))

  def write(self, entry: dict[str, Any]) -> None:
    """`entry` has a 'step'; an entry of a step that is already there is not written twice."""
    if self._silent:
      return
    if self._path.exists():
      steps, end = _steps(self._path)
      if entry['step'] in steps:
        return
      os.truncate(self._path, end)
    with self._path.open('a') as file:
      file.write(json.dumps(entry) + '\n')
    for name, value in entry.items():
      if name != 'step':
        self._events.add_scalar(name, value, entry['step'])

  def close(self) -> None:
    if not self._silent:
      self._events.close()


def _steps(path):
  """(steps of the lines, bytes up to the last whole one): a kill may have cut the last line off."""
  steps, end = [], 0
  for line in path.read_bytes().splitlines(keepends=True):
    if not line.endswith(b'\n'):
      break
    steps.append(json.loads(line)['step'])
    end += len(line)
  return steps, end


class _Bar:
  """A bar on a terminal; on anything else a line every ten seconds."""

  def __init__(self, title: str, total: int, initial: int):
    self._title, self._total, self._done = title, total, initial
    self._terminal = sys.stderr.isatty()
    self._bar = tqdm.tqdm(
      total=total, initial=initial, desc=title, unit='step', disable=not self._terminal, leave=False
    )
    self._said = time.monotonic()

  def update(self, loss: float, steps: int = 1) -> None:
    self._done += steps
    self._bar.set_postfix_str(f'loss {loss:.4f}', refresh=False)
    self._bar.update(steps)
    if not self._terminal and time.monotonic() - self._said > 10:
      self._said = time.monotonic()
      say(f'{self._title}: step {self._done}/{self._total}, loss {loss:.4f}')

  def close(self) -> None:
    self._bar.close()


@contextlib.contextmanager
def progress(title: str, total: int, initial: int = 0):
  """A bar with `update(loss)`, closed at the end."""
  bar = _Bar(title, total, initial)
  try:
    yield bar
  finally:
    bar.close()
