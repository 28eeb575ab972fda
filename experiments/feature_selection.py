r"""Which features are worth keeping: every method's ranking, and what is lost by following it.

  python -m experiments.feature_selection --data=frappe_x1 --seeds=5 --save_result
  python -m experiments.feature_selection --data=synthetic_selection --only='droprank|fscd'
  python -m experiments.feature_selection --data=frappe_x1_wide --counts=5,10,20,30,60

For each method and seed the features are ranked; then a model is trained anew with the first k, for
every k of --counts (sets that several methods agree on are trained once), or with --warm_start
trained on from the full model's part. AUKC is the area under test AUC over k. A model of fewer
features reads fewer columns, stores fewer tables and has a smaller net: bytes of a sample, bytes of
tables and microseconds of looking up a sample stand beside its AUC. Measured results are in
experiments/RESULTS.md.
"""

from __future__ import annotations

import importlib.util
import re
import statistics
from typing import Any

from absl import flags

from ctr_jax import compress
from ctr_jax.compress import codec
from ctr_jax.evaluate import importance
from experiments import common, merging, report, selection, sweeps, trials

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(selection)
flags.adopt_module_key_flags(sweeps)
_COUNTS = flags.DEFINE_list(
  'counts', None, 'Numbers of features to keep. Default: all, or 8 of them.'
)
_PARTS = flags.DEFINE_list(
  'cost_parts', [], 'Parts of all bytes, and of all time online, within which features are chosen.'
)
_RANK_ONLY = flags.DEFINE_bool('rank_only', False, 'Rank; train nothing with fewer features.')
flags.register_validator(
  'cost_parts', lambda parts: all(0 < float(x) <= 1 for x in parts), 'Parts are in 0..1.'
)
_WARM = flags.DEFINE_bool('warm_start', False, "Go on from the full model's part, not anew.")


# What a limit may be of -> the attribute of a feature's cost.
COSTS = {'bytes': 'nbytes', 'time': 'seconds'}


def counts(features: int) -> list[int]:
  """How many features are kept, in turn; all of them last."""
  if _RANK_ONLY.value:
    return []
  if _COUNTS.value:
    chosen = sorted({int(k) for k in _COUNTS.value} | {features})
    if chosen[0] < 1 or chosen[-1] > features:
      raise ValueError(f'--counts={",".join(_COUNTS.value)}: there are {features} features.')
    return chosen
  several = {max(1, round(features * i / 8)) for i in range(1, 9)}
  return sorted(range(1, features + 1) if features <= 12 else several)


def sample_bytes(source, names) -> int:
  """Bytes of the encoded columns that a model of these features reads for one sample."""
  return sum(column.nbytes for column in source.read('train', names, 0, 1).values())


def measure(setting: selection.Setting, method: str, seeds, ks: list[int]) -> dict[str, Any]:
  """One method's row: its rankings, and the models of the features that are chosen by them."""
  found = [selection.ranked(method, setting, seed) for seed in seeds]
  row = {
    'name': method,
    'group': method,
    'seeds': list(seeds),
    'importance': [x.importance for x in found],
    'seconds': [x.seconds for x in found],
    'curve': [{'k': k} | _point(setting, found, seeds, _first(k)) for k in ks],
    'within': [
      {'cost': cost, 'part': part} | _point(setting, found, seeds, _within(setting, cost, part))
      for cost, part in (limits(setting) if ks else [])
    ],
  }
  if len(ks) > 1:
    row['aukc'] = [
      importance.aukc(ks, [point['auc'][i] for point in row['curve']]) for i in range(len(found))
    ]
  return row


def _first(k):
  """Of an importance: the k best features."""
  return lambda scores: importance.rank(scores)[:k]


def limits(setting: selection.Setting) -> list[tuple[str, float]]:
  """(what costs, part of it) of each limit.

  Raises:
    ValueError: no feature fits into one of them, however important it is.
  """
  found = [(cost, part) for part in map(float, _PARTS.value) for cost in COSTS]
  for cost, part in found:
    try:
      _within(setting, cost, part)(dict.fromkeys(setting.costs(), 0.0))
    except ValueError as e:
      raise ValueError(f'--cost_parts: no feature fits into {part:g} of all {cost}.') from e
  return found


