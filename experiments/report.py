"""Results as people read them: Markdown tables, and a picture of AUC against bytes."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

BESIDE = 'without crosses'
"""The row of a ladder of full tables alone, that is no rung of it."""


def spread(values: Sequence[float], digits: int = 5) -> str:
  """mean ± sample standard deviation; one value alone has no spread."""
  mean = statistics.fmean(values)
  if len(values) < 2:
    return f'{mean:.{digits}f}'
  return f'{mean:.{digits}f} ± {statistics.stdev(values):.{digits}f}'


def size(nbytes: float) -> str:
  """Bytes with a decimal unit: 215600 → 215.6 kB."""
  for unit in ('B', 'kB', 'MB', 'GB'):
    if nbytes < 1000:
      return f'{nbytes:.4g} {unit}'
    nbytes /= 1000
  return f'{nbytes:.4g} TB'


def rate(values: Sequence[float] | None) -> str:
  """Samples per second, the median over seeds, in thousands."""
  return f'{statistics.median(values) / 1000:.1f}k' if values else '–'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A Markdown table, columns padded so that it reads well as text too."""
  cells = [list(map(str, header)), *[list(map(str, row)) for row in rows]]
  widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
  lines = [
    '| ' + ' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + ' |' for row in cells
  ]
  lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
  return '\n'.join(lines)


def total(row: dict[str, Any]) -> int:
  """Bytes of a row's tables and of what serving looks up before them."""
  return row['bytes'] + row.get('bytes_lookup', 0)


def beside(found: dict[str, Any]) -> list[str]:
  """Names of the rows of a ladder that are no rungs of it."""
  return found.get('beside', [BESIDE])


def ladder(found: dict[str, Any]) -> str:
  """The rungs of a result: one line each, the first one is what ratios refer to."""
  rows, first = [], found['rows'][0]
  looked_up = any(row.get('bytes_lookup') for row in found['rows'])
  for row in found['rows']:
    lookups = [size(row['bytes_lookup']) if row.get('bytes_lookup') else '–'] if looked_up else []
    rows.append(
      (
        row['name'],
        spread(row['test']['auc']),
        spread(row['test']['log_loss']),
        size(row['bytes']),
        *lookups,
        f'{total(first) / total(row):.1f}×',
        rate(row.get('train_samples_per_second')),
        rate(row['score_samples_per_second']),
      )
    )
  header = ('model', 'test AUC', 'log loss', 'tables', *(['lookups'] * looked_up), 'ratio')
  header += ('training/s', 'scoring/s')
  best = found.get('best')
  if best:
    known = ('best possible (planted truth)', f'{best["auc"]:.5f}', f'{best["log_loss"]:.5f}')
    rows.append((*known, *['–'] * (len(header) - 3)))
  return table(header, rows)


def full_row(found: dict[str, Any]) -> dict[str, Any] | None:
  """The row that others are held against: full tables; None while a sweep has not got it."""
  named = (row for row in found['rows'] if row['name'] in ('full', 'float32'))
  return next(named, None)


def smaller(full: dict[str, Any] | None, row: dict[str, Any]) -> str:
  """How many times fewer bytes a row takes than full tables."""
  return f'{full["bytes"] / row["bytes"]:.1f}×' if full else '–'


def difference(row: dict[str, Any], full: dict[str, Any] | None, metric: str) -> str:
  """Mean and spread of a row's metric minus the full row's, over the seeds of both, × 1e4."""
  if full is None or row is full:
    return '–'
  base = dict(zip(full['seeds'], full['test'][metric], strict=True))
  own = zip(row['seeds'], row['test'][metric], strict=True)
  pairs = [1e4 * (x - base[seed]) for seed, x in own if seed in base]
  if len(pairs) < 2:
    return f'{pairs[0]:+.2f}' if pairs else '–'
  return f'{statistics.fmean(pairs):+.2f} ± {statistics.stdev(pairs):.2f}'


