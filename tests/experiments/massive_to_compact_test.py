"""The main job, shrunk: from synthetic clicks to a report, and again without training."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from ctr_jax import serve

PROJECT = pathlib.Path(__file__).parent.parent.parent


def run(*arguments):
  command = [sys.executable, '-m', 'experiments.massive_to_compact', *arguments]
  return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def test_the_report_has_every_rung_and_a_second_call_trains_nothing(tmp_path):
  flags = ('--data=synthetic_small', '--epochs=1', '--batch_size=256', '--seeds=2')
  flags += ('--core_rows=100', '--net=fm', '--nocrosses', '--techniques=multi_hash')
  exports = (f'--export={tmp_path / "model"}', f'--export_massive={tmp_path / "large"}')
  done = run(*flags, f'--workdir={tmp_path}', *exports)
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'result.json').read_text())
  massive, hashed, compact, rounded = found['rows']
  names = [row['name'] for row in found['rows']]
  assert names == ['massive', 'multi-hash', 'multi-hash + int8', 'massive + int8']
  assert found['beside'] == ['massive + int8']
  assert massive['bytes'] > rounded['bytes'] > compact['bytes']
  assert massive['seeds'] == [0, 1]
  assert massive['bytes'] > hashed['bytes'] > compact['bytes']
  assert sum(compact['bytes_by_table'].values()) == compact['bytes']
  for row in found['rows']:
    assert len(row['test']['auc']) == 2
    # Nobody beats the truth by more than the noise of a thousand samples.
    assert max(row['test']['auc']) < found['best']['auc'] + 0.02
    assert row['bytes_artifact'] > row['bytes']
    assert row['bytes_sample'] == massive['bytes_sample'] > 0
    assert all(a <= b for a, b in zip(row['latency_p50_ms'], row['latency_p99_ms'], strict=True))
  assert massive['table_parameters'] * 4 == massive['bytes']
  assert compact['table_parameters'] == hashed['table_parameters']  # In fewer bits.
  aucs = [np.mean(row['test']['auc']) for row in (hashed, massive)]
  assert hashed['delong']['difference'] == pytest.approx(aucs[0] - aucs[1], abs=1e-9)
  assert 'best possible' in done.stdout
  assert (tmp_path / 'report.md').read_text() in done.stdout
  assert 'compact against massive: serving bytes' in done.stdout
  assert 'multi-hash + int8' in (tmp_path / 'report.html').read_text()
  assert (tmp_path / 'report.png').stat().st_size > 5000
  served = serve.open(tmp_path / 'model')
  assert served.manifest['bytes']['tables'] == compact['bytes']
  assert served.predict({name: [1, None] for name in served.columns}).shape == (2,)
  assert serve.open(tmp_path / 'large').manifest['bytes']['tables'] == massive['bytes']
  again = run(*flags, f'--workdir={tmp_path}')
  assert again.returncode == 0, again.stderr
  assert 'already done' in again.stderr
  assert json.loads((tmp_path / 'result.json').read_text())['rows'] == found['rows']
  # Other settings in the same folder: refused, in words, and nothing is overwritten.
  other = run(*flags, '--techniques=multi_hash:8', f'--workdir={tmp_path}')
  assert other.returncode == 1
  assert 'made with another chain' in other.stderr
  assert 'Traceback' not in other.stderr
  assert json.loads((tmp_path / 'result.json').read_text())['rows'] == found['rows']


@pytest.mark.long
def test_crosses_are_replaced_rung_by_rung(tmp_path):
  flags = ('--data=synthetic_small', '--epochs=1', '--batch_size=256', '--core_rows=100')
  flags += ('--net=dnn', '--pairs=1', '--vector_l2=10', '--gate_steps=4', '--price=1', '--ablation')
  flags += ('--techniques=relation,pcf_gnn,features,multi_hash,dims:1',)
  done = run(*flags, f'--workdir={tmp_path}')
  assert done.returncode == 0, done.stderr
  whole = json.loads((tmp_path / 'result.json').read_text())
  found = {row['name']: row for row in whole['rows']}
  massive, related, scored = (found[n] for n in ('massive', 'relational network', 'PCF-GNN'))
  assert massive['bytes'] > related['bytes'] == scored['bytes'] + 2 * 4 * 16
  assert massive['bytes_lookup'] > related['bytes_lookup'] > 0
  small, selected = found['node vectors in int8'], found['selected features']
  assert small['bytes_lookup'] < scored['bytes_lookup']
  assert selected['bytes'] <= small['bytes']
  assert found['multi-hash']['bytes'] < selected['bytes']
  assert 'bytes_lookup' not in found['without crosses']
  dims, compact = found['adaptive dims'], found['adaptive dims + int8']
  assert found['multi-hash']['bytes'] > dims['bytes'] > compact['bytes']
  assert dims['train_seconds_before'][0] > 0
  assert all('bytes_artifact' in row and 'latency_p99_ms' in row for row in found.values())
  ablation = {row['without']: row for row in whole['ablation']}
  wanted = {'int8', 'adaptive dims', 'relational network', 'PCF-GNN', 'selected features'}
  assert set(ablation) == wanted | {'multi-hash'}
  assert 'bytes_lookup' not in ablation['PCF-GNN']
  assert ablation['multi-hash']['bytes'] > compact['bytes']
  assert ablation['relational network']['net_parameters'] < compact['net_parameters']
  assert [row['name'] for row in whole['rows']][-3:] == [
    'adaptive dims + int8',
    'multi-hash + int8',
    'without crosses',
  ]


@pytest.mark.parametrize(
  'flag, words',
  [
    ('--core_rows=100000000', 'lower --core_rows'),
    pytest.param('--techniques=dims:wide', 'dims:wide', marks=pytest.mark.long),
    pytest.param('--data=nowhere', 'nowhere', marks=pytest.mark.long),
    pytest.param('--seeds=0', 'at least one seed', marks=pytest.mark.long),
    pytest.param('--net=transformer', 'Unknown net', marks=pytest.mark.long),
  ],
)
def test_errors_are_sentences(flag, words):
  failed = run('--data=synthetic_small', flag)
  assert failed.returncode == 1, flag
  assert failed.stderr.strip().splitlines()[-1].startswith('error: '), failed.stderr
  assert words in failed.stderr
  assert 'Traceback' not in failed.stderr
