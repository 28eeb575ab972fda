r"""What replaces explicit statistics of pairs: pre-trained vectors, with a graph and without.

  python -m experiments.pcf_gnn --data=frappe_x1
  python -m experiments.pcf_gnn --data=frappe_x1 --only='full|gnn' --seeds=5 --save_result

The same net with no statistic; with the true one, looked up in a table of pairs; and with scores
p(u, v) that a method learned from the same history: biases, a dot product, two towers, the graph
network (dot or MLP CrossNet), and vectors in int8. `seen` and `unseen` are the error of p on pairs
that training knew and on held-out ones (weighted root mean square, in log-odds); on synthetic data
`truth` is the correlation of p with what is planted, over samples of test whose pair train never
saw, on average over pairs. `lookups` are the bytes that serving looks up. Seeds are of the net;
vectors are of one seed, and the pull on them is the best of --vector_l2 on held-out pairs. Measured
results are in experiments/RESULTS.md.
"""

from __future__ import annotations

import statistics

from absl import flags

from ctr_jax.data import synthetic
from ctr_jax.graphs import pcf_gnn
from experiments import common, crossed, pcf, report, sweeps

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(sweeps)
flags.adopt_module_key_flags(crossed)
flags.adopt_module_key_flags(pcf)
flags.set_default(sweeps.NET, 'dnn')


def sweep(add, source) -> None:
  """No statistic, the true one, every method, and int8 vectors."""
  chosen = crossed.pairs(source)
  add('full', '')

  def statistic(**how):
    return lambda: (crossed.with_statistics(source, chosen, **how), {})

  def score(method, technique=None):
    return lambda: _scored(source, chosen, method, technique)

  add('statistic', '', source=statistic())
  add('statistic', 'in slices', source=statistic(sliced=True))
  for method in pcf_gnn.METHODS:
    add('score', method, source=score(method))
  for method in ('dot', 'gnn'):
    add('score', f'{method}, int8', source=score(method, pcf.INT8))


def _scored(source, chosen, method, technique):
  """(the source with scores, what is known of them)."""
  made = pcf.with_scores(source, chosen, pcf.config(method), technique)
  facts = {key: x for key, x in made.served.best.items() if key in ('seen', 'unseen')}
  if isinstance(source, synthetic.Synthetic):
    facts['truth'] = pcf.correlation(source, made, chosen)
  return made.source, facts


def render(found) -> str:
  """One line per way to tell of pairs: errors, AUC, log loss, bytes."""
  full = report.full_row(found)

  def number(row, key):
    return f'{row[key]:.4f}' if key in row else '–'

  rows = [
    (
      'no statistic' if row['group'] == 'full' else row['name'].replace('_', ' '),
      number(row, 'seen'),
      number(row, 'unseen'),
      *([number(row, 'truth')] if found.get('best') else []),
      report.spread(row['test']['auc']),
      report.difference(row, full, 'auc'),
      report.spread(row['test']['log_loss']),
      report.size(row['bytes']),
      report.size(row['bytes_lookup']) if row.get('bytes_lookup') else '–',
      f'{statistics.fmean(row["train_seconds"]):.0f} s',
      len(row['seeds']),
    )
    for row in found['rows']
  ]
  truth = ['truth'] if found.get('best') else []
  header = (
    'pairs told by', 'seen', 'unseen', *truth, 'test AUC', 'ΔAUC × 1e4', 'log loss', 'tables',
    'lookups', 'training', 'seeds',
  )  # fmt: skip
  return report.table(header, rows)


if __name__ == '__main__':
  common.run(lambda: sweeps.run('pcf_gnn', sweep, render))
