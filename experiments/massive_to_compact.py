r"""Massive to compact, rung by rung: full tables → multi-hash on the core ids → int8.

  python -m experiments.massive_to_compact                        # synthetic clicks, nothing needed
  python -m experiments.massive_to_compact --data=frappe_x1 --seeds=3

Each rung is trained and measured (int8 is the multi-hash model with one more link, after training):
test AUC and log loss, exact bytes of the tables, samples per second of training and of scoring. The
report is `report.md` and `report.png` in the working folder. Results measured here are in
experiments/RESULTS.md.
"""

from absl import flags

from ctr_jax import compress
from ctr_jax.data import columns
from experiments import common, report, settings, trials

flags.adopt_module_key_flags(common)  # So that --help shows them.
_NET = flags.DEFINE_string('net', 'dcn', 'lr, fm, dnn, deepfm, dcn or dcnv2.')
_WAYS = flags.DEFINE_integer('ways', 2, 'Hashes of each core id.')
_RATIO = flags.DEFINE_float('ratio', 4.0, 'How many times fewer rows a hashed table stores.')
_CORE_ROWS = flags.DEFINE_integer(
  'core_rows', 1000, 'Tables of at least so many rows hold core ids and are hashed.'
)
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


def ladder(source: columns.Source) -> list[tuple[trials.Trial, list]]:
  """The trials to train, each with the links that are appended after training."""
  chosen = settings.of(common.data_name())
  shared = {
    'net': _NET.value,
    'net_options': chosen.net_options(_NET.value),
    'dim': chosen.dim,
    'optimizer': chosen.optimizer,
    'schedule': common.schedule(chosen.epochs, chosen.batch_size),
  }
  quantized = (f'multi-hash + int{_BITS.value}', compress.int_quantize(_BITS.value))
  return [
    (trials.Trial('massive', **shared), []),
    (trials.Trial('multi-hash', hashed(source), **shared), [quantized]),
  ]


def main() -> None:
  source = common.source()
  with common.workdir('massive_to_compact') as folder:
    rows = []
    for trial, links in ladder(source):
      rows += trials.run(trial, source, folder, common.seeds(), links)
    found = common.result('massive_to_compact', source, rows, **common.best_possible(source))
    common.save(folder, found, f'massive_to_compact_{common.data_name()}')
    text = f'{report.ladder(found)}\n\n{report.caption(found)}\n'
    (folder / 'report.md').write_text(text)
    report.figure(found, folder / 'report.png')
    print(f'\n{text}\nreport.md, report.png and result.json are in {folder}')


if __name__ == '__main__':
  common.run(main)
