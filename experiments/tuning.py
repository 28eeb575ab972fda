r"""How hashed tables like to be trained: learning rate and L2 of rows, judged on valid alone.

  python -m experiments.tuning --data=yelp_implicit
  python -m experiments.tuning --data=yelp_implicit --rates=0.01 --l2s=0.1,1 --save_result

A row that many ids share is read in almost every batch: Adagrad's steps on it shrink sooner, and
L2, which is applied once to each row that a batch touches, pulls it for every one of them. Settings
that suit full tables (`experiments/settings.py`) need not suit hashed ones. The large tables are
stored by two hashes in --ratios times fewer rows; beside them stand full tables with the same
settings. What is chosen is chosen on the validation split; the test split is not shown. Measured
results are in experiments/RESULTS.md.
"""

from __future__ import annotations

import dataclasses
import statistics

from absl import flags

from ctr_jax import compress
from experiments import common, report, settings, sweeps

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(sweeps)
flags.set_default(sweeps.RATIOS, ['4'])
_RATES = flags.DEFINE_list('rates', ['0.003', '0.01', '0.03'], 'Learning rates of rows.')
_L2S = flags.DEFINE_list('l2s', ['0.1', '1', '10'], 'L2 of the rows that a batch touches.')
_WAYS = 2


def sweep(add, source) -> None:
  """Full and hashed tables with every pair of settings."""
  tables = sweeps.large(source)
  usual = settings.of(common.data_name()).optimizer

  def hashed(ratio):
    def technique(table):
      return compress.multi_hash(max(1, int(source.rows[table] / ratio / _WAYS)), _WAYS)

    return sweeps.on(tables, technique)

  forms = {'full': {}} | {
    f'{r}× fewer rows': {'rules': hashed(float(r))} for r in sweeps.RATIOS.value
  }
  for form, changes in forms.items():
    for rate in _RATES.value:
      for l2 in _L2S.value:
        optimizer = dataclasses.replace(usual, rows_learning_rate=float(rate), l2=float(l2))
        facts = {'rate': float(rate), 'l2': float(l2)}
        add(form, f'rate {rate}, L2 {l2}', optimizer=optimizer, facts=facts, **changes)


def render(found) -> str:
  """One line per setting, the best of each form first."""
  ordered = sorted(found['rows'], key=lambda r: (r['group'], -statistics.fmean(r['valid_best'])))
  rows = [
    (
      row['group'],
      f'{row["rate"]:g}',
      f'{row["l2"]:g}',
      report.size(row['bytes']),
      report.spread(row['valid_best']),
      f'{statistics.fmean(row["epochs"]):.0f}',
      len(row['seeds']),
    )
    for row in ordered
  ]
  header = ('tables', 'rate of rows', 'L2', 'bytes', 'valid AUC', 'epochs', 'seeds')
  return report.table(header, rows)


if __name__ == '__main__':
  common.run(lambda: sweeps.run('tuning', sweep, render, axis=None))
