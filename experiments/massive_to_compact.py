r"""Massive to compact, rung by rung: crosses → nets in their place → features → hashes → int8.

  python -m experiments.massive_to_compact                        # synthetic clicks, nothing needed
  python -m experiments.massive_to_compact --data=frappe_x1 --seeds=3
  python -m experiments.massive_to_compact --nocrosses            # no crosses to begin with
  python -m experiments.massive_to_compact --data=ml1m_partial --techniques=multi_hash:8
  python -m experiments.massive_to_compact --ablation             # and compact without each of them
  python -m experiments.massive_to_compact --export=model         # and the compact model, to serve
  python -m experiments.bench.serve --artifacts=massive=large,compact=model   # of --export_massive

  massive              full tables, an id for each pair of values of some pairs of features, and the
                       past click rate of each pair, looked up
  relational network   no ids of pairs: fields are related inside the net
  PCF-GNN              no click rates of pairs: scores of pre-trained node vectors
  node vectors in int8
  selected features    what gates let go is gone, and trained anew without
  multi-hash           core ids hashed; or `a budget of bytes`, which chooses for each table
  adaptive dims        of what is then stored, the columns that AMTL keeps (experiments/adaptive.py)
  adaptive dims + int8 the same model, its tables rounded after training: compact

and beside the ladder

  multi-hash + int8    compact without adaptive dimensions
  without crosses      full tables alone, to see what crosses are worth

The ids of pairs go first, before their statistics: they are what costs. In the other order the
rung of PCF-GNN would train their tables once more, and that of int8 vectors too; both orders end in
the same model.

--techniques says by which of them to climb, and how strongly; what suits a set is found by
experiments/search.py. Two come only when named: `net`, a rung before the features on which hidden
units are fewer (where tables are small, most arithmetic is there), and `budget`. Without those that
replace crosses, crosses go and nothing comes instead.

Each rung is trained and measured: quality on test with its spread over seeds, and whether it
differs from massive (experiments/significance.py); parameters, and bytes in training, in serving,
on disk and of a sample; seconds of training, samples per second and the wait of a request. The
report is `report.md`, `report.png` and `report.html` (which needs nothing beside it) in the working
folder.

--ablation trains compact without each technique, in all of its stages: about twelve trainings. What
it then lacks, nothing takes the place of: without the relational network there are no ids of pairs,
without PCF-GNN no click rates. Results are in experiments/RESULTS.md.
"""

from __future__ import annotations

import pathlib
from typing import Any

from absl import flags

from experiments import (
  common,
  deployed,
  exporting,
  ladder_report,
  measure,
  page,
  recipes,
  report,
  rungs,
  significance,
  trials,
)

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(exporting)
flags.adopt_module_key_flags(rungs)
_MASSIVE = flags.DEFINE_string(
  'export_massive', None, 'Folder to export the massive model of the first seed to, likewise.'
)
_ABLATION = flags.DEFINE_bool('ablation', False, 'Also train compact without each technique.')


def train(rung: recipes.Rung, folder: pathlib.Path) -> tuple[list[dict[str, Any]], dict, Any]:
  """Trains and measures a rung.

  Args:
    rung: what to train.
    folder: of all trials.

  Returns:
    Its row and one for each link; name → logits of test, [seeds, n]; what `exporting.run` takes.
  """
  data, seeds = rung.source(), list(common.seeds())
  trial = rung.trial(data, folder)
  rows = trials.run(trial, data, folder, seeds, rung.links)
  found = [deployed.measured(trial, data, folder, s, rung.links, rung.vectors) for s in seeds]
  rows = [row | measure.deployed([x[row['name']] for x in found]) for row in rows]
  logits = {row['name']: deployed.logits(trial, folder, seeds, row['name']) for row in rows}
  return rows, logits, (trial, data, folder, rung.links, rung.vectors)


def compared(rows, logits, base: str, labels) -> list[dict[str, Any]]:
  """Rows with DeLong's test of their logits against those of the row `base`."""

  def one(row):
    if row['name'] == base:
      return row
    found = significance.delong(labels, logits[row['name']], logits[base])
    return row | {'delong': found._asdict()}

  return [one(row) for row in rows]


def main() -> None:
  exporting.check()
  exporting.check(_MASSIVE)
  source = common.source()
  with common.workdir('massive_to_compact') as folder:
    ladder, rows, logits, ends = rungs.ladder(source), [], {}, {}
    for rung in ladder.rungs:
      made, scores, trained = train(rung, folder)
      rows, logits = rows + made, logits | scores
      ends |= {row['name']: trained for row in made}
    labels = source.read('test', ['label'], 0, source.num_samples('test'))['label']
    rows = compared(rows, logits, 'massive', labels)
    rows.sort(key=lambda row: row['name'] in ladder.beside)  # Those beside the ladder come last.
    more = {'beside': ladder.beside, 'compact': ladder.compact, **common.best_possible(source)}
    if _ABLATION.value:
      more['ablation'] = ablation(ladder, rows, logits, ladder.compact, labels, folder)
    found = common.result('massive_to_compact', source, rows, **more)
    chosen = '_chosen' * bool(recipes.TECHNIQUES.present)
    common.save(folder, found, f'massive_to_compact_{common.data_name()}{chosen}')
    write(found, folder)
    for name, flag in ((ladder.compact, exporting.EXPORT), ('massive', _MASSIVE)):
      if flag.value:
        *what, links, vectors = ends[name]
        exporting.run(*what, links if name == ladder.compact else (), vectors(), flag)


def ablation(ladder, rows, logits, compact, labels, folder) -> list[dict[str, Any]]:
  """A row for compact without each technique, compared with compact itself."""
  by_name, logits = {row['name']: row for row in rows}, dict(logits)
  found = [by_name[row] | {'without': technique} for technique, row in ladder.free.items()]
  for rung in ladder.ablation:
    made, scores, _ = train(rung, folder)
    found.append(made[-1] | {'without': rung.without})
    logits |= scores
  return compared(found, logits, compact, labels)


def write(found: dict[str, Any], folder: pathlib.Path) -> None:
  """The report as Markdown, picture and page, and its tables on the screen."""
  text = ladder_report.markdown(found)
  (folder / 'report.md').write_text(text)
  report.figure(found, folder / 'report.png')
  (folder / 'report.html').write_text(page.ladder(found))
  print(f'\n{text}\nreport.md, report.html, report.png and result.json are in {folder}')
  print(ladder_report.verdict(found))


if __name__ == '__main__':
  common.run(main)
