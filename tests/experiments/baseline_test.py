"""What the baseline refuses to guess."""

import pathlib
import subprocess
import sys

import pytest

PROJECT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.long
def test_an_l2_of_touched_rows_is_not_taken_for_whole_tables(tmp_path):
  command = [sys.executable, '-m', 'experiments.baseline', '--data=synthetic_small', '--epochs=1']
  command += ['--mode=dense', f'--workdir={tmp_path}']
  failed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
  assert failed.returncode == 1, failed.stdout
  assert '--mode=dense: give --l2 too' in failed.stderr