def _within(setting, cost, part):
  """Of an importance: the best features first, each that still fits a part of all costs."""
  costs = {name: getattr(x, COSTS[cost]) for name, x in setting.costs().items()}
  tables = {f.name: f.table for f in setting.source.schema.features}
  budget, of_tables = part * sum(costs.values()), {}
  if cost == 'bytes':  # Features that share a table share them in `costs`, but one needs it whole.
    for name, nbytes in costs.items():
      of_tables[tables[name]] = of_tables.get(tables[name], 0.0) + nbytes
    costs = dict.fromkeys(costs, 0.0)

  def choose(scores):
    rules = compress.selected(
      scores, budget=budget, costs=costs, table_costs=of_tables, tables=tables
    )
    stored = {name for name in scores if compress.match(tables[name], rules).name != 'drop'}
    return [name for name in scores if name in stored and not codec.drops(name, rules)]

  return choose


def _point(setting, found, seeds, choose):
  point: dict[str, list] = {}
  costs = setting.costs()
  for seed, ranking in zip(seeds, found, strict=True):
    chosen = choose(ranking.importance)
    trial = selection.keeping(
      setting, chosen, _WARM.value and len(chosen) < len(ranking.importance)
    )
    kept = trial.model(setting.source).columns  # With those that gave their name to a table.
    (one,) = trials.run(trial, setting.source, setting.folder, [seed])
    values = {
      'auc': one['test']['auc'][0],
      'log_loss': one['test']['log_loss'][0],
      'bytes': one['bytes'],
      'sample_bytes': sample_bytes(setting.source, kept),
      'microseconds': 1e6 * sum(costs[name].seconds for name in kept),
      'train_seconds': one['train_seconds'][0],
      'score_samples_per_second': one['score_samples_per_second'][0],
      'net_parameters': one['net_parameters'],
      'kept': list(kept),
    }
    for name, value in values.items():
      point.setdefault(name, []).append(value)
  return point


def main() -> None:
  source = common.source()
  ks = counts(len(source.schema.features))
  methods = _methods()
  ranks_only = not ks
  name = f'feature_{"ranking" if ranks_only else "selection"}_{common.data_name()}'
  base = sweeps.base().describe(source) | _settings(ks)
  shared = {'base': base, 'roles': _roles(source), **common.best_possible(source)}
  if common.SAVE.value:  # Refused before hours of work.
    merging.merged(common.result('feature_selection', source, [], **shared), name)
  with common.workdir('feature_selection') as folder:
    setting = selection.Setting(sweeps.base(), source, folder)
    costs = {x: cost._asdict() for x, cost in setting.costs().items()}
    if ks:
      limits(setting)  # Refused before hours of work, too.
    shared |= {'costs': costs, 'picture': not ranks_only}
    rows = []
    for i, method in enumerate(methods):
      print(f'[{i + 1}/{len(methods)}] {method}', flush=True)
      rows.append(measure(setting, method, common.seeds(), ks))
      found = common.result('feature_selection', source, rows, **shared)
      found = merging.merged(found, name)
      common.save(folder, found, name)
    text = f'{render(found)}\n\n{report.caption(found)}\n'
    (folder / 'report.md').write_text(text)
    figure(found, folder / 'report.png')
    print(f'\n{text}\nreport.md, report.png and result.json are in {folder}')


def _methods():
  """Those that --only names; without it all that need no package of their own and no patience."""
  if sweeps.ONLY.value is None:
    optional = {'leave one out': 'it trains once for each feature'}
    if importlib.util.find_spec('lightgbm') is None:
      optional['trees'] = 'it needs `pip install lightgbm`'
    for name, why in optional.items():
      print(f'{name} is left out: {why}. --only="{name}" asks for it.')
    return [name for name in selection.METHODS if name not in optional]
  methods = [name for name in selection.METHODS if re.search(sweeps.ONLY.value, name)]
  if not methods:
    raise ValueError(f'--only={sweeps.ONLY.value}: known are {", ".join(selection.METHODS)}.')
  return methods


def _settings(ks):
  """What rows have to share to stand in one table."""
  chosen = (
    selection.WEIGHT, selection.SHARES, selection.GATE_STEPS, selection.GATE_BATCH,
    selection.GATE_OPTIMIZER, selection.JOINT_WEIGHT, selection.JOINT_EPOCHS, _PARTS, _WARM,
  )  # fmt: skip
  return {'counts': ks} | {flag.name: flag.value for flag in chosen}


def _roles(source):
  """Feature → its planted role, where the truth is known."""
  spec = getattr(source, 'spec', None)
  return None if spec is None else {name: '+'.join(role) for name, role in spec.roles.items()}


