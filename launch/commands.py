"""The rows of an experiment's sweep, and the commands that train them and make their report."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
from typing import NamedTuple

_EXPERIMENTS = pathlib.Path(__file__).resolve().parent.parent / 'experiments'
_SWEEP = re.compile(r'^def sweep\(add, source\)', re.MULTILINE)


class Row(NamedTuple):
  """A row of a sweep.

  Attributes:
    label: group and name.
    folder: of its trial.
    series: what it has in common with rows that do not run at the same time (launch/rows.py).
  """

  label: str
  folder: str
  series: str


class Plan(NamedTuple):
  """The experiment, its flags as given, and what they come to (launch/rows.py)."""

  name: str
  module: str
  flags: tuple[str, ...]
  workdir: pathlib.Path
  seeds: list[int]
  rows: list[Row]

  def done(self, row: Row) -> bool:
    """Whether every seed of a row has its result."""
    seeds = (self.workdir / row.folder / f'seed_{seed}' / 'result.json' for seed in self.seeds)
    return all(path.exists() for path in seeds)

  def command(self, row: Row, python: str = sys.executable) -> list[str]:
    """What trains one row."""
    flags = [flag for flag in self.flags if not flag.startswith(('--only', '--save_result'))]
    own = (f'--only=^{_exactly(row.label)}$', f'--workdir={self.workdir}', '--shared_workdir')
    return [python, '-m', self.module, *flags, *own]

  def report(self, rows: list[Row] | None = None, python: str = sys.executable) -> list[str]:
    """What makes the report, of all rows or, where some failed, of those that are done."""
    some = [] if rows is None else [f'--only=^({"|".join(_exactly(r.label) for r in rows)})$']
    return [python, '-m', self.module, *self.flags, *some, f'--workdir={self.workdir}']


def _exactly(label: str) -> str:
  """An expression for a label; like `re.escape`, but easier to read."""
  return re.sub(r'([.^$*+?{}\[\]\\|()])', r'\\\1', label)


def of(module: str, flags: tuple[str, ...]) -> Plan:
  """Asks the experiment for its rows, in a process that is gone before they are trained."""
  with tempfile.TemporaryDirectory() as folder:
    out = pathlib.Path(folder) / 'rows.json'
    command = [sys.executable, '-m', 'launch.rows', str(out), module, *flags]
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
      raise ValueError(f'{module} did not say which rows it has; the reason stands above.')
    found = json.loads(out.read_text())
  rows = [Row(**row) for row in found['rows']]
  workdir = pathlib.Path(found['workdir'])
  flags = tuple(flag for flag in flags if not flag.startswith('--workdir'))
  return Plan(found['name'], module, flags, workdir, found['seeds'], rows)


def module_of(experiment: str, flags: tuple[str, ...]) -> str:
  """The module of an experiment, if it has rows that can be run apart."""
  module = experiment if '.' in experiment else f'experiments.{experiment}'
  known = [p.stem for p in sorted(_EXPERIMENTS.glob('*.py')) if _SWEEP.search(p.read_text())]
  try:
    spec = importlib.util.find_spec(module)
  except ModuleNotFoundError:
    spec = None
  if spec is None or spec.origin is None:
    raise ValueError(f'There is no {module}. Experiments with rows are {", ".join(known)}.')
  if not _SWEEP.search(pathlib.Path(spec.origin).read_text()):
    raise ValueError(
      f'{module} has no `sweep(add, source)`, so its parts cannot be run apart. Run whole, it '
      f'resumes by itself: {shlex.join(["python", "-m", module, *flags])}. Experiments with rows '
      f'are {", ".join(known)}.'
    )
  return module
