"""Documents say what the results say."""

import json
import re

from experiments import common, tables


def test_documents_are_made_from_the_committed_results():
  for name in ('README.md', 'experiments/RESULTS.md'):
    text = (common.PROJECT / name).read_text()
    assert tables.fill(text) == text, f'{name}: run python -m experiments.tables'


def test_every_result_is_shown_and_names_its_command():
  shown = (common.PROJECT / 'experiments/RESULTS.md').read_text()
  names = set(re.findall(r'<!-- table: (\S+) -->', shown))
  for path in common.RESULTS.glob('*.json'):
    found = json.loads(path.read_text())
    assert path.stem in names or any(path.stem.startswith(f'{n}_') for n in names), path.stem
    assert found['command'].startswith('python -m experiments.'), path.stem


def test_fill_replaces_what_is_between_the_markers(monkeypatch):
  monkeypatch.setattr(tables, 'render', lambda name: f'table of {name}')
  text = 'a\n<!-- table: x_1 -->\nold\nolder\n<!-- end -->\nb\n'
  made = tables.fill(text)
  assert made == 'a\n<!-- table: x_1 -->\ntable of x_1\n<!-- end -->\nb\n'
  assert tables.fill(made) == made