def render(found) -> str:
  """One line per method: AUKC, AUC at half of the features, seconds, and whether noise is last."""
  rows = []
  for row in sorted(found['rows'], key=lambda r: -statistics.fmean(r.get('aukc', [0.0]))):
    half = _half(row)
    rows.append(
      (
        row['name'],
        report.spread(row['aukc']) if 'aukc' in row else '–',
        report.spread(half['auc']) if half else '–',
        f'{half["k"]}' if half else '–',
        f'{statistics.fmean(row["seconds"]):.0f} s',
        *([_noise_last(row, found['roles'])] if found.get('roles') else []),
        len(row['seeds']),
      )
    )
  truth = ['noise below all useful'] if found.get('roles') else []
  header = ('method', 'AUKC', 'AUC at half', 'features', 'to rank', *truth, 'seeds')
  return '\n\n'.join(filter(None, [report.table(header, rows), _limited(found), _dropped(found)]))


def _limited(found):
  """AUC within each limit, a line per method."""
  limited = [row for row in found['rows'] if row.get('within')]
  if not limited:
    return ''
  names = [f'{100 * x["part"]:g}% of {x["cost"]}' for x in limited[0]['within']]
  rows = [
    (row['name'], *(f'{report.spread(x["auc"])} ({_number(x["kept"])})' for x in row['within']))
    for row in limited
  ]
  header = ('method', *names)
  return f'Test AUC (features) within a limit:\n\n{report.table(header, rows)}'


def _number(kept):
  return ' to '.join(dict.fromkeys(str(f(map(len, kept))) for f in (min, max)))


def _half(row):
  """The point nearest to half of the features."""
  if not row['curve']:
    return None
  full = max(point['k'] for point in row['curve'])
  return min(row['curve'], key=lambda point: abs(point['k'] - full / 2))


def _noise_last(row, roles):
  """In how many seeds every noise field is below every field with an effect of its own."""
  useful = [
    n for n, role in roles.items() if not set(role.split('+')) & {'noise', 'redundant', 'source'}
  ]
  noise = [n for n, role in roles.items() if role == 'noise']
  if not noise:
    return '–'
  right = sum(
    min(x[name] for name in useful) > max(x[name] for name in noise) for x in row['importance']
  )
  return f'{right} of {len(row["seeds"])}'


def _dropped(found):
  """What each number of features costs and loses, by the first method that has a curve."""
  row = next((r for r in found['rows'] if r['curve']), None)
  if row is None:
    return ''
  full = row['curve'][-1]
  lines = []
  for point in row['curve']:
    lost = [1e4 * (a - b) for a, b in zip(point['auc'], full['auc'], strict=True)]
    lines.append(
      (
        point['k'],
        report.spread(point['auc']),
        report.spread(lost, 2) if point is not full else '–',
        f'{statistics.fmean(point["sample_bytes"]):.0f} B',
        report.size(statistics.fmean(point['bytes'])),
        f'{statistics.fmean(point["microseconds"]):.3f}',
        f'{statistics.fmean(point["net_parameters"]):,.0f}',
        f'{statistics.fmean(point["train_seconds"]):.0f} s',
        report.rate(point['score_samples_per_second']),
      )
    )
  header = (
    'features', 'test AUC', 'ΔAUC × 1e4', 'read per sample', 'tables', 'lookup µs per sample',
    'net parameters', 'training', 'scoring/s',
  )  # fmt: skip
  return f'By the ranking of {row["name"]}:\n\n{report.table(header, lines)}'


def figure(found, path) -> None:
  """AUC against the number of features, bytes of tables, and time of lookups, a curve a method."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  axes = {'k': 'features kept', 'bytes': 'bytes of tables', 'microseconds': 'lookup µs per sample'}
  fig, parts = pyplot.subplots(1, 3, figsize=(13, 4.4), layout='constrained', sharey=True)
  marks = 'osD^v<>Ph*Xdp'
  for part, (key, label) in zip(parts, axes.items(), strict=True):
    for i, row in enumerate(r for r in found['rows'] if r['curve']):
      x = [p['k'] if key == 'k' else statistics.fmean(p[key]) for p in row['curve']]
      y = [statistics.fmean(p['auc']) for p in row['curve']]
      part.plot(
        x, y, marker=marks[i % len(marks)], markersize=4, linewidth=1, label=row['name'],
        color=pyplot.colormaps['tab20'](i % 20),
      )  # fmt: skip
    if key == 'bytes':
      part.set_xscale('log')
    part.set_xlabel(label)
    part.grid(alpha=0.3)
  parts[0].set_ylabel('test AUC')
  if any(row['curve'] for row in found['rows']):
    parts[0].legend(fontsize=7)
  fig.suptitle(f'{found["experiment"]} on {found.get("title", found["data"])}')
  fig.savefig(path, dpi=120)
  pyplot.close(fig)


if __name__ == '__main__':
  common.run(main)
