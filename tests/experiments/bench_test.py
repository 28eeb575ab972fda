"""The benchmark of training steps, shrunk to seconds, in a process of its own as users run it."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from experiments import tables

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = (
  '--features=4', '--dim=4', '--units=8', '--batch_size=16', '--rounds=1', '--steps=2',
  '--dense_rows=100',
)  # fmt: skip
pytestmark = pytest.mark.long  # Half a minute of compiling.
PEERS = ('torch', 'fbgemm_gpu', 'deepctr_torch')


def run(folder, *flags, path=''):
  """Runs the benchmark; returns what it printed and what it wrote."""
  result = folder / 'bench_train_step.json'
  environment = os.environ | {'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.bench.train_step', *SMALL, f'--result={result}', *flags],
    cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return done.stdout, json.loads(result.read_text())


@pytest.fixture(scope='module')
def bare(tmp_path_factory):
  """The import path of a machine where no other library is installed."""
  folder = tmp_path_factory.mktemp('bare')
  for name in PEERS:
    (folder / f'{name}.py').write_text(f"raise ImportError('no {name} here')")
  return folder


@pytest.fixture(scope='module')
def alone(bare):
  flags = '--rows=60,600', '--tables=3', '--model_rows=60', '--nomemory'
  return run(bare, *flags, path=str(bare))


def find(found, **what):
  return [x for x in found['steps'] if all(x[k] == v for k, v in what.items())]


def test_every_size_has_its_figures(alone):
  _, found = alone
  for rows in (60, 600):
    lines = {x['method']: x for x in find(found, section='tables', tables=3, rows=rows)}
    ours = ['ctr_jax, row-wise Adagrad, apart', 'ctr_jax, row-wise Adagrad, stacked']
    ours += [f'… its {part} alone (apart)' for part in ('step', 'host work')]
    ours += ['ctr_jax, dense Adam'] * (rows == 60)  # Dense steps only while tables are small.
    for name in ours:
      assert lines[name]['ms'] > 0
      assert len(lines[name]['turns_ms']) == 1
      # 16 samples of 4 features cannot touch more rows than they read or than there are.
      assert 1 <= lines[name]['distinct_rows'] <= min(64, rows)
    assert ('ctr_jax, dense Adam' in lines) == (rows == 60)
  (whole,) = find(found, section='model', method='ctr_jax, row-wise Adagrad, Adam for the net')
  assert whole['ms'] > 0


def test_missing_libraries_are_not_measured(alone):
  printed, found = alone
  others = [x for x in found['steps'] if not x['method'].startswith(('ctr_jax', '…'))]
  assert {x['method'] for x in others} == {
    'torch, dense Adam', 'torch, sparse Adagrad', 'FBGEMM on CPU, row-wise Adagrad',
    'deepctr-torch, its defaults',
  }  # fmt: skip
  assert all(x['ms'] is None for x in others)
  lines = [x for x in found['table'].splitlines() if 'FBGEMM' in x]
  assert lines
  assert all('not measured' in x for x in lines)
  assert found['table'] in printed


@pytest.mark.long
def test_peak_memory_is_that_of_a_process_of_its_own(bare):
  _, found = run(bare, '--rows=60', '--tables=1', '--model_rows=0', path=str(bare))
  (line,) = found['memory']
  assert (line['tables'], line['layout'], line['rows']) == (1, 'apart', 60)
  assert line['bytes'] == 60 * (4 + 1) * 4  # 4 columns and a sum for each row, in float32.
  assert line['imports_peak'] <= line['made_peak'] <= line['peak']
  assert 50e6 < line['peak'] < 2e9
  assert line['limit'] == int(1.25 * line['bytes'] + 600e6)
  assert line['within'] == (line['peak'] <= line['limit'])
  # One table has nothing to be stacked with.
  assert not any('stacked' in x['method'] for x in found['steps'])


def test_flatness_is_the_last_size_over_the_first(alone):
  _, found = alone
  (line,) = [x for x in found['flatness'] if x['method'] == 'ctr_jax, row-wise Adagrad, apart']
  first, last = (
    find(found, section='tables', rows=rows, method=line['method'])[0]['ms'] for rows in (60, 600)
  )
  assert (line['from'], line['to']) == (60, 600)
  assert line['ratio'] == pytest.approx(last / first)


def test_readers_find_table_and_caption(alone, monkeypatch, tmp_path):
  _, found = alone
  assert '| method' in found['table']
  assert '1.00×' in found['table']
  assert '\n' not in found['caption']
  assert 'python -m experiments.bench.train_step --features=4' in found['caption']
  assert 'bench_train_step.json' not in found['caption']  # No folders of one machine.
  monkeypatch.setattr(tables.common, 'RESULTS', tmp_path)
  (tmp_path / 'bench_train_step.json').write_text(json.dumps(found))
  assert tables.render('bench_train_step').startswith(found['table'])


@pytest.mark.skipif(importlib.util.find_spec('torch') is None, reason='torch is not installed')
def test_torch_is_measured_where_it_is_installed(tmp_path):
  _, found = run(tmp_path, '--nomemory', '--rows=60', '--tables=3', '--model_rows=0')
  lines = {x['method']: x for x in found['steps']}
  assert lines['torch, dense Adam']['ms'] > 0
  assert lines['torch, sparse Adagrad']['ms'] > 0
  assert found['peers']['torch'] != 'not measured'
