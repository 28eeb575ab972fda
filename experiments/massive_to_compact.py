r"""Massive to compact, rung by rung: crosses → relational network → PCF-GNN → multi-hash → int8.

  python -m experiments.massive_to_compact                        # synthetic clicks, nothing needed
  python -m experiments.massive_to_compact --data=frappe_x1 --seeds=3
  python -m experiments.massive_to_compact --data=frappe_x1 --nocrosses    # two rungs: hash, round

  massive              full tables, an id for each pair of values of some pairs of features, and the
                       past click rate of each pair, looked up
  relational network   no ids of pairs: fields are related inside the net
  PCF-GNN              no click rates of pairs: scores of pre-trained node vectors
  multi-hash           core ids hashed, node vectors in int8
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
from experiments import common, crossed, pcf, report, settings, trials

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(crossed)
flags.adopt_module_key_flags(pcf)
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
  """A trial, the links that are measured after it, and what makes the data that it reads."""

  trial: trials.Trial
  links: list
  source: Callable[[], columns.Source]


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
      Rung(trials.Trial('massive', **shared), [], lambda: source),
      Rung(trials.Trial('multi-hash', rules, **shared), quantized, lambda: source),
    ]
  pairs = crossed.pairs(source)
  related = shared | {'net': 'relation' if _NET.value == 'dnn' else f'relation_{_NET.value}'}

  def told(ids=()):
    return crossed.with_statistics(crossed.with_crosses(source, ids) if ids else source, pairs)

  def scored(technique=None):
    return pcf.with_scores(source, pairs, pcf.config('gnn'), technique).source

  return [
    Rung(trials.Trial('massive', **shared), [], lambda: told(pairs)),
    Rung(trials.Trial('relational network', **related), [], told),
    Rung(trials.Trial('PCF-GNN', **related), [], scored),
    Rung(trials.Trial('multi-hash', rules, **related), quantized, lambda: scored(pcf.INT8)),
    Rung(trials.Trial('without crosses', **shared), [], lambda: source),
  ]


def main() -> None:
  source = common.source()
  with common.workdir('massive_to_compact') as folder:
    rows = []
    for rung in ladder(source):
      rows += trials.run(rung.trial, rung.source(), folder, common.seeds(), rung.links)
    found = common.result('massive_to_compact', source, rows, **common.best_possible(source))
    common.save(folder, found, f'massive_to_compact_{common.data_name()}')
    text = f'{report.ladder(found)}\n\n{report.caption(found)}\n'
    (folder / 'report.md').write_text(text)
    report.figure(found, folder / 'report.png')
    print(f'\n{text}\nreport.md, report.png and result.json are in {folder}')


if __name__ == '__main__':
  common.run(main)
