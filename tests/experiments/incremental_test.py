"""Days that arrive, shrunk: what is compared, what caps leave, what the tables say."""

import json
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from ctr_jax.data import admission, drift
from experiments import common, incremental, incremental_report

if not flags.FLAGS.is_parsed():
  flags.FLAGS(['test'])

PROJECT = pathlib.Path(__file__).parent.parent.parent
SMALL = (
  '--data=synthetic_drift_small', '--late=badge', '--epochs=1', '--batch_size=64', '--hidden=4',
  '--incremental_batch=64', '--added=4', '--admitted_rows=50', '--caps=12', '--window_days=2',
)  # fmt: skip


def row(name, auc, samples=100, seconds=2.0):
  return {
    'name': name, 'group': name.split(',')[0], 'seeds': [0, 1], 'cap': None, 'auc_by_day': auc,
    'test': {'auc': [sum(x[1:]) / len(x[1:]) for x in auc]}, 'samples': [samples] * 2,
    'seconds': [seconds] * 2, 'bytes_written': [1000, 3000], 'bytes_training': 5000,
  }  # fmt: skip


def test_tables_of_a_result(tmp_path):
  found = {
    'experiment': 'incremental', 'data': 'x', 'added': {'feature': 'badge', 'day': 3},
    'best_by_day': [0.8, 0.8, 0.9],
    'rows': [
      row('retrain, all days', [[0.70, 0.71, 0.74], [0.70, 0.71, 0.74]], 1000),
      row('retrain, all days, without', [[0.70, 0.71, 0.70], [0.70, 0.71, 0.70]]),
      row('incremental, new day', [[0.70, 0.72, 0.73], [0.70, 0.70, 0.73]]),
      row('incremental, new day, without', [[0.70, 0.72, 0.71], [0.70, 0.70, 0.70]]),
    ],
  }  # fmt: skip
  text = incremental_report.render(found)
  line = next(x for x in text.splitlines() if x.startswith('| incremental, new day  '))
  cells = [x.strip() for x in line.split('|')[1:-1]]
  assert cells[1:6] == ['0.72000 ± 0.00707', '-50.00 ± 70.71', '0.00 M', '0.100', '2 s']
  assert cells[6:] == ['2 kB', '5 kB', '–']
  # The feature was learned on day 3, and so tells on day 4: 400 of retraining, and 250 of 400.
  gained = [x.strip() for x in text.splitlines()[-1].split('|')[1:-1]]
  assert gained == ['4', '1', '+400.0', '+250.0', '62%']
  assert '| best possible ' in text
  incremental_report.figure(found, tmp_path / 'x.png')
  assert (tmp_path / 'x.png').stat().st_size > 5000
  found['rows'] = found['rows'][2:3]  # A look at one row has nothing to be held against.
  assert 'added on day' not in incremental_report.render(found)


def test_days_of_the_mean_are_those_that_the_table_names():
  aucs = [0.5, 0.6, 0.7, 0.8]  # Of days 2 to 5.
  days = {'days': [{}, *({'auc': x, 'log_loss': 0.1} for x in aucs)]}
  days |= {'bytes_training': 1, 'bytes_vocabulary': 0}
  entry = incremental.Entry('retrain', 'all days', None)
  for added, first in ((6, 2), (5, 5), (3, 3), (1, 2)):  # Day 6 is not there, day 1 not scored.
    with flagsaver.flagsaver(added=added):
      (mean,) = incremental.row(entry, [days], [0])['test']['auc']
    assert mean == pytest.approx(sum(aucs[first - 2 :]) / len(aucs[first - 2 :])), added
    names = [f'{n}{x}' for n in ('retrain, all days', 'incremental, new day')
             for x in ('', ', without')]  # fmt: skip
    found = {'added': {'feature': 'x', 'day': added}, 'rows': [row(n, [aucs, aucs]) for n in names]}
    text = incremental_report.render(found)
    assert f'mean AUC, days {first}+' in text
    assert ('added on day' in text) == (added < 5), added


def test_capacities_stay_under_the_cap():
  with flagsaver.flagsaver(data='synthetic_drift_small', late='badge', admitted_rows=50):
    setting = incremental.Setting(common.source())
    sizes = setting.capacities(12_000)
  assert sizes.keys() == {'user', 'item'}  # The others are small, and counted.
  rows = {t: n + 1 for t, n in sizes.items()} | {'category': 11, 'price': 2, 'badge': 11}
  own = sum(admission.nbytes(n, int(0.5 * n)) for n in sizes.values())
  dim, slot = 16, 1
  assert 11_500 < 4 * (dim + slot) * sum(rows.values()) + own <= 12_000


@pytest.mark.long
def test_the_whole_experiment(tmp_path):
  name = 'experiments.incremental'
  command = [sys.executable, '-m', name, *SMALL, f'--workdir={tmp_path}']
  done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'report.md').read_text() in done.stdout
  rows = {r['name']: r for r in json.loads((tmp_path / 'result.json').read_text())['rows']}
  assert len(rows) == 8
  days, day = drift.small().days, sum(drift.small().samples) // drift.small().days
  one = day // 64 * 64
  assert rows['incremental, new day']['samples'] == [(days - 1) * one]
  so_far = sum(day * d // 64 * 64 for d in range(1, days))
  assert rows['retrain, all days']['samples'] == [so_far]
  capped = rows['incremental, cap of 12 kB']
  assert capped['bytes_training'] <= 12_000 < rows['incremental, new day']['bytes_training']
  assert capped['rows_anew'][0] > 0 and capped['bytes_vocabulary'] > 0
  # Until the feature is there, rows with it and without are the same model.
  with_it, without = (rows[f'incremental, new day{x}']['auc_by_day'][0] for x in ('', ', without'))
  assert with_it[:3] == without[:3] and with_it[4:] != without[4:]
  assert 'added on day 4' in done.stdout
