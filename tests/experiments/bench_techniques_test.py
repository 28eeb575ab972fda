"""The bench of techniques on small tables: steps, reads and bytes at every size."""

import json
import pathlib
import subprocess
import sys

import pytest

PROJECT = pathlib.Path(__file__).parent.parent.parent


@pytest.mark.long
def test_steps_and_reads_at_every_size(tmp_path):
  flags = ['--rows=1000,3000', '--rounds=1', '--steps=2', '--batch_size=64']
  flags += ['--techniques=identity,hash_trick,alpt 8', f'--result={tmp_path / "r.json"}']
  command = [sys.executable, '-m', 'experiments.bench.techniques', *flags]
  done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'r.json').read_text())
  assert [x['technique'] for x in found['lines']] == ['identity', 'hash_trick', 'alpt 8']
  for line in found['lines']:
    assert line['rows'] == [1000, 3000]
    assert all(ms > 0 for ms in (*line['step'], *line['read']))
  full, hashed, alpt = (x['bytes_training'][-1] for x in found['lines'])
  assert full == 3000 * (16 + 1) * 4  # The row and row-wise Adagrad's sum.
  assert hashed == 1500 * (16 + 1) * 4  # Half of the rows.
  assert alpt == 3000 * (16 + 4 + 4)
  assert found['table'] in done.stdout
