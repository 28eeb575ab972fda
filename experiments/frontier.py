r"""The best chain at each byte budget: budgets, uniform rules, and all sweeps on one picture.

  python -m experiments.frontier --data=frappe_x1
  python -m experiments.frontier --data=synthetic_large_ids --ratios=100,1000 --save_result

At every ratio the tables are stored by what `compress.budget` chooses, and by hand-made uniform
rules of the same bytes: every table alike, in int8, its rows hashed, hashed twice, or split into
own rows and hashed ones. Rows that other sweeps have committed for the same data count too: the
frontier is made of those that no other beats in bytes and AUC. Measured results are in
experiments/RESULTS.md.
"""

from __future__ import annotations

import json
import re
import statistics

from absl import flags

from ctr_jax import compress
from ctr_jax.tables import leaf
from experiments import budgets, common, report, sweeps

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(sweeps)

UNIFORM = {
  'hash_trick': lambda n: compress.hash_trick(max(1, n)),
  'multi_hash': lambda n: compress.multi_hash(max(1, n // 2), 2),
  'hot_cold': lambda n: compress.hot_cold(max(1, n // 2), compress.hash_trick(max(1, n - n // 2))),
}


def uniform(tables, name: str, limit: int) -> compress.Rules:
  """Rules that store every table in the same part of its rows, to at most `limit` bytes in int8."""

  def rules(part):
    made = []
    for table, full in tables.items():
      rows = int(full.rows * part)
      technique = compress.identity() if rows >= full.rows else UNIFORM[name](rows)
      made.append((re.escape(table), technique))
    return tuple(made)

  def size(part):
    served = compress.appended(rules(part), compress.int_quantize(8))
    return leaf.nbytes(compress.bind(tables, served).plan)

  if size(0) > limit:
    raise ValueError(f'Not even one row of each table fits {limit:,} bytes.')
  low, high = 0.0, 1.0
  for _ in range(40):  # Bisection: bytes grow with the part.
    middle = (low + high) / 2
    low, high = (middle, high) if size(middle) <= limit else (low, middle)
  return rules(1.0 if size(1.0) <= limit else low)


def sweep(add, source) -> None:
  """Full tables; for each ratio the budget's choice, and every uniform rule of the same bytes."""
  trial = add('full', '', links=[('full, int8', compress.int_quantize(8))])
  tables = budgets.tables(trial, source)
  full = sum(x.nbytes for x in tables.values())
  for ratio in map(float, sweeps.RATIOS.value):
    limit = int(full / ratio)
    chosen = budgets.choose(trial, source, f'{limit}B')
    print(f'{budgets.explain(chosen)}\n')
    within, links = budgets.within(trial, source, chosen)
    links = [(f'budget {ratio:g}×, served', link) for _, link in links]
    add('budget', f'{ratio:g}×', rules=within.rules, links=links, facts={'limit': limit})
    for name in UNIFORM:
      rules = uniform(tables, name, limit)
      links = [(f'uniform {name} {ratio:g}×, int8', compress.int_quantize(8))]
      add(f'uniform {name}', f'{ratio:g}×', rules=rules, links=links, facts={'limit': limit})


def everything(found) -> list[dict]:
  """The rows of this sweep and of all others committed for the same data."""
  rows = list(found['rows'])
  for name in ('hash_family', 'dimensions', 'precision'):
    path = common.RESULTS / f'{name}_{found["data"]}.json'
    if path.exists():
      other = json.loads(path.read_text())
      if all(other.get(key) == found.get(key) for key in ('data_checksum', 'base')):
        rows += [row for row in other['rows'] if row['group'] != 'full']
  return rows


def pareto(rows) -> list[dict]:
  """Those that no other beats in both bytes and mean AUC, the smallest first."""
  best = []
  for row in sorted(rows, key=lambda r: (r['bytes'], -statistics.fmean(r['test']['auc']))):
    auc = statistics.fmean(row['test']['auc'])
    if not best or auc > statistics.fmean(best[-1]['test']['auc']):
      best.append(row)
  return best


def render(found) -> str:
  """The rows of this sweep, then the frontier over all sweeps."""
  full, best = report.full_row(found), found.get('best')

  def line(row):
    short = statistics.fmean(row['test']['auc']) - best['auc'] if best else None
    return (
      row['name'],
      report.size(row['bytes']),
      report.smaller(full, row),
      report.spread(row['test']['auc']),
      report.spread(row['test']['log_loss']),
      report.difference(row, full, 'auc'),
      f'{1e4 * short:+.0f}' if best else '–',
      len(row['seeds']),
    )

  header = (
    'chain', 'tables', 'smaller', 'test AUC', 'log loss', 'ΔAUC × 1e4 to full',
    '… to best possible', 'seeds',
  )  # fmt: skip
  own = report.table(header, [line(row) for row in found['rows']])
  front = report.table(header, [line(row) for row in pareto(everything(found))])
  return f'{own}\n\nThe frontier over all sweeps:\n\n{front}'


if __name__ == '__main__':
  common.run(lambda: sweeps.run('frontier', sweep, render))
