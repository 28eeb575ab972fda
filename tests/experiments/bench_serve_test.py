"""The serving benchmark: its requests are the raw values that were encoded, and it runs."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from ctr_jax.data import encode, schema
from experiments import common
from experiments.bench import serve_rows

SCHEMA = """
name = 'logs'
label = 'clicked'

[files]
train = 'train.csv'
valid = 'valid.csv'
test = 'test.csv'

[[features]]
name = 'user'

[[features]]
name = 'tags'
kind = 'ids'

[[features]]
name = 'price'
kind = 'numeric'
"""


def test_requests_are_the_raw_values(tmp_path):
  rows = ['1,a,x|y,1.5', '0,b,,2', '1,,y,', '0,a,x,-3']
  for split in schema.SPLITS:
    text = '\n'.join(['clicked,user,tags,price', *rows])
    (tmp_path / f'{split}.csv').write_text(f'{text}\n')
  (tmp_path / 'logs.toml').write_text(SCHEMA)
  described = schema.Schema.from_toml(tmp_path / 'logs.toml')
  source = encode.encode(described, tmp_path, tmp_path / 'encoded', progress=False)
  assert serve_rows.requests(source) == {
    'user': ['a', 'b', None, 'a'],
    'tags': [['x', 'y'], [None], ['y'], ['x']],
    'price': [1.5, 2, None, -3],
  }


def test_ratios_are_to_the_first_artifact():
  class Child:
    def __init__(self, artifact, slower):
      self.artifact, self.scorer = artifact, 'numpy'
      self.opened = {'stored': 1, 'memory': 2, 'seconds': 3.0}
      turns = slower * np.arange(1.0, 102)
      self.times = {10: {'raw': turns.tolist(), 'encoded': (turns / 2).tolist()}}

  row = serve_rows.row(Child('compact', 0.5), Child('massive', 1.0), 10)
  assert row['milliseconds']['raw'] == {50: 25.5, 95: 48.0, 99: 50.0}
  assert row['times_as_fast'] == {'raw': 2.0, 'encoded': 2.0}
  assert row['samples_per_second']['encoded'] == 1e4 / 12.75


def test_batches_that_no_rows_can_fill_are_left_out(capsys):
  # A rate is of the size that is asked for: of fewer rows it would be too high.
  assert serve_rows.fitting(['1', '1000', '10000'], 1000) == [1, 1000]
  assert 'Batches of 10000 are left out' in capsys.readouterr().out
  with pytest.raises(ValueError, match='1000 rows to make'):
    serve_rows.fitting(['10000'], 1000)


@pytest.mark.long
def test_it_runs():
  command = [
    sys.executable, '-m', 'experiments.bench.serve', '--data=synthetic_small', '--rounds=1',
    '--repeats=2', '--sizes=1,100', '--scorers=numpy,jax',
  ]  # fmt: skip
  done = subprocess.run(
    command, cwd=common.PROJECT, env=os.environ | {'XLA_FLAGS': ''}, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  lines = [line.split('|')[1:4] for line in done.stdout.splitlines() if line.startswith('| ')]
  found = {(one.strip(), size.strip(), name.strip()) for one, size, name in lines}
  scorers, sizes, names = ('numpy', 'jax'), ('1', '100'), ('massive', 'compact')
  wanted = set(itertools.product(scorers, sizes, names))
  assert wanted <= found, found
