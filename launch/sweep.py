"""Every row of an experiment's sweep as a process of its own, here or on a cluster.

  python -m launch.sweep --experiment=relation --data=frappe_x1 --seeds=5 --jobs=2
  python -m launch.sweep --experiment=precision --place=slurm --dry_run -- --net=fm --epochs=2

Rows that are done are skipped, interrupted ones go on from their last checkpoint, and one that
fails does not stop the others. At the end the experiment itself finds all rows done and writes
result.json, report.md and report.png. Flags of the experiment are given after --.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import signal
import subprocess
import sys

from experiments import report
from launch import batch, commands, jobset, skypilot, slurm
from launch.workers import Ended, Workers

PLACES = {'slurm': slurm, 'jobset': jobset, 'skypilot': skypilot}
_REPORT = commands.Row('report', '', '')
_OWN = {
  'devices': ('local',),
  'jobs': ('local', 'slurm', 'jobset'),
  'accelerators': tuple(PLACES),
  'image': ('jobset', 'skypilot'),
  'volume': ('jobset', 'skypilot'),
  'node_selector': ('jobset',),
  'place_flags': tuple(PLACES),
}
"""Flags that are of some places alone, and of which."""


def local(sweep: commands.Plan, slots: list[dict[str, str]]) -> int:
  """Trains the rows on this machine and makes the report; the exit status."""
  logs, count = sweep.workdir / 'logs', len(sweep.rows)
  logs.mkdir(parents=True, exist_ok=True)
  ended = {row: Ended('skipped') for row in sweep.rows if sweep.done(row)}
  missing = [row for row in sweep.rows if row not in ended]
  _say(f'{count} rows, {len(ended)} already done; {len(slots)} at a time; logs are in {logs}')

  def start(row, environment):
    # A session of its own: Ctrl-C is for the launcher alone, which tells its rows in order.
    with (logs / f'{row.folder}.log').open('w') as log:
      return subprocess.Popen(
        sweep.command(row), env=environment, stdin=subprocess.DEVNULL, stdout=log,
        stderr=subprocess.STDOUT, start_new_session=True,
      )  # fmt: skip

  def finished(row, how):
    ended[row] = how
    why = f' ({how.cause()})' if how.state == 'failed' else ''
    _say(f'[{len(ended)}/{count}] {row.label}: {how.state}{why} after {how.seconds:.0f} s')

  workers = Workers(slots)
  workers.run(missing, start, finished)
  ready = [row for row in sweep.rows if row in ended and ended[row].state in ('done', 'skipped')]
  if ready and not workers.stopped_by:
    command = sweep.report(None if len(ready) == count else ready)

    def merge(row, environment):
      return subprocess.Popen(command, env=environment, start_new_session=True)

    workers.run([_REPORT], merge, ended.__setitem__)
  return _conclude(sweep, ended, logs, workers.stopped_by)


def _conclude(sweep, ended, logs, stopped_by):
  """Prints the table of all rows, and the last lines of those that failed; the exit status."""
  states = [(row, ended.get(row, Ended('not begun'))) for row in (*sweep.rows, _REPORT)]
  lines = [(r.label, x.state, f'{x.seconds:.0f}' if x.seconds else '–') for r, x in states]
  print(f'\n{report.table(("row", "state", "seconds"), lines)}', flush=True)
  failed = [(row, how) for row, how in states if how.state == 'failed']
  for row, how in failed:
    path, tail = logs / f'{row.folder}.log', ['its output is above']
    if row is not _REPORT:
      tail = [f'the end of {path}:', *path.read_text(errors='replace').splitlines()[-8:]]
    _say('\n  '.join([f'\n{row.label}: {how.cause()}; {tail[0]}', *tail[1:]]))
  if stopped_by:
    name = signal.Signals(stopped_by).name
    _say(f'\nStopped by {name}: the same command goes on from the last checkpoints.')
    return 128 + stopped_by
  return int(bool(failed))


def elsewhere(sweep: commands.Plan, place: str, dry_run: bool, **needs) -> int:
  """Hands the missing rows to a cluster, or prints what would be handed; the exit status."""
  there, python = PLACES[place], sys.executable if place == 'slurm' else 'python'
  series: dict[str, list[str]] = {}
  for row in sweep.rows:
    if not sweep.done(row):
      series.setdefault(row.series, []).append(shlex.join(sweep.command(row, python)))
  making = shlex.join(sweep.report(python=python))
  if not series:
    _say(f'All {len(sweep.rows)} rows are already done; the report: {making}')
    return 0
  jobs, logs = tuple(tuple(commands) for commands in series.values()), sweep.workdir / 'logs'
  todo = batch.Batch(jobs=jobs, report=making, logs=str(logs), **needs)
  file = sweep.workdir / there.FILE
  text, submit = there.text(todo), there.submit(todo, str(file))
  if dry_run:
    print(f'# {file}\n{text}\n# To submit it:\n{submit}', end='')
    return 0
  if not shutil.which(there.PROGRAM):
    raise ValueError(
      f'--place={place} needs `{there.PROGRAM}` on the PATH. {there.INSTALL} --dry_run prints '
      'the file and what submits it.'
    )
  logs.mkdir(parents=True, exist_ok=True)
  file.write_text(text)
  return subprocess.run(['bash', '-euc', submit], check=False).returncode


def _dry_run(sweep, slots):
  for row in sweep.rows:
    note = '# already done: ' if sweep.done(row) else ''
    print(f'{note}{shlex.join(sweep.command(row))}')
  own = ''.join(f', {k}={v}' for k, v in slots[0].items())
  print(f'# {len(slots)} at a time{own and ", the first with" + own[1:]}; when all are done:')
  print(shlex.join(sweep.report()))
  return 0


def _slots(options):
  """What tells the processes of each slot which accelerator is theirs."""
  if not options.devices:
    return [{}] * (options.jobs or 1)
  one_chip = {'TPU_CHIPS_PER_PROCESS_BOUNDS': '1,1,1', 'TPU_PROCESS_BOUNDS': '1,1,1'}
  devices = options.devices.split(',')[: options.jobs]
  return [{'CUDA_VISIBLE_DEVICES': d, 'TPU_VISIBLE_DEVICES': d} | one_chip for d in devices]


def _check_place(options):
  """Refuses flags that would do nothing."""
  for name, places in _OWN.items():
    given = getattr(options, name)
    if given and options.place not in places:
      raise ValueError(
        f'--{name}={given} does nothing with --place={options.place}: it is for '
        f'{", ".join(places)}. Leave it out.'
      )


def _say(text):
  print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m launch.sweep',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  flag = parser.add_argument
  flag('--experiment', required=True, help='a name in experiments/, or a module: package.name')
  for name in ('data', 'seeds', 'only', 'workdir'):
    flag(f'--{name}', help=f"the experiment's --{name}")
  flag('--place', choices=('local', *PLACES), default='local', help='where rows are trained')
  flag('--dry_run', action='store_true', help='print what would be run or submitted, and end')
  flag(
    '--jobs', type=int,
    help='rows at a time; default: one here, all of them on a cluster; SkyPilot takes all',
  )  # fmt: skip
  flag('--devices', default='', help='local: numbers of accelerators, as 0,1,2,3: a row on each')
  flag(
    '--accelerators',
    default='',
    help='of a host: gpu:1 (Slurm, --gres), nvidia.com/gpu:1 or google.com/tpu:4 (JobSet), H100:1 '
    'or tpu-v6e-8 (SkyPilot)',
  )
  flag(
    '--hosts',
    type=int,
    default=1,
    help='of a row, on a cluster: they train it together, and --mesh of the experiment, after --, '
    'counts the accelerators of all. A TPU pod is one host for SkyPilot, which knows its parts',
  )
  flag('--image', default='', help='jobset, skypilot: container that has requirements.txt')
  flag('--volume', default='', help='what rows share; jobset: CLAIM:/path; skypilot: gs://bucket')
  flag('--node_selector', default='', help='jobset: labels of the nodes, KEY=VALUE,KEY=VALUE')
  flag('--place_flags', default='', help='more flags of sbatch, kubectl create, sky jobs launch')
  return parser


def main(arguments: list[str]) -> int:
  """Runs the command line; its exit status."""
  at = arguments.index('--') if '--' in arguments else len(arguments)
  options, further = _parser().parse_args(arguments[:at]), arguments[at + 1 :]
  given = {name: getattr(options, name) for name in ('data', 'seeds', 'only', 'workdir')}
  apart = next((word for word in further if not word.startswith('--')), None)
  if apart is not None:
    raise ValueError(f'{apart!r} after --: give a flag and its value as one word, --NAME=VALUE.')
  flags = (*(f'--{k}={v}' for k, v in given.items() if v is not None), *further)
  if options.jobs is not None and options.jobs < 1:
    raise ValueError(f'--jobs={options.jobs}: at least one row has to run at a time.')
  if options.hosts < 1 or (options.hosts > 1 and options.place == 'local'):
    raise ValueError(
      f'--hosts={options.hosts}: rows of several hosts are for clusters (--place); here, start an '
      'experiment with --coordinator, --processes and --process.'
    )
  _check_place(options)
  sweep = commands.of(commands.module_of(options.experiment, flags), flags)
  if options.place == 'local':
    slots = _slots(options)
    return _dry_run(sweep, slots) if options.dry_run else local(sweep, slots)
  return elsewhere(
    sweep,
    options.place,
    options.dry_run,
    name=re.sub(r'[^\w.-]', '-', sweep.name),
    at_once=options.jobs,
    accelerators=options.accelerators,
    hosts=options.hosts,
    image=options.image,
    volume=options.volume,
    node_selector=tuple(filter(None, options.node_selector.split(','))),
    flags=options.place_flags,
  )


if __name__ == '__main__':
  try:
    sys.exit(main(sys.argv[1:]))
  except KeyboardInterrupt:
    _say('Stopped before any row began.')
    sys.exit(130)
  except (ValueError, OSError) as error:
    _say(f'error: {error}')
    sys.exit(1)
