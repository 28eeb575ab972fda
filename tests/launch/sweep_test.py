"""launch.sweep here: rows apart, failures named, stopped and gone on with, and one report."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from launch import commands, sweep

PROJECT = pathlib.Path(__file__).parent.parent.parent
FAKE = ('--experiment=tests.launch.fake', '--data=synthetic_small')
SMALL = ('--', '--epochs=1', '--batch_size=2048', '--net=lr')


def begin(*arguments, **environment):
  return subprocess.Popen(
    [sys.executable, '-m', 'launch.sweep', *arguments], cwd=PROJECT, text=True,
    env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )  # fmt: skip


def run(*arguments, status=0, **environment):
  process = begin(*arguments, **environment)
  out, err = process.communicate(timeout=300)
  assert process.returncode == status, (out, err)
  return out, err


def notes(folder):
  path = folder / 'notes'
  return path.read_text().splitlines() if path.exists() else []


def states(out):
  lines = [line.split('|')[1:4] for line in out.splitlines() if line.startswith('| ')]
  return {row.strip(): state.strip() for row, state, _ in lines[1:]}


def until(what, seconds=60):
  end = time.monotonic() + seconds
  while not what():
    assert time.monotonic() < end, 'waited in vain'
    time.sleep(0.05)


def test_a_row_that_fails_is_named_and_stops_no_other(tmp_path):
  arguments = (*FAKE, f'--workdir={tmp_path}', '--jobs=2')
  out, err = run(*arguments, '--only=one|made|bad', status=1, FAKE_BAD='1')
  found = states(out)
  assert found == {
    'one: one_1': 'done', 'one: one_after': 'done', 'made: made_1': 'done', 'made: made_2': 'done',
    'bad: bad': 'failed', 'report': 'done',
  }  # fmt: skip
  assert 'bad: bad: failed (exit status 3)' in err
  assert 'ValueError: it went wrong' in err.split('the end of')[1]
  assert (tmp_path / 'report.md').read_text() == 'one_1 one_after made_1 made_2'
  # Rows that share a stage, and rows that make columns, never overlap.
  seen = notes(tmp_path)
  for first, second in (('one_1', 'one_after'), ('made_1', 'made_2')):
    assert seen.index(f'end {first}') < seen.index(f'begin {second}')
  # The same command trains what is missing, and then reports of everything.
  out, _ = run(*arguments, '--only=one|made|bad')
  assert notes(tmp_path)[len(seen) :] == ['begin bad', 'end bad']
  assert states(out)['one: one_1'] == 'skipped'
  assert (tmp_path / 'report.md').read_text() == 'one_1 one_after made_1 made_2 bad'


@pytest.mark.parametrize(
  'number', [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM]
)
def test_a_stopped_sweep_lets_its_rows_save_and_goes_on(tmp_path, number):
  arguments = (*FAKE, f'--workdir={tmp_path}', '--only=slow|bad')
  process = begin(*arguments, FAKE_SLOW='1')
  until(lambda: notes(tmp_path))
  process.send_signal(number)
  out, err = process.communicate(timeout=30)
  assert process.returncode == 128 + number
  assert notes(tmp_path) == ['begin slow_×2', 'saved slow_×2']
  assert states(out) == {
    'slow: slow_×2': 'stopped', 'bad: bad': 'not begun', 'report': 'not begun',
  }  # fmt: skip
  assert 'the same command goes on' in err
  run(*arguments, FAKE_SLOW='1')
  assert notes(tmp_path)[2:] == ['begin slow_×2', 'end slow_×2', 'begin bad', 'end bad']


@pytest.mark.long
def test_precision_rows_side_by_side(tmp_path):
  arguments = ('--experiment=precision', '--data=synthetic_small', f'--workdir={tmp_path}')
  out, _ = run(*arguments, '--only=while_training_float16', '--jobs=2', *SMALL)
  result = json.loads((tmp_path / 'result.json').read_text())
  name = 'stored_while_training_float16'
  assert [row['name'] for row in result['rows']] == [name, f'{name},_stochastic']
  # The command of the rows is the one that a reader would give.
  assert {row['command'] for row in result['rows']} == {
    'python -m experiments.precision --data=synthetic_small --only=while_training_float16 '
    '--epochs=1 --batch_size=2048 --net=lr'
  }
  assert (tmp_path / 'report.md').read_text() in out


def test_dry_run_prints_the_commands_and_runs_none(tmp_path):
  folder = tmp_path / 'one_1' / 'seed_0'
  folder.mkdir(parents=True)
  (folder / 'result.json').write_text('{}')
  arguments = (*FAKE, f'--workdir={tmp_path}', '--only=one|slow', '--devices=4,5')
  out, err = run(*arguments, '--dry_run', '--', '--save_result')
  python = f'{sys.executable} -m tests.launch.fake --data=synthetic_small'
  assert out.splitlines() == [
    f"# already done: {python} '--only=^one: one_1$' --workdir={tmp_path} --shared_workdir",
    f"{python} '--only=^one: one_after$' --workdir={tmp_path} --shared_workdir",
    f"{python} '--only=^slow: slow_×2$' --workdir={tmp_path} --shared_workdir",
    '# 2 at a time, the first with CUDA_VISIBLE_DEVICES=4, TPU_VISIBLE_DEVICES=4, '
    'TPU_CHIPS_PER_PROCESS_BOUNDS=1,1,1, TPU_PROCESS_BOUNDS=1,1,1; when all are done:',
    f"{python} '--only=one|slow' --save_result --workdir={tmp_path}",
  ]
  assert err == ''
  assert {p.name for p in tmp_path.iterdir()} == {'one_1'}


@pytest.mark.parametrize(
  'label', ['a: b_0.5', 'hash: 10×', 'x|y: (z) [0] {1} $^*+?', 'back\\slash: p=1,q']
)
def test_a_label_is_found_exactly(label):
  one = commands.Plan('n', 'm', (), pathlib.Path('w'), [0], [])
  (only,) = (x for x in one.command(commands.Row(label, '', '')) if x.startswith('--only='))
  expression = only.removeprefix('--only=')
  assert re.search(expression, label)
  assert not re.search(expression, f'{label}_')
  assert not re.search(expression, f' {label}')


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['--experiment=massive_to_compact', '--data=x'], 'Run whole, it resumes by itself: python -m'),
    (['--experiment=bars_frappe'], 'no `sweep'),
    (['--experiment=nothing'], 'There is no experiments.nothing. Experiments with rows are dim'),
    (['--experiment=no.such.thing'], 'There is no no.such.thing'),
    (['--experiment=tests.launch'], 'There is no tests.launch'),
    (['--experiment=precision', '--', '--only', 'one'], "'one' after --: give a flag and its"),
    (['--experiment=precision', '--', '-only=one'], "'-only=one' after --: give a flag and its"),
    (['--experiment=precision', '--jobs=0'], '--jobs=0: at least one'),
    (
      ['--experiment=precision', '--dry_run', '--image=a'],
      '--image=a does nothing with --place=lo',
    ),
    (
      ['--experiment=precision', '--dry_run', '--place=skypilot', '--jobs=2'],
      '--jobs=2 does nothing with --place=skypilot: it is for local, slurm, jobset',
    ),
    (
      ['--experiment=precision', '--dry_run', '--place=slurm', '--devices=0'],
      '--devices=0 does nothing with --place=slurm: it is for local',
    ),
    (['--experiment=precision', '--hosts=2'], 'start an experiment with --coordinator'),
  ],
)
def test_what_cannot_be_done_is_said(arguments, words):
  with pytest.raises(ValueError) as error:
    sweep.main(arguments)
  assert words in str(error.value)


def test_flags_that_the_experiment_does_not_know_are_refused():
  _, err = run('--experiment=precision', '--', '--no_such_flag=1', status=1)
  assert "Unknown command line flag 'no_such_flag'" in err
  assert err.rstrip().endswith('did not say which rows it has; the reason stands above.')


def test_nobody_imports_the_launcher():
  for folder in ('ctr_jax', 'experiments'):
    for path in (PROJECT / folder).rglob('*.py'):
      lines = path.read_text().splitlines()
      assert not [x for x in lines if x.lstrip().startswith(('import launch', 'from launch'))], path
