r"""Which techniques compact should be made of: one pass over them, judged on valid alone.

  python -m experiments.search --data=ml1m_partial
  python -m experiments.search --data=mine.toml --try=features,multi_hash:8 --write=mine.cfg
  python -m experiments.massive_to_compact --flagfile=mine.cfg --seeds=5

What suits one set does harm on another: where features are few a hash costs more than all else,
where ids of pairs only remember there is nothing for a relational network to take the place of. So
the ladder (experiments/massive_to_compact.py) is told which techniques to climb by.

The pass begins with full tables without crosses, rounded (--bits), and tries the words of --try in
order, each in the place of the same technique or in addition to those taken so far. It is taken if

  valid AUC is within --allowed of massive's and a service holds fewer bytes, by --saved or more, or
  what was taken so far falls short of that, and this gains at least --gain.

Each model is trained in all of its stages; the table has the seconds of the last one, since those
before it are shared. Bytes are tables, lookups and the net. The test split is not looked at.
Measured results are in experiments/RESULTS.md.
"""

from __future__ import annotations

import pathlib
import statistics
from typing import Any

from absl import flags

from experiments import common, ladder_report, recipes, report, trials

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(recipes)
_TRY = flags.DEFINE_list(
  'try',
  ['relation:pairwise', 'relation:attentive', 'pcf_gnn', 'net:2', 'net:4', 'features',
   'multi_hash:4', 'dims:0.003', 'dims:0.03'],
  'What to try, in this order; words as of --techniques.',
)  # fmt: skip
_ALLOWED = flags.DEFINE_float('allowed', 5e-4, 'Valid AUC that may be lost against massive.')
_GAIN = flags.DEFINE_float('gain', 2e-4, 'Valid AUC that more bytes must gain.')
_SAVED = flags.DEFINE_float(
  'saved', 0.05, 'Share of the bytes that has to be saved: no technique is free in time.'
)
_WRITE = flags.DEFINE_string('write', None, 'File to write the flags of the chosen ladder to.')
# Of this run alone; whatever else was given is the ladder's as well.
_OWN = {
  'try',
  'allowed',
  'gain',
  'saved',
  'write',
  'workdir',
  'seeds',
  'first_seed',
  'save_result',
  'result',
}


def train(rung: recipes.Rung, folder: pathlib.Path) -> dict[str, Any]:
  """The row of a rung as it is served, with the valid AUC of its training.

  Args:
    rung: what to train.
    folder: of all trials.

  Returns:
    Its last row, and valid_best and train_seconds of its first.
  """
  data = rung.source()
  rows = trials.run(rung.trial(data, folder), data, folder, common.seeds(), rung.links)
  return rows[-1] | {name: rows[0][name] for name in ('valid_best', 'train_seconds')}


def auc(row: dict[str, Any]) -> float:
  """Its valid AUC, the mean over seeds."""
  return statistics.fmean(row['valid_best'])


def taken(row: dict[str, Any], current: dict[str, Any], massive: dict[str, Any]) -> bool:
  """Whether a model is taken in the place of the current one; see above."""
  bar = auc(massive) - _ALLOWED.value
  few = (1 - _SAVED.value) * ladder_report.serving(current)
  if auc(row) >= bar and ladder_report.serving(row) <= few:
    return True
  return auc(current) < bar and auc(row) >= auc(current) + _GAIN.value


def applicable(words: list[str], base: recipes.Base) -> list[str]:
  """The words that name something that can be done to these data and net; says which do not."""
  found = []
  for word in words:
    techniques = recipes.parsed([word])
    try:
      base.options(techniques)
      if 'multi_hash' in techniques:
        recipes.hashed(base.source, float(techniques['multi_hash']))
    except ValueError as error:
      print(f'{word} is left out: {error}')
      continue
    found += [word] if techniques else []
  return found


def main() -> None:
  source = common.source()
  base = recipes.Base(source)
  words = applicable(_TRY.value, base)
  with common.workdir('search') as folder:

    def compact(techniques):
      before = {x: techniques[x] for x in techniques if x in recipes.BEFORE}
      start = f'full tables {_words(before)}'.strip()  # Whoever reads the same columns shares it.
      return base.recipe(techniques, start, f'{_words(techniques)}: ').compact()

    massive = train(base.massive(), folder)
    current, chosen = train(compact({}), folder), {}
    rows = [massive | {'name': 'massive'}, current | {'name': f'full tables in {recipes.kind()}'}]
    for word in words:
      print(
        f'[{len(rows) - 1}/{len(words)}] {word} after {_words(chosen) or "nothing"}', flush=True
      )
      techniques = {**chosen, **recipes.parsed([word])}
      techniques = {name: techniques[name] for name in recipes.STRENGTHS if name in techniques}
      row = train(compact(techniques), folder)
      row |= {'name': _words(techniques), 'taken': taken(row, current, massive)}
      rows.append(row)
      if row['taken']:
        current, chosen = row, techniques
    found = common.result('search', source, rows, chosen=_words(chosen), picture=False)
    common.save(folder, found, f'search_{common.data_name()}')
    text = f'{render(found)}\n\n{report.caption(found)}\n'
    (folder / 'report.md').write_text(text)
    print(f'\n{text}\nThe report and result.json are in {folder}')
    if _WRITE.value:
      lines = [*_given(), f'--techniques={_words(chosen)}']
      pathlib.Path(_WRITE.value).write_text('\n'.join(lines) + '\n')


def _given():
  """The flags of this run that the ladder has too, as lines of a flag file."""
  given = (flags.FLAGS[name] for name in flags.FLAGS)
  return [flag.serialize() for flag in given if flag.present and flag.name not in _OWN]


def _words(techniques):
  return ','.join(':'.join(filter(None, item)) for item in techniques.items())


def render(found: dict[str, Any]) -> str:
  """One line per model in the order of trying: what was tried, valid AUC, bytes, whether taken."""
  massive = found['rows'][0]
  rows = [
    (
      row['name'].replace(',', ', '),
      report.spread(row['valid_best']),
      f'{1e4 * (auc(row) - auc(massive)):+.1f}' if row is not massive else ladder_report.NONE,
      report.size(ladder_report.serving(row)),
      f'{ladder_report.serving(massive) / ladder_report.serving(row):.1f}×',
      f'{statistics.fmean(row["train_seconds"]):.0f} s',
      {True: 'yes', False: 'no'}.get(row.get('taken'), ladder_report.NONE),
    )
    for row in found['rows']
  ]
  header = ('model', 'valid AUC', 'Δ × 1e4', 'serving', 'fewer', 'last stage', 'taken')
  return report.table(header, rows)


if __name__ == '__main__':
  common.run(main)
