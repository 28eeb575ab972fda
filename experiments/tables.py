r"""Committed results → the tables of README.md and experiments/RESULTS.md.

  python -m experiments.tables           # rewrites the tables between their markers, and pictures
  python -m experiments.tables --check   # fails if a table is not what the results say

A document holds `<!-- table: NAME -->` ... `<!-- end -->`; NAME is a result file in
experiments/results, `bars_frappe` for all of its nets in one table, the name of a ladder and
`_details` for all that was measured of it, or `headline` for the two ends of the ladders by what
suits each set.
"""

import importlib
import json
import pathlib
import re
import statistics

from absl import app, flags

from experiments import common, ladder_report, report

_CHECK = flags.DEFINE_bool('check', False, 'Change nothing; fail if a table is out of date.')
_SWEEPS = (
  'hash_family_',
  'dimensions_',
  'precision_',
  'frontier_',
  'relation_',
  'pcf_gnn_',
  'feature_ranking_',
  'feature_selection_',
  'gate_stability_',
  'tuning_',
  'incremental_',
  'refresh_pairs_',
  'search_',
)
_DETAILS = '_details'
_DOCUMENTS = ('README.md', 'experiments/RESULTS.md')
_BLOCK = re.compile(r'(<!-- table: (\S+) -->\n).*?(<!-- end -->)', re.DOTALL)


def load(name: str) -> dict:
  """A committed result."""
  return json.loads((common.RESULTS / f'{name}.json').read_text())


def bars() -> str:
  """Every net that was run with BARS' recipes, beside the published number."""
  rows = []
  for path in sorted(common.RESULTS.glob('bars_frappe_*.json')):
    found = json.loads(path.read_text())
    row = found['rows'][0]
    rows.append(
      (
        ', '.join(row['name'].rsplit('_', 1)),
        report.spread(row['test']['auc']),
        report.spread(row['test']['log_loss'], 4),
        found['published_auc'],
        len(row['seeds']),
        report.rate(row['train_samples_per_second']),
        f'{statistics.fmean(row["epochs"]):.0f}',
        f'`{row.get("command", found["command"])}`',
      )
    )
  rows.sort(key=lambda row: row[1], reverse=True)
  header = (
    'net, mode',
    'test AUC',
    'log loss',
    'published AUC',
    'seeds',
    'training/s',
    'epochs',
    'command',
  )
  return report.table(header, rows)


def ladder(name: str) -> str:
  """The rungs of one data set, how they were measured, and the picture."""
  found = load(name)
  picture = f'![AUC against bytes](/experiments/results/{name}.png)'
  return f'{report.ladder(found)}\n\n{report.caption(found)}\n\n{picture}'


def details(name: str) -> str:
  """All that was measured of a ladder: quality, size, speed, and compact without each technique."""
  found = load(name)
  made = [f'{t.title}\n\n{report.table(t.header, t.rows)}' for t in ladder_report.tables(found)]
  return '\n\n'.join([ladder_report.verdict(found), *made])


def headline() -> str:
  """Compact against massive, on each set that has a ladder by techniques chosen for it."""
  paths = sorted(common.RESULTS.glob('massive_to_compact_*_chosen.json'))
  return ladder_report.headline([load(path.stem) for path in paths])


def bench(name: str) -> str:
  """A benchmark's own table, as its run printed it."""
  found = load(name)
  return f'{found["table"]}\n\n{found["caption"]}'


def sweep(name: str) -> str:
  """The rows of a sweep so far, by its own module, how they were measured, and the picture."""
  found = load(name)
  picture = f'\n\n![AUC](/experiments/results/{name}.png)' if found.get('picture', True) else ''
  return f'{_module(found).render(found)}\n\n{report.caption(found)}{picture}'


def _module(found):
  return importlib.import_module(f'experiments.{found["experiment"]}')


def render(name: str) -> str:
  """The text that stands between the markers of table NAME."""
  if name == 'bars_frappe':
    return bars()
  if name == 'headline':
    return headline()
  of = name.removesuffix(_DETAILS)
  if not (common.RESULTS / f'{of}.json').exists():
    return f'Not measured yet (experiments/results/{of}.json).'
  if of != name:
    return details(of)
  if name.startswith(_SWEEPS):
    return sweep(name)
  return bench(name) if name.startswith('bench_') else ladder(name)


def fill(text: str) -> str:
  """A document with each of its tables made anew."""
  return _BLOCK.sub(lambda m: f'{m[1]}{render(m[2])}\n{m[3]}', text)


def main(argv) -> None:
  del argv
  if not _CHECK.value:
    for path in common.RESULTS.glob('*.json'):
      if path.stem.startswith('massive_to_compact_'):
        report.figure(load(path.stem), path.with_suffix('.png'))
      elif path.stem.startswith(_SWEEPS):
        found = load(path.stem)
        if found.get('picture', True):  # By the module's own `figure`, if it has one.
          getattr(_module(found), 'figure', report.groups)(found, path.with_suffix('.png'))
  stale = []
  for name in _DOCUMENTS:
    path: pathlib.Path = common.PROJECT / name
    text = path.read_text()
    made = fill(text)
    if made != text:
      stale.append(name)
      if not _CHECK.value:
        path.write_text(made)
  if stale and _CHECK.value:
    raise SystemExit(f'{", ".join(stale)}: run `python -m experiments.tables`.')
  print('rewritten: ' + ', '.join(stale) if stale else 'every table is up to date')


if __name__ == '__main__':
  app.run(main)
