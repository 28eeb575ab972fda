r"""What replaces implicit crosses: ids of pairs, hashed or not, against nets that relate fields.

  python -m experiments.relation --data=frappe_x1
  python -m experiments.relation --data=frappe_x1 --only=relation --seeds=5 --save_result

The same MLP (`--net=dnn`) without crosses; with an id for each pair of values of the chosen pairs
of features (a vocabulary by frequency, or ten times fewer hashed rows); and with relations between
fields inside the net, which need no table at all. Beside them the nets that others relate fields
by. `lookups` are the bytes of what serving would have to look up to get from a pair of values to
its id. Measured results are in experiments/RESULTS.md.
"""

from __future__ import annotations

import statistics

from absl import flags

from experiments import common, crossed, report, settings, sweeps

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(sweeps)
flags.adopt_module_key_flags(crossed)
flags.set_default(sweeps.NET, 'dnn')

# Name of a row -> (net, its options).
RELATIONS = {
  'pairwise': ('relation', {'mode': 'pairwise'}),
  'attentive': ('relation', {'mode': 'attentive'}),
}
PEERS = (
  'dcn', 'dcnv2', 'deepfm', 'fm', 'fwfm', 'fibinet', 'autoint', 'autoint_plus', 'inner_product',
  'final_mlp',
)  # fmt: skip
# A hashed cross gets so many times fewer rows than its vocabulary has.
_FEWER = 10


def sweep(add, source) -> None:
  """No cross, crosses as ids, relations, and the nets of others."""
  chosen, of_data = crossed.pairs(source), settings.of(common.data_name())
  add('full', '')
  facts = {'pairs': ['-'.join(pair) for pair in chosen]}

  def hashed():
    rows = crossed.with_crosses(source, chosen).rows
    buckets = sum(rows[name] for name in facts['pairs']) // len(chosen) // _FEWER
    return crossed.with_crosses(source, chosen, max(1, buckets)), facts

  add('crosses', 'as ids', source=lambda: (crossed.with_crosses(source, chosen), facts))
  add('crosses', 'hashed', source=hashed)
  for name, (net, options) in RELATIONS.items():
    add('relation', name, net=net, net_options=of_data.net_options(net) | options)
  for net in PEERS:
    own = {'net_options': of_data.net_options(net), 'optimizer': of_data.optimizer_of(net)}
    add('peers', net, net=net, **own)


def render(found) -> str:
  """One line per model: AUC, log loss, bytes of tables and of lookups, parameters, speed."""
  full = report.full_row(found)
  rows = [
    (
      'no cross' if row['group'] == 'full' else row['name'].replace('_', ' '),
      report.spread(row['test']['auc']),
      report.difference(row, full, 'auc'),
      report.spread(row['test']['log_loss']),
      report.size(row['bytes']),
      report.size(row['bytes_lookup']) if row.get('bytes_lookup') else '–',
      f'{row["net_parameters"]:,}',
      f'{statistics.fmean(row["train_seconds"]):.0f} s',
      report.rate(row['train_samples_per_second']),
      len(row['seeds']),
    )
    for row in found['rows']
  ]
  header = (
    'model', 'test AUC', 'ΔAUC × 1e4', 'log loss', 'tables', 'lookups', 'net parameters',
    'training', 'training/s', 'seeds',
  )  # fmt: skip
  return report.table(header, rows)


if __name__ == '__main__':
  common.run(lambda: sweeps.run('relation', sweep, render))
