"""What the sweep of an experiment would train, as JSON for launch/sweep.py.

  python -m launch.rows OUT.json experiments.relation --data=frappe_x1

It runs in a process of its own, so that the launcher needs no jax and holds no accelerator.
"""

from __future__ import annotations

import importlib
import pathlib
import sys

from ctr_jax.train import loop
from experiments import common, merging, sweeps


def series(entry: sweeps.Entry) -> str:
  """Rows of one series run one after another: they share a first stage, or columns that are made.

  A stage that two rows come after would keep one of them waiting; of two that make the same columns
  at once, one would fail.
  """
  first = entry.trial
  while first.after is not None:
    first = first.after
  return first.name if entry.source is None else ''


def plan(module) -> dict:
  """The working folder, the seeds and the rows that the flags ask for."""
  name = module.__name__.rpartition('.')[2]
  source = common.source()
  if common.SAVE.value:  # Refused before hours of work.
    base = {'base': sweeps.base().describe(source)}
    merging.merged(common.result(name, source, [], **base), f'{name}_{common.data_name()}')
  rows = [
    {'label': entry.label, 'folder': entry.trial.name, 'series': series(entry)}
    for entry in sweeps.entries(module.sweep, source)
  ]
  folder = common.folder(name)
  if pathlib.Path.cwd() == common.PROJECT and folder.is_relative_to(common.PROJECT):
    # The same words on a machine that has the project elsewhere.
    folder = folder.relative_to(common.PROJECT)
  seeds = list(common.seeds())
  return {
    'name': f'{name}-{common.data_name()}', 'workdir': str(folder), 'seeds': seeds, 'rows': rows,
  }  # fmt: skip


if __name__ == '__main__':
  out, module = sys.argv[1:3]
  del sys.argv[1:3]
  module = importlib.import_module(module)  # It defines its flags, which are then parsed.
  common.run(lambda: loop.write_json(pathlib.Path(out), plan(module)))
