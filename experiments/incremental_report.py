"""Days as people read them: a table of strategies, AUC by day, what an added feature gained."""

from __future__ import annotations

import pathlib
import statistics
from typing import Any

from experiments import report

_RETRAIN, _INCREMENTAL = 'retrain, all days', 'incremental, new day'


def since(added: int, scored: int) -> int:
  """The first day of the mean: that of the added feature, or of all where that is not scored.

  Args:
    added: its day; days count from 1.
    scored: how many days are, from the second on.
  """
  return max(added, 2) if added <= scored + 1 else 2


def _since(found):
  return since(found['added']['day'], len(found['rows'][0]['auc_by_day'][0]))


def _mean(rows):
  """Over seeds, by day."""
  return [statistics.fmean(x) for x in zip(*rows, strict=True)]


def _named(found, name):
  return next((row for row in found['rows'] if row['name'] == name), None)


def strategies(found: dict[str, Any]) -> str:
  """A line per row: AUC, what it took, what it wrote, what it keeps."""
  full = _named(found, _RETRAIN)
  cells = []
  for row in found['rows']:
    samples = statistics.fmean(row['samples'])
    part = f'{samples / statistics.fmean(full["samples"]):.3f}' if full else '–'
    cells.append(
      (
        row['name'],
        report.spread(row['test']['auc']),
        report.difference(row, full, 'auc'),
        f'{samples / 1e6:.2f} M',
        part,
        f'{statistics.fmean(row["seconds"]):.0f} s',
        report.size(statistics.fmean(row['bytes_written'])),
        report.size(row['bytes_training']),
        report.size(row['cap']) if row['cap'] else '–',
      )
    )
  days = f'days {_since(found)}+'
  header = (
    'strategy', f'mean AUC, {days}', 'ΔAUC × 1e4', 'samples', 'of retraining', 'training',
    'written', 'kept', 'cap',
  )  # fmt: skip
  return report.table(header, cells)


def by_day(found: dict[str, Any]) -> str:
  """AUC of each scored day."""
  days = range(2, 2 + len(found['rows'][0]['auc_by_day'][0]))
  cells = [(row['name'], *(f'{x:.4f}' for x in _mean(row['auc_by_day']))) for row in found['rows']]
  if found.get('best_by_day'):
    cells.append(('best possible', *(f'{x:.4f}' for x in found['best_by_day'])))
  return report.table(('AUC of day', *map(str, days)), cells)


def gained(found: dict[str, Any]) -> str:
  """What the added feature is worth to retraining and to the incremental model, day by day."""
  rows = [_named(found, f'{n}{x}') for n in (_RETRAIN, _INCREMENTAL) for x in ('', ', without')]
  added, last = found['added']['day'], 1 + len(found['rows'][0]['auc_by_day'][0])
  if not all(rows) or added >= last:
    return ''
  means = [_mean(row['auc_by_day']) for row in rows]
  gains = [[a - b for a, b in zip(*means[i : i + 2], strict=True)] for i in (0, 2)]
  days = range(added + 1, last + 1)
  cells = []
  for day in days:
    one, other = (gain[day - 2] for gain in gains)
    part = f'{100 * other / one:.0f}%' if one > 0 else '–'
    cells.append((day, day - added, f'{1e4 * one:+.1f}', f'{1e4 * other:+.1f}', part))
  header = ('day', 'days learned', 'retraining, × 1e4', 'incremental, × 1e4', 'of it')
  return f'`{found["added"]["feature"]}`, added on day {added}:\n\n{report.table(header, cells)}'


def render(found: dict[str, Any]) -> str:
  """The tables of a result."""
  return '\n\n'.join(x for x in (strategies(found), by_day(found), gained(found)) if x)


def figure(found: dict[str, Any], path: pathlib.Path) -> None:
  """AUC by day, a line for each row, and mean AUC against samples processed."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  fig, (left, right) = pyplot.subplots(
    1, 2, figsize=(11, 4.6), layout='constrained', width_ratios=(3, 2)
  )
  marks = 'osD^v<>Ph*Xdp'
  for i, row in enumerate(found['rows']):
    color, mean = pyplot.colormaps['tab10'](i % 10), _mean(row['auc_by_day'])
    line = '--' if row['name'].endswith('without') else '-'
    days = range(2, 2 + len(mean))
    left.plot(days, mean, line, color=color, marker=marks[i % 13], markersize=4, label=row['name'])
    right.plot(
      statistics.fmean(row['samples']), statistics.fmean(row['test']['auc']), marks[i % 13],
      color=color,
    )  # fmt: skip
  if found.get('best_by_day'):
    best = found['best_by_day']
    left.plot(range(2, 2 + len(best)), best, ':', color='#888888', label='best possible')
  left.axvline(found['added']['day'], color='#cccccc', linewidth=1, zorder=0)
  left.set_xlabel(f'day ({found["added"]["feature"]} is added on day {found["added"]["day"]})')
  left.set_ylabel('AUC of the day, before it is learned')
  left.legend(fontsize=7)
  right.set_xscale('log')
  right.set_xlabel('samples processed in all')
  right.set_ylabel(f'mean AUC from day {_since(found)} on')
  fig.suptitle(f'{found["experiment"]} on {found.get("title", found["data"])}')
  for axes in (left, right):
    axes.grid(alpha=0.3)
  fig.savefig(path, dpi=120)
  pyplot.close(fig)
