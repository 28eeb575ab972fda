"""The main job, shrunk: from synthetic clicks to a report, and again without training."""

import json
import pathlib
import subprocess
import sys

import pytest

from ctr_jax import serve

PROJECT = pathlib.Path(__file__).parent.parent.parent


def run(*arguments):
  command = [sys.executable, '-m', 'experiments.massive_to_compact', *arguments]
  return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


def test_the_report_has_every_rung_and_a_second_call_trains_nothing(tmp_path):
  flags = ('--data=synthetic_small', '--epochs=1', '--batch_size=256', '--seeds=2')
  flags += ('--core_rows=100', '--net=fm', '--nocrosses')
  done = run(*flags, f'--workdir={tmp_path}', f'--export={tmp_path / "model"}')
  assert done.returncode == 0, done.stderr
  found = json.loads((tmp_path / 'result.json').read_text())
  massive, hashed, compact = found['rows']
  assert [row['name'] for row in found['rows']] == ['massive', 'multi-hash', 'multi-hash + int8']
  assert massive['seeds'] == [0, 1]
  assert massive['bytes'] > hashed['bytes'] > compact['bytes']
  assert sum(compact['bytes_by_table'].values()) == compact['bytes']
  for row in found['rows']:
    assert len(row['test']['auc']) == 2
    # Nobody beats the truth by more than the noise of a thousand samples.
    assert max(row['test']['auc']) < found['best']['auc'] + 0.02
  assert 'best possible' in done.stdout
  assert (tmp_path / 'report.md').read_text() in done.stdout
  assert (tmp_path / 'report.png').stat().st_size > 5000
  served = serve.open(tmp_path / 'model')
  assert served.manifest['bytes']['tables'] == compact['bytes']
  assert served.predict({name: [1, None] for name in served.columns}).shape == (2,)
  again = run(*flags, f'--workdir={tmp_path}')
  assert again.returncode == 0, again.stderr
  assert 'already done' in again.stderr
  assert json.loads((tmp_path / 'result.json').read_text())['rows'] == found['rows']
  # Other settings in the same folder: refused, in words, and nothing is overwritten.
  other = run(*flags, '--ratio=8', f'--workdir={tmp_path}')
  assert other.returncode == 1
  assert 'made with another chain' in other.stderr
  assert 'Traceback' not in other.stderr
  assert json.loads((tmp_path / 'result.json').read_text())['rows'] == found['rows']


@pytest.mark.long
def test_crosses_are_replaced_rung_by_rung(tmp_path):
  flags = ('--data=synthetic_small', '--epochs=1', '--batch_size=256', '--core_rows=100')
  flags += ('--net=dnn', '--pairs=1', '--vector_l2=10', '--gate_steps=4', '--price=1')
  done = run(*flags, f'--workdir={tmp_path}')
  assert done.returncode == 0, done.stderr
  found = {row['name']: row for row in json.loads((tmp_path / 'result.json').read_text())['rows']}
  massive, related, scored = (found[n] for n in ('massive', 'relational network', 'PCF-GNN'))
  assert massive['bytes'] > related['bytes'] == scored['bytes'] + 2 * 4 * 16
  assert massive['bytes_lookup'] > related['bytes_lookup'] > 0
  small, selected = found['node vectors in int8'], found['selected features']
  assert small['bytes_lookup'] < scored['bytes_lookup']
  assert selected['bytes'] <= small['bytes']
  assert found['multi-hash']['bytes'] < selected['bytes']
  assert 'bytes_lookup' not in found['without crosses']


def test_errors_are_sentences():
  for flag, words in [
    ('--data=nowhere', 'nowhere'),
    ('--seeds=0', 'at least one seed'),
    ('--net=transformer', 'Unknown net'),
    ('--core_rows=100000000', 'lower --core_rows'),
  ]:
    failed = run('--data=synthetic_small', flag)
    assert failed.returncode == 1, flag
    assert failed.stderr.strip().splitlines()[-1].startswith('error: '), failed.stderr
    assert words in failed.stderr
    assert 'Traceback' not in failed.stderr
