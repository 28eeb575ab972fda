"""The page of a ladder is well formed, whole, of itself alone; results older than columns too."""

import html
import html.parser
import json
import re
from xml.etree import ElementTree

import pytest

from experiments import common, figures, ladder_report, page, report

EVIL = '<script>alert("1")</script> & \'co'
OLD = sorted(common.RESULTS.glob('massive_to_compact_*.json'))
VOID = {'meta', 'br', 'link', 'img'}


class Reader(html.parser.HTMLParser):
  """Tags that are opened and closed in order, texts, and every attribute that could load."""

  def __init__(self, text):
    super().__init__(convert_charrefs=True)
    self.open, self.tags, self.texts, self.loads = [], [], [], []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    names = ('src', 'href', 'xlink:href', 'srcset', 'action', 'data', 'style')
    self.loads += [value for name, value in attrs if name in names or name.startswith('on')]
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)


def row(name, aucs, nbytes, **more):
  seeds = list(range(len(aucs)))
  test = {'auc': aucs, 'log_loss': [0.5 for _ in seeds], 'calibration': [1.0 for _ in seeds]}
  return {
    'name': name, 'seeds': seeds, 'test': test, 'bytes': nbytes, 'net_parameters': 250,
    'bytes_by_table': {'user': nbytes // 2, 'item': nbytes // 2},
    'score_samples_per_second': [1000.0 for _ in seeds], **more,
  }  # fmt: skip


def result():
  timed = {
    'train_seconds': [10.0, 20.0, 12.0], 'epochs': [5, 5, 4], 'best_epoch': [3, 5, 4],
    'train_samples_per_second': [100.0] * 3, 'train_seconds_before': [0.0] * 3,
  }  # fmt: skip
  deployed = {
    'latency_p50_ms': [1.0, 1.5, 2.0], 'latency_p99_ms': [2.0, 3.0, 4.0], 'bytes_artifact': 5000,
    'bytes_sample': 40, 'table_parameters': 1000,
  }  # fmt: skip
  massive = row('massive', [0.80, 0.81, 0.82], 4_000_000, bytes_lookup=500_000, **timed, **deployed)
  hashed = row(
    EVIL, [0.79, 0.803, 0.811], 40_000, **deployed,
    **(timed | {'train_seconds': [4.0, 4.0, 4.0], 'train_seconds_before': [6.0] * 3}),
    delong={'difference': -0.009, 'error': 0.004, 'p': 0.03},
  )  # fmt: skip
  rounded = row(
    f'{EVIL} + int8', [0.79, 0.803, 0.811], 10_000, **deployed,
    delong={'difference': -0.009, 'error': 0.004, 'p': 0.04},
  )  # fmt: skip
  return {
    'experiment': 'massive_to_compact', 'command': f'python -m experiments.x --data={EVIL}',
    'data': 'd', 'title': f'data {EVIL}', 'samples': {'train': 1, 'valid': 1, 'test': 1},
    'environment': {'device': 'cpu', 'cpu_cores': 1, 'jax': '0', 'date': '2026-01-01'},
    'rows': [massive, hashed, rounded, row(report.BESIDE, [0.7, 0.71, 0.7], 100_000)],
    'beside': [report.BESIDE], 'compact': rounded['name'], 'best': {'auc': 0.9, 'log_loss': 0.3},
    'ablation': [hashed | {'without': 'int8'}],
  }  # fmt: skip


def test_compact_is_named_by_all_that_made_it():
  found = result()
  assert ladder_report.made_by(found) == f'{EVIL}, int8'
  assert f'{EVIL}, int8' in ladder_report.headline([found])


def test_a_page_is_well_formed_whole_and_of_itself_alone():
  found = result()
  text = page.ladder(found)
  read = Reader(text)
  assert read.open == []
  assert not read.loads
  assert not re.search(r'https?:|//[a-z]|url\(|@import', text)
  assert 'script' not in read.tags  # Names are text, not markup.
  shown = ' '.join(read.texts)
  assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
  assert 'prefers-color-scheme: dark' in text
  for one in found['rows']:
    assert shown.count(one['name']) >= 4, one['name']  # The stairs, and each table.
  assert 'without int8' in shown
  assert read.tags.count('svg') == 4


@pytest.mark.parametrize('path', OLD, ids=lambda path: path.stem)
def test_results_from_before_a_column_was_thought_of_are_shown(path):
  found = json.loads(path.read_text())
  read = Reader(page.ladder(found))
  assert read.open == [] and not read.loads
  shown, text = ' '.join(read.texts), ladder_report.markdown(found)
  for one in found['rows']:
    assert one['name'] in shown and one['name'] in text
  assert 'compact against massive: ' in text


def test_tables_say_what_was_measured():
  found = result()
  quality, size, speed, ablation = ladder_report.tables(found)
  cells = dict(zip(quality.header, quality.rows[1], strict=True))
  assert cells['ΔAUC × 1e4'] == '-86.67 ± 15.28'
  assert cells['p, seeds'] == '0.010'  # t = 86.67 · √3 / 15.28 = 9.83, two degrees of freedom.
  assert cells['p, samples'] == '0.030'
  assert cells['GAUC'] == '–'
  cells = dict(zip(size.header, size.rows[2], strict=True))
  assert cells['serving'] == '11 kB'  # 10,000 and 250 floats of the net.
  assert cells['ratio'] == f'{4_501_000 / 11_000:.1f}×'
  cells = dict(zip(speed.header, speed.rows[0], strict=True))
  # Epoch 4.67 is the mean that all have come to: 10 / 5, 20 / 5 and 12 / 4 seconds an epoch. The
  # middle one of three seeds counts.
  assert cells['to epoch 4.67, s'] == f'{4.6667 * 3:.1f}'
  assert cells['to best, s'] == f'{3 * 4:.1f}'  # Of 2 · 3, 4 · 5 and 3 · 4.
  assert cells['p99, ms'] == '3.00'
  cells = dict(zip(ablation.header, ablation.rows[0], strict=True))
  # Compact's own p is from massive: it does not stand where p are from compact.
  assert cells['ΔAUC × 1e4'] == cells['p, seeds'] == cells['p, samples'] == '–'
  assert ablation.rows[1][0] == 'without int8'
  assert ablation.rows[1][-1] == f'{41_000 / 11_000:.2f}×'
  said = ladder_report.verdict(found)
  assert '409.2× fewer' in said and '-86.67 ± 15.28 × 1e-4' in said
  assert 'all stages 0.83×' in said  # 4 + 6 of 12 seconds.
  assert 'scoring rate 1.00×' in said


def test_labels_keep_apart_where_points_lie_together():
  points = [figures.Point(f'm{i}', 1e6 / (1 + i / 50), 0.8 + i / 1e5, 0.0, True) for i in range(6)]
  drawn = figures.staircase(points)
  numbers = [x for x in drawn.iter('text') if x.get('class') == 'number']
  places = {(float(x.get('x')), float(x.get('y'))) for x in numbers}
  assert [x.text for x in numbers] == list('123456')
  apart = [abs(a[0] - b[0]) + abs(a[1] - b[1]) for a in places for b in places if a != b]
  assert len(places) == 6 and min(apart) > 10
  same = figures.staircase([figures.Point('a', 10, 0.5, 0.0, True)] * 2)  # No range at all.
  assert len(list(same.iter('circle'))) == 2


@pytest.mark.parametrize('difference', [0.9, 0.08, 0.0095, 1e-5])
def test_heights_are_marked_at_any_range(difference):
  points = [figures.Point(name, 100.0, auc, 0.0, True) for name, auc in
            (('a', 0.05), ('b', 0.05 + difference))]  # fmt: skip
  drawn = ElementTree.tostring(figures.staircase(points), encoding='unicode')
  assert 2 <= drawn.count('class="grid"') <= 30
