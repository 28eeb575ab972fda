"""The tables of a ladder's report: quality, size and speed of each rung, and an ablation.

Results that were measured before a column was thought of have a dash in it.
"""

from __future__ import annotations

import itertools
import statistics
from typing import Any, NamedTuple

from experiments import report, significance

NONE = '–'
_FLOAT = 4  # Bytes of a number of the net.


class Table(NamedTuple):
  """A table of the report, whatever it is written as.

  Attributes:
    title: a heading.
    header: names of the columns.
    rows: cells, as text.
    note: how to read it.
  """

  title: str
  header: tuple[str, ...]
  rows: list[tuple[str, ...]]
  note: str


def compact(found: dict[str, Any]) -> dict[str, Any]:
  """The row that the ladder ends with."""
  rungs = [row for row in found['rows'] if row['name'] not in report.beside(found)]
  return next((row for row in rungs if row['name'] == found.get('compact')), rungs[-1])


def made_by(found: dict[str, Any]) -> str:
  """What the ladder did to massive, rung by rung, until compact."""
  names = [row['name'] for row in found['rows'] if row['name'] not in report.beside(found)]
  names = names[: names.index(compact(found)['name']) + 1]
  return ', '.join(name.removeprefix(f'{last} + ') for last, name in itertools.pairwise(names))


def serving(row: dict[str, Any]) -> int:
  """Bytes that a service holds: tables, lookups before them, and the net."""
  return report.total(row) + _FLOAT * row['net_parameters']


def tables(found: dict[str, Any]) -> list[Table]:
  """Every table of the report, in order; of the ablation only where it was made."""
  made = [quality(found), size(found), speed(found)]
  return [*made, ablation(found)] if found.get('ablation') else made


def paired(row, base, metric: str):
  """Values of a metric by the seeds that both have."""
  theirs = dict(zip(base['seeds'], base['test'].get(metric, ()), strict=False))
  own = zip(row['seeds'], row['test'].get(metric, ()), strict=False)
  both = [(x, theirs[seed]) for seed, x in own if seed in theirs]
  return [x for x, _ in both], [y for _, y in both]


def p_seeds(row: dict[str, Any], base: dict[str, Any], metric: str = 'auc') -> float | None:
  """Of the paired t-test over seeds; None where there is none."""
  return None if row is base else significance.paired_t(*paired(row, base, metric))


def _p(value):
  if value is None:
    return NONE
  return '<0.001' if value < 0.001 else f'{value:.3f}'


def _p_samples(row, base):
  # Of compact in its own ablation there is one too: of compact against massive.
  return _p(row['delong']['p']) if 'delong' in row and row is not base else NONE


def _spread(values, digits=5):
  return report.spread(values, digits) if values else NONE


def _mean(values, digits=1):
  return f'{statistics.fmean(values):,.{digits}f}' if values else NONE


def _size(value):
  return NONE if value is None else report.size(value)


def _count(value):
  return NONE if value is None else f'{value:,}'


def _metrics(row, base):
  test = row['test']
  return (
    _spread(test.get('auc')), report.difference(row, base, 'auc'), _p(p_seeds(row, base)),
    _p_samples(row, base), _spread(test.get('gauc')), _spread(test.get('log_loss')),
    _spread(test.get('calibration'), 3),
  )  # fmt: skip


_METRICS = (
  'test AUC', 'ΔAUC × 1e4', 'p, seeds', 'p, samples', 'GAUC', 'log loss', 'calibration',
)  # fmt: skip


def quality(found: dict[str, Any]) -> Table:
  """How well each rung orders and foresees clicks, and whether it differs from the first."""
  first = found['rows'][0]
  rows = [(row['name'], *_metrics(row, first)) for row in found['rows']]
  best = found.get('best')
  if best:
    known = ('best possible (planted truth)', f'{best["auc"]:.5f}', *[NONE] * 4)
    rows.append((*known, f'{best["log_loss"]:.5f}', NONE))
  return Table('Quality', ('model', *_METRICS), rows, (
    f'Against {first["name"]}. Paired over seeds by a t-test (with a handful of seeds no test '
    'without a model of the differences can be significant), and over test samples by DeLong’s, '
    'seeds averaged: a difference counts where both p are small. No p is corrected for the number '
    'of rows. Calibration is predicted over observed clicks; GAUC is within '
    'groups, weighted by samples.'
  ))  # fmt: skip


