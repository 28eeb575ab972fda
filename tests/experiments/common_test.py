"""Working folders, result files and reports."""

import multiprocessing
import os
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import common, report, settings

if not flags.FLAGS.is_parsed():
  flags.FLAGS(['test'])


def _hold(folder, held, release):
  with common.locked(folder):
    held.set()
    release.wait(30)


def test_a_workdir_in_use_is_refused_in_words_and_free_again_afterwards(tmp_path):
  context = multiprocessing.get_context('spawn')
  held, release = context.Event(), context.Event()
  other = context.Process(target=_hold, args=(tmp_path, held, release))
  other.start()
  assert held.wait(60)
  message = f'in use by another run \\(process {other.pid}\\)'
  with pytest.raises(ValueError, match=message), common.locked(tmp_path):
    pass
  os.kill(other.pid, 9)  # A killed run leaves no lock behind.
  other.join()
  with common.locked(tmp_path):
    pass


def test_spread_and_size():
  assert report.spread([0.5]) == '0.50000'
  assert report.spread([1.0, 3.0], 2) == '2.00 ± 1.41'
  assert report.size(999) == '999 B'
  assert report.size(215_560) == '215.6 kB'
  assert report.size(4e13) == '40 TB'


def row(name, auc, nbytes):
  return {
    'name': name,
    'seeds': list(range(len(auc))),
    'test': {'auc': auc, 'log_loss': [0.5] * len(auc)},
    'bytes': nbytes,
    'score_samples_per_second': [1000.0] * len(auc),
  }


def test_ladder_gives_ratios_to_the_first_rung_and_a_picture(tmp_path):
  found = {
    'experiment': 'e',
    'data': 'd',
    'rows': [row('massive', [0.8, 0.82], 4000), row('compact', [0.79, 0.8], 500)],
    'best': {'auc': 0.9, 'log_loss': 0.3},
  }
  lines = report.ladder(found).splitlines()
  assert len(lines) == 5
  assert '8.0×' in lines[3]
  assert '0.81000 ± 0.01414' in lines[2]
  assert lines[4].startswith('| best possible')
  report.figure(found, tmp_path / 'figure.png')
  assert (tmp_path / 'figure.png').read_bytes()[:4] == b'\x89PNG'


def test_hidden_takes_the_place_of_the_deep_part_of_the_data_set():
  assert settings.of('frappe_x1').net_options('dcn')['hidden'] == (128, 64)
  with flagsaver.flagsaver(hidden=['400', '400']):
    assert settings.of('frappe_x1_wide').net_options('dcn')['hidden'] == (400, 400)
    assert 'hidden' not in settings.of('frappe_x1').net_options('fm')


def test_the_command_of_a_result_has_what_made_it_and_no_folder(tmp_path, monkeypatch):
  (tmp_path / 'mine.cfg').write_text('--techniques=dims:0.01\n')
  given = [f'--flagfile={tmp_path}/mine.cfg', '--seeds=3', f'--export={tmp_path}', '--save_result']
  monkeypatch.setattr(sys, 'argv', ['search', *given])
  assert common.command('search') == 'python -m experiments.search --techniques=dims:0.01 --seeds=3'
  given = ['--seeds', '3', '--workdir', str(tmp_path), '--debug', '-data_dir', str(tmp_path)]
  monkeypatch.setattr(sys, 'argv', ['search', *given, '--data', 'x'])
  assert common.command('search') == 'python -m experiments.search --seeds 3 --data x'


@pytest.mark.parametrize(
  'data, name',
  [
    ('x/clicks.toml', 'clicks'),
    ('x/clicks.toml_wide', 'clicks_wide'),
    ('frappe_x1_wide', 'frappe_x1_wide'),
  ],
)
def test_data_have_names_of_their_own(data, name):
  with flagsaver.flagsaver(data=data):
    assert common.data_name() == name


def test_a_quick_look_replaces_no_measured_result(tmp_path, monkeypatch):
  monkeypatch.setattr(common, 'RESULTS', tmp_path / 'results')
  common.save_bench('name', {'rows': 1})
  assert not list(tmp_path.iterdir())
  with flagsaver.flagsaver(result=str(tmp_path / 'new' / 'own.json')):
    common.save_bench('name', {'rows': 2})
  assert [x.name for x in tmp_path.rglob('*.json')] == ['own.json']
  with flagsaver.flagsaver(save_result=True):
    common.save_bench('name', {'rows': 3})
  assert (tmp_path / 'results' / 'bench_name.json').is_file()
