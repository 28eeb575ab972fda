r"""Massive to compact, rung by rung: crosses → nets in their place → features → hashes → int8.

  python -m experiments.massive_to_compact                        # synthetic clicks, nothing needed
  python -m experiments.massive_to_compact --data=frappe_x1 --seeds=3
  python -m experiments.massive_to_compact --data=frappe_x1 --nocrosses    # two rungs: hash, round
  python -m experiments.massive_to_compact --export=model         # and the rounded model, to serve

  massive              full tables, an id for each pair of values of some pairs of features, and the
                       past click rate of each pair, looked up
  relational network   no ids of pairs: fields are related inside the net
  PCF-GNN              no click rates of pairs: scores of pre-trained node vectors
  node vectors in int8
  selected features    what Droprank's gates let go is gone, and trained anew without
  multi-hash           core ids hashed
  multi-hash + int8    the same model, its tables rounded after training
  without crosses      full tables alone, to see what crosses are worth

Each rung is trained and measured: test AUC and log loss, exact bytes of the tables and of what
serving looks up before them, samples per second of training and of scoring. The report is
`report.md` and `report.png` in the working folder. Results are in experiments/RESULTS.md.
"""

from collections.abc import Callable
from typing import NamedTuple

from absl import flags

from ctr_jax import compress
from ctr_jax.data import columns
from ctr_jax.serve import pairs_export
from experiments import common, crossed, exporting, pcf, report, selection, settings, trials

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(crossed)
flags.adopt_module_key_flags(exporting)
flags.adopt_module_key_flags(pcf)
flags.adopt_module_key_flags(selection)
_NET = flags.DEFINE_string('net', 'dcn', 'dnn, deepfm, dcn or dcnv2; without crosses any net.')
_WAYS = flags.DEFINE_integer('ways', 2, 'Hashes of each core id.')
_RATIO = flags.DEFINE_float('ratio', 4.0, 'How many times fewer rows a hashed table stores.')
_CORE_ROWS = flags.DEFINE_integer(
  'core_rows', 1000, 'Tables of at least so many rows hold core ids and are hashed.'
)
_CROSSES = flags.DEFINE_bool('crosses', True, 'Begin with crosses and statistics of pairs.')
_BITS = flags.DEFINE_integer('bits', 8, 'Bits of a stored value on the last rung: 8, 4 or 2.')


def hashed(source: columns.Source) -> tuple[tuple[str, compress.Technique], ...]:
  """Rules that store each core table in `ratio` times fewer rows, by multi-hash."""
  rules = []
  for table, rows in source.rows.items():
    if rows >= _CORE_ROWS.value:
      buckets = max(1, int(rows / _RATIO.value / _WAYS.value))
      rules.append((table.replace('.', r'\.'), compress.multi_hash(buckets, _WAYS.value)))
  if not rules:
    raise ValueError(
      f'No table has {_CORE_ROWS.value} rows (the largest has {max(source.rows.values())}): '
      'lower --core_rows.'
    )
  return (*rules, ('.*', compress.identity()))


class Rung(NamedTuple):
  """What makes the data that it reads, what makes its trial, and links measured after it.

  With `vectors`, what an export needs for the scores among its columns.
  """

  source: Callable[[], columns.Source]
  trial: Callable[[columns.Source], trials.Trial]
  links: list = []
  vectors: Callable[[], pairs_export.Vectors | None] = lambda: None


def ladder(source: columns.Source) -> list[Rung]:
  """What to train, in order."""
  chosen = settings.of(common.data_name())
  shared = {
    'net': _NET.value,
    'net_options': chosen.net_options(_NET.value),
    'dim': chosen.dim,
    'optimizer': chosen.optimizer,
    'schedule': common.schedule(chosen.epochs, chosen.batch_size),
  }
  rules = hashed(source)
  quantized = [(f'multi-hash + int{_BITS.value}', compress.int_quantize(_BITS.value))]
  if not _CROSSES.value:
    return [
      Rung(lambda: source, _same('massive', **shared)),
      Rung(lambda: source, _same('multi-hash', rules=rules, **shared), quantized),
    ]
  pairs = crossed.pairs(source)
  related = shared | {'net': 'relation' if _NET.value == 'dnn' else f'relation_{_NET.value}'}

  def told(ids=()):
    return crossed.with_statistics(crossed.with_crosses(source, ids) if ids else source, pairs)

  def scored(technique=None):
    return pcf.with_scores(source, pairs, pcf.config('gnn'), technique).source

  def small():
    return scored(pcf.INT8)

  def selected(name, then):
    """A trial without the features that gates over the rung before let go."""

    def trial(source):
      before = trials.Trial('node vectors in int8', **related)
      gates = selection.droprank(before, source, selection.WEIGHT.value)
      return trials.Trial(
        name, selection.kept(source, then), after=gates, start=trials.afresh, **related
      )

    return trial

  return [
    Rung(lambda: told(pairs), _same('massive', **shared)),
    Rung(told, _same('relational network', **related)),
    Rung(scored, _same('PCF-GNN', **related)),
    Rung(small, _same('node vectors in int8', **related)),
    Rung(small, selected('selected features', (('.*', compress.identity()),))),
    Rung(
      small,
      selected('multi-hash', rules),
      quantized,
      lambda: pcf.served(source, pairs, pcf.config('gnn'), pcf.INT8),
    ),
    Rung(lambda: source, _same(report.BESIDE, **shared)),
  ]


def _same(name, **options):
  trial = trials.Trial(name, **options)
  return lambda source: trial


def main() -> None:
  exporting.check()
  source = common.source()
  with common.workdir('massive_to_compact') as folder:
    rows, compact = [], None
    for rung in ladder(source):
      data = rung.source()
      trial = rung.trial(data)
      rows += trials.run(trial, data, folder, common.seeds(), rung.links)
      if rung.links:
        compact = (trial, data, folder, rung.links, rung.vectors)
    found = common.result('massive_to_compact', source, rows, **common.best_possible(source))
    common.save(folder, found, f'massive_to_compact_{common.data_name()}')
    text = f'{report.ladder(found)}\n\n{report.caption(found)}\n'
    (folder / 'report.md').write_text(text)
    report.figure(found, folder / 'report.png')
    print(f'\n{text}\nreport.md, report.png and result.json are in {folder}')
    if exporting.EXPORT.value:
      *what, vectors = compact
      exporting.run(*what, vectors())


if __name__ == '__main__':
  common.run(main)
