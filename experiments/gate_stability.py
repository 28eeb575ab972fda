r"""Does a price mean the same for every batch size? Gates at batches of 512 and of 8192.

  python -m experiments.gate_stability --data=frappe_x1 --seeds=3 --save_result

The same model, method, price and number of steps (in whole epochs); only the batch of the gates
differs. Kendall's τ of the two rankings stands beside that of two seeds at one batch size, which
says how far fields of equal worth are put in an order by chance, and beside the seconds that each
took. Measured results are in experiments/RESULTS.md.
"""

from __future__ import annotations

import itertools
import statistics

from absl import flags
from absl.testing import flagsaver
from scipy import stats

from experiments import common, report, selection, sweeps

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(selection)
flags.adopt_module_key_flags(sweeps)
_BATCHES = flags.DEFINE_list('batches', ['512', '8192'], 'The two batch sizes.')
_METHODS = ('droprank', 'fscd')


def ranking(setting: selection.Setting, method: str, batch: int, seed: int) -> selection.Ranking:
  """A method's ranking with batches of one size; the full model under the gates is the same."""
  with flagsaver.flagsaver(gate_batch=batch):
    return selection.ranked(method, setting, seed)


def main() -> None:
  source = common.source()
  batches = [int(b) for b in _BATCHES.value]
  if len(batches) != 2 or max(batches) > source.num_samples('valid'):
    raise ValueError(
      f'--batches={",".join(_BATCHES.value)}: two sizes, at most the {source.num_samples("valid")} '
      'held-out samples.'
    )
  rows = []
  with common.workdir('gate_stability') as folder:
    setting = selection.Setting(sweeps.base(), source, folder)
    for method in _METHODS:
      found = [
        [ranking(setting, method, batch, seed) for batch in batches] for seed in common.seeds()
      ]
      pairs = [[list(one.importance.values()) for one in two] for two in found]
      rows.append(
        {
          'name': method,
          'group': method,
          'seeds': list(common.seeds()),
          'tau': [float(stats.kendalltau(a, b).statistic) for a, b in pairs],
          'importance': [[one.importance for one in two] for two in found],
          'seconds': [[one.seconds for one in two] for two in found],
        }
      )
    result = common.result('gate_stability', source, rows, batches=batches, picture=False)
    common.save(folder, result, f'gate_stability_{common.data_name()}')
    print(f'\n{render(result)}\n\n{report.caption(result)}')


def between_seeds(importance, which: int) -> list[float]:
  """Kendall's τ of each two seeds' rankings at one batch size.

  Args:
    importance: of each seed, of each batch size: feature → score.
    which: of the batch sizes.
  """
  scores = [list(two[which].values()) for two in importance]
  pairs = itertools.combinations(scores, 2)
  return [float(stats.kendalltau(a, b).statistic) for a, b in pairs]


def render(found) -> str:
  """One line per method."""
  first, second = found['batches']

  def by_chance(row, which):
    taus = between_seeds(row['importance'], which)
    return f'{statistics.fmean(taus):.3f}' if taus else '–'

  rows = [
    (
      row['name'],
      report.spread(row['tau'], 3),
      *(by_chance(row, i) for i in (0, 1)),
      *(f'{statistics.fmean(s[i] for s in row["seconds"]):.0f} s' for i in (0, 1)),
      len(row['seeds']),
    )
    for row in found['rows']
  ]
  header = (
    'gates', f'τ of {first} and {second}', f'τ of seeds, {first}', f'τ of seeds, {second}',
    f'batches of {first}', f'of {second}', 'seeds',
  )  # fmt: skip
  return report.table(header, rows)


if __name__ == '__main__':
  common.run(main)
