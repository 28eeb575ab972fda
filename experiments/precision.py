r"""Fewer bits per value, after training and during it: the reference table.

  python -m experiments.precision --data=frappe_x1 --seeds=5 --save_result
  python -m experiments.precision --data=frappe_x1 --only=alpt

After training: the same float32 model with one more link, so that differences are of the values
alone. During training: rows stored in few bits while they are trained (fp16 rounded at random or to
nearest, ALPT's int8 and int4), or trained in full through the rounding that they are served with.
Bytes are those served and those trained with, optimizer state included. Measured results are in
experiments/RESULTS.md.
"""

from __future__ import annotations

from absl import flags

from ctr_jax import compress
from experiments import common, report, sweeps, trials

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(sweeps)

AFTER = {
  'float16': compress.cast('float16'),
  'bfloat16': compress.cast('bfloat16'),
  'int8': compress.int_quantize(8),
  'int8, no offset': compress.int_quantize(8, offset=False),
  'int4': compress.int_quantize(4),
  'int4, no offset': compress.int_quantize(4, offset=False),
  'int2': compress.int_quantize(2),
}

DURING = {
  'float16': compress.cast('float16'),
  'float16, stochastic': compress.cast('float16', 'stochastic'),
  'alpt int8': compress.alpt(8),
  'alpt int4': compress.alpt(4),
}

# Trained in full through their rounding, then served by it.
THROUGH = {
  'int8': (compress.fake_quantize(8), compress.int_quantize(8)),
  'int4': (compress.fake_quantize(4), compress.int_quantize(4)),
  'int2': (compress.fake_quantize(2), compress.int_quantize(2)),
}


def everywhere(technique: compress.Technique) -> compress.Rules:
  return (('.*', technique),)


def sweep(add, source) -> None:
  """float32 with every rounding after training; every way to train with rounding."""
  del source
  links = [(f'after training: {name}', link) for name, link in AFTER.items()]
  add('float32', '', links=links)
  for name, technique in DURING.items():
    add('stored while training', name, rules=everywhere(technique))
  for name, (technique, link) in THROUGH.items():
    served = (f'trained through {name}, served', trials.Instead(link))
    add('trained through', name, rules=everywhere(technique), links=[served])


def render(found) -> str:
  """One line per precision: size, AUC, log loss, and differences from float32, seed by seed."""
  full = report.full_row(found)

  def part(row, key):
    return f'{row[key] / full[key]:.3f}' if full and key in row else '–'

  rows = [
    (
      row['name'],
      report.size(row['bytes']),
      part(row, 'bytes'),
      part(row, 'bytes_training'),
      report.spread(row['test']['auc']),
      report.difference(row, full, 'auc'),
      report.difference(row, full, 'log_loss'),
      len(row['seeds']),
    )
    for row in found['rows']
  ]
  header = (
    'values', 'served', 'of float32', 'training bytes of float32', 'test AUC',
    'ΔAUC × 1e4', 'Δlog loss × 1e4', 'seeds',
  )  # fmt: skip
  return report.table(header, rows)


if __name__ == '__main__':
  common.run(lambda: sweeps.run('precision', sweep, render, axis='bytes'))