def size(found: dict[str, Any]) -> Table:
  """Parameters and bytes of each rung."""
  first = found['rows'][0]
  rows = [
    (
      row['name'],
      _count(row.get('table_parameters')),
      _count(row['net_parameters']),
      _size(row.get('bytes_training')),
      _size(row['bytes']),
      _size(row.get('bytes_lookup')),
      _size(serving(row)),
      f'{serving(first) / serving(row):.1f}×',
      _size(row.get('bytes_artifact')),
      _size(row.get('bytes_sample')),
    )
    for row in found['rows']
  ]
  header = (
    'model', 'parameters of tables', 'of the net', 'training', 'tables', 'lookups', 'serving',
    'ratio', 'on disk', 'sample',
  )  # fmt: skip
  missing = sorted({x['without_artifact'] for x in found['rows'] if 'without_artifact' in x})
  why = f' Not exported: {" ".join(missing)}' if missing else ''
  return Table('Size', header, rows, (
    'Training: tables with the state of optimizers. Serving: tables, what is looked up before '
    'them (statistics of pairs, node vectors), and the net; the ratio is of that. On disk: all '
    'files of an export, vocabularies and programs included. Sample: the columns that are read.'
    + why
  ))  # fmt: skip


def same_epoch(found: dict[str, Any]) -> float | None:
  """The last epoch that every trained row has come to, on the mean over its seeds."""
  epochs = [statistics.fmean(row['epochs']) for row in found['rows'] if row.get('epochs')]
  return min(epochs) if epochs else None


def seconds(row: dict[str, Any], epoch: float | str | None) -> float | None:
  """Training seconds of a row to an epoch, or to its 'best'; epochs of a run take equally long.

  The median over seeds: a neighbour on the machine may slow one of them.
  """
  if not row.get('train_seconds') or epoch is None:
    return None
  to = row['best_epoch'] if epoch == 'best' else [epoch] * len(row['epochs'])
  each = zip(row['train_seconds'], row['epochs'], to, strict=True)
  return statistics.median(whole / epochs * at for whole, epochs, at in each)


def all_seconds(row: dict[str, Any]) -> float | None:
  """Training seconds of a row and of the stages before it."""
  if not row.get('train_seconds') or not row.get('train_seconds_before'):
    return None
  both = zip(row['train_seconds'], row['train_seconds_before'], strict=True)
  return statistics.median(own + before for own, before in both)


def speed(found: dict[str, Any]) -> Table:
  """How long each rung trains, how fast it scores, and how long a request waits."""
  epoch = same_epoch(found)

  def time(value):
    return NONE if value is None else f'{value:,.1f}'

  rows = [
    (
      row['name'],
      time(seconds(row, epoch)),
      time(seconds(row, 'best')),
      time(all_seconds(row)),
      report.rate(row.get('train_samples_per_second')),
      report.rate(row['score_samples_per_second']),
      _mean(row.get('latency_p50_ms'), 2),
      _mean(row.get('latency_p99_ms'), 2),
    )
    for row in found['rows']
  ]
  reached = f'to epoch {epoch:.3g}, s' if epoch else 'to one epoch, s'
  header = (
    'model', reached, 'to best, s', 'all stages, s', 'training/s', 'scoring/s', 'p50, ms',
    'p99, ms',
  )  # fmt: skip
  return Table('Speed', header, rows, (
    'Seconds in training steps, the median over seeds; all stages counts the trainings that a rung '
    'comes after (gates, searches). Making columns beforehand (history of pairs, node vectors) is '
    'not in it. Latency is from the columns of a request of 256 samples to its probabilities, '
    'one after another.'
  ))  # fmt: skip