def groups(found: dict[str, Any], path: pathlib.Path, axis: str = 'bytes') -> None:
  """AUC against bytes (log scale), a curve for each group of rows with its spread."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  fig, axes = pyplot.subplots(figsize=(8, 5), layout='constrained')
  members: dict[str, list[dict]] = {}
  for row in found['rows']:
    members.setdefault(row['group'], []).append(row)
  marks = 'osD^v<>Ph*Xdp'
  for i, (name, rows) in enumerate(members.items()):
    rows = sorted((row for row in rows if axis in row), key=lambda row: row[axis])
    if not rows:
      continue
    auc = [row['test']['auc'] for row in rows]
    errors = [statistics.stdev(x) if len(x) > 1 else 0 for x in auc]
    axes.errorbar(
      [row[axis] for row in rows], [statistics.fmean(x) for x in auc], yerr=errors,
      fmt=f'{marks[i % len(marks)]}-', color=pyplot.colormaps['tab20'](i % 20), markersize=5,
      linewidth=1, capsize=2, label=name,
    )  # fmt: skip
  if found.get('best'):
    axes.axhline(found['best']['auc'], color='#888888', linestyle=':', label='best possible')
  axes.set_xscale('log')
  axes.invert_xaxis()
  axes.set_xlabel('bytes of tables' + (' and optimizer state' if axis != 'bytes' else ''))
  axes.set_ylabel('test AUC')
  axes.set_title(f'{found["experiment"]} on {found.get("title", found["data"])}')
  axes.grid(alpha=0.3)
  axes.legend(fontsize=7, ncols=2)
  fig.savefig(path, dpi=120)
  pyplot.close(fig)


def caption(found: dict[str, Any]) -> str:
  """How a table was measured, in a sentence."""
  where, samples = found['environment'], found['samples']
  # A sweep's rows may have come from several runs.
  commands = dict.fromkeys(row.get('command', found['command']) for row in found['rows'])
  counts = sorted({len(row['seeds']) for row in found['rows']})
  count = f'{counts[0]} to {counts[-1]}' if len(counts) > 1 else counts[0]
  several = counts[-1] > 1
  return (
    f'{found.get("title", found["data"])}: {samples["train"]:,} / {samples["valid"]:,} / '
    f'{samples["test"]:,} samples; {count} seed{"s" * several}'
    f'{" (mean ± standard deviation)" * several}; {where["device"]}, '
    f'{where["cpu_cores"]} cores{_load(where)}, jax {where["jax"]}, {where["date"]}. '
    + ', '.join(f'`{command}`' for command in commands)
  )


def _load(where: dict[str, Any]) -> str:
  """How busy the machine was, since that is what absolute speeds depend on first."""
  return f', load average {where["load_average"]:.1f}' if 'load_average' in where else ''


def figure(found: dict[str, Any], path: pathlib.Path) -> None:
  """AUC against table bytes (log scale), a mark for each rung with its spread."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  fig, axes = pyplot.subplots(figsize=(8, 4.4), layout='constrained')
  marks = 'osD^v<>Ph*Xdp'
  points = [(total(row), statistics.fmean(row['test']['auc'])) for row in found['rows']]
  # Such as the model without crosses, which is beside the ladder, not on it.
  aside = beside(found)
  rungs = [x for x, row in zip(points, found['rows'], strict=True) if row['name'] not in aside]
  axes.plot(*zip(*rungs, strict=True), color='#bbbbbb', linewidth=1, zorder=1)
  for i, (row, (x, y)) in enumerate(zip(found['rows'], points, strict=True)):
    auc = row['test']['auc']
    axes.errorbar(
      x, y, yerr=statistics.stdev(auc) if len(auc) > 1 else 0, fmt=marks[i % len(marks)],
      capsize=3, color=pyplot.colormaps['tab10'](i % 10), label=f'{row["name"]}, {size(x)}',
    )  # fmt: skip
  if found.get('best'):
    axes.axhline(found['best']['auc'], color='#888888', linestyle=':', label='best possible')
  # Beside the axes, since rungs may lie close together.
  axes.legend(fontsize=8, loc='center left', bbox_to_anchor=(1.01, 0.5))
  axes.set_xscale('log')
  axes.invert_xaxis()
  axes.set_xlabel('bytes of the embedding tables and of what is looked up before them')
  axes.set_ylabel('test AUC')
  axes.set_title(f'{found["experiment"]} on {found.get("title", found["data"])}')
  axes.grid(alpha=0.3)
  fig.savefig(path, dpi=120)
  pyplot.close(fig)
