r"""Any net on any data, full tables: the number to hold everything else against.

  python -m experiments.baseline --data=frappe_x1 --net=deepfm --mode=dense --l2=0.05
  python -m experiments.baseline --data=frappe_x1 --budget=20kB

With --budget the tables are not full: a technique and a size are chosen for each.
"""

import dataclasses

from absl import flags

from ctr_jax import models
from experiments import budgets, common, exporting, report, settings, trials

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(budgets)
flags.adopt_module_key_flags(exporting)
_NET = flags.DEFINE_enum('net', 'dcn', sorted(models.NETS), 'The net.')
_MODE = flags.DEFINE_enum(
  'mode', None, ['rows', 'dense'], 'rows: touched rows move; dense: Adam over whole tables.'
)
_L2 = flags.DEFINE_float('l2', None, 'L2 on tables. Default: by data set, for --mode=rows.')
_STACKED = flags.DEFINE_bool('stacked', False, 'Store tables of equal width as one array.')


def trial() -> trials.Trial:
  chosen = settings.of(common.data_name())
  if _MODE.value == 'dense' and _L2.value is None:
    raise ValueError(
      '--mode=dense: give --l2 too (0.05 is that of the published recipes on Frappe). The '
      "data set's own is for rows that a batch touches, and far too strong for whole tables."
    )
  optimizer = chosen.optimizer_of(_NET.value)
  if _MODE.value is not None:
    optimizer = dataclasses.replace(optimizer, mode=_MODE.value)
  if _L2.value is not None:
    optimizer = dataclasses.replace(optimizer, l2=_L2.value)
  return trials.Trial(
    f'{_NET.value}',
    net=_NET.value,
    net_options=chosen.net_options(_NET.value),
    dim=chosen.dim,
    optimizer=optimizer,
    schedule=common.schedule(chosen.epochs, chosen.batch_size),
    stacked=_STACKED.value,
  )


def main() -> None:
  exporting.check()
  source = common.source()
  with common.workdir('baseline') as folder:
    chosen, links, name = trial(), [], f'baseline_{common.data_name()}_{_NET.value}'
    if budgets.BUDGET.value:
      found = budgets.choose(chosen, source, budgets.BUDGET.value, budgets.BUDGET_OF.value)
      chosen, links = budgets.within(chosen, source, found)
      name += f'_budget_{found.limit}'
      print(f'{budgets.explain(found)}\n')
    rows = trials.run(chosen, source, folder, common.seeds(), links)
    found = common.result('baseline', source, rows, **common.best_possible(source))
    common.save(folder, found, name)
    print(f'\n{report.ladder(found)}\n\n{report.caption(found)}')
    exporting.run(chosen, source, folder, links)


if __name__ == '__main__':
  common.run(main)