def ablation(found: dict[str, Any]) -> Table:
  """Compact without each technique, against compact."""
  whole = compact(found)
  rows = []
  for row in [whole, *found['ablation']]:
    name = f'without {row["without"]}' if 'without' in row else f'compact ({row["name"]})'
    ratio = f'{serving(row) / serving(whole):.2f}×'
    metrics = _metrics(row, whole)
    rows.append((name, *metrics[:4], metrics[5], _size(serving(row)), ratio))
  header = ('model', *_METRICS[:4], _METRICS[5], 'serving', 'of compact’s')
  return Table('Compact without each technique', header, rows, (
    'Each row is made as compact is, in all of its stages, without one technique and with nothing '
    'in its place. Differences and p are from compact.'
  ))  # fmt: skip


def verdict(found: dict[str, Any]) -> str:
  """Compact against massive, in a line."""
  first, last = found['rows'][0], compact(found)
  bytes_ratio = serving(first) / serving(last)
  tested = {'over seeds': p_seeds(last, first), 'over samples': last.get('delong', {}).get('p')}
  said = ', '.join(f'{what} {_p(p)}' for what, p in tested.items() if p is not None)
  parts = [
    f'serving bytes {report.size(serving(first))} → {report.size(serving(last))} '
    f'({bytes_ratio:.1f}× fewer; without the nets {report.total(first) / report.total(last):.1f}×)',
    f'test AUC {report.difference(last, first, "auc")} × 1e-4{f" (p {said})" if said else ""}',
  ]
  trained = _trained(found, last)
  if trained and first.get('train_seconds'):
    own, base = seconds(trained, 'best'), seconds(first, 'best')
    parts.append(f'training time to best {own / base:.2f}×')
    whole = all_seconds(trained)
    if whole:
      parts[-1] += f' (all stages {whole / statistics.median(first["train_seconds"]):.2f}×)'
  rates = [statistics.median(x['score_samples_per_second']) for x in (last, first)]
  parts.append(f'scoring rate {rates[0] / rates[1]:.2f}×')
  return f'compact against massive: {"; ".join(parts)}.'


def headline(found: list[dict[str, Any]]) -> str:
  """Compact against massive, a line for each ladder, as ratios."""
  rows = []
  for one in found:
    first, last = one['rows'][0], compact(one)
    trained = _trained(one, last)
    epoch, whole = same_epoch(one), all_seconds(trained)
    rates = [statistics.median(row['score_samples_per_second']) for row in (last, first)]
    rows.append(
      (
        one['data'],
        made_by(one),
        f'{report.size(serving(first))} → {report.size(serving(last))}',
        f'{serving(first) / serving(last):.1f}×',
        report.difference(last, first, 'auc'),
        _p(p_seeds(last, first)),
        f'{seconds(trained, epoch) / seconds(first, epoch):.2f}×',
        f'{seconds(trained, "best") / seconds(first, "best"):.2f}×',
        f'{whole / statistics.median(first["train_seconds"]):.2f}×' if whole else NONE,
        f'{rates[0] / rates[1]:.2f}×',
        len(last['seeds']),
      )
    )
  header = (
    'data', 'compact', 'serving bytes', 'fewer', 'ΔAUC × 1e4', 'p', 'training, same epochs',
    'training to best', 'all stages', 'scoring/s', 'seeds',
  )  # fmt: skip
  return report.table(header, rows)


def _trained(found, row):
  """The row that was trained, of one that was only rounded after training."""
  if row.get('train_seconds'):
    return row
  name = row['name'].rpartition(' + int')[0]
  return next((x for x in found['rows'] if x['name'] == name and x.get('train_seconds')), None)


def markdown(found: dict[str, Any]) -> str:
  """The whole report."""
  parts = [report.ladder(found)]
  parts += [f'## {t.title}\n\n{report.table(t.header, t.rows)}\n\n{t.note}' for t in tables(found)]
  return '\n\n'.join([*parts, verdict(found), report.caption(found)]) + '\n'
