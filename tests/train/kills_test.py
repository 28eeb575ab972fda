"""Processes that are killed while they save deltas or compact them lose and mix nothing."""

import json
import pathlib
import subprocess
import sys

import pytest

PROJECT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.long
def test_fifty_kills(tmp_path):
  command = [sys.executable, '-m', 'tests.train.delta_worker', str(tmp_path), '50', 'kills']
  done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  assert sum(found['killed'].values()) == 50
  assert min(found['killed'].values()) >= 5
  assert found['step'] > 50
