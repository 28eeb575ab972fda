r"""Fewer numbers per row: fixed, projected, mixed, pruned (PEP) and learned (AMTL) dimensions.

  python -m experiments.dimensions --data=frappe_x1
  python -m experiments.dimensions --data=frappe_x1 --only=AMTL --seeds=5 --save_result

Large tables (--core_rows) get fewer columns by each technique; the others stay. AMTL and PEP have a
life of stages: a search, whose result is then stored packed (AMTL: ranges of ids with as many
columns as were learned; PEP: a bit per value and the values that are left) and trained on in that
form. Bytes are those of the packed form. Measured results are in experiments/RESULTS.md.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from absl import flags

from ctr_jax import compress
from ctr_jax.data import statistics
from experiments import common, report, sweeps

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(sweeps)
flags.set_default(sweeps.CORE_ROWS, 0)  # Narrow rows of small tables count as well.
_PARTS = flags.DEFINE_list('parts', ['0.5', '0.3', '0.2'], 'Parts of the columns that are kept.')
_BUDGETS = flags.DEFINE_list(
  'amtl_budgets', ['0', '0.01', '0.03', '0.1'], "Weights of AMTL's price."
)
_DECAYS = flags.DEFINE_list('pep_decays', ['1e-3', '1e-2', '1e-1'], "Pulls on PEP's thresholds.")


def mixed(counts: np.ndarray, cols: int, part: float) -> compress.Technique:
  """Blocks of popularity, one to an octave; widths by the paper's rule, `part` on average."""
  rows = len(counts)
  starts = [0, *(2**i for i in range(4, 40) if 2**i < rows)]
  blocks = np.split(counts, starts[1:])
  popularity = [max(1e-9, float(block.mean())) for block in blocks]

  def stored(alpha):
    dims = compress.popular_dims(popularity, cols, alpha)
    return sum(d * len(block) for d, block in zip(dims, blocks, strict=True)) / (rows * cols)

  alpha = min(np.linspace(0, 2, 81), key=lambda a: abs(stored(a) - part))
  return compress.mixed_dims(tuple(starts), compress.popular_dims(popularity, cols, alpha))


def packed(tables):
  """Rules that store what an AMTL search keeps."""

  def packed_dims(outcome):
    rows = outcome.model.rows
    found = {t: compress.packed(outcome.vectors(t), rows[t]) for t in tables}
    return sweeps.on(tables, found.__getitem__)

  return packed_dims


def under_masks(tables):
  """Rules that train on under the zeros that a PEP search left."""

  def masked(outcome):
    del outcome
    return sweeps.on(tables, lambda table: compress.masked())

  return masked


def sparse(tables):
  """Rules that store the values that are not zero, and where they are."""

  def sparse_rows(outcome):
    kept = {t: max(1, int(compress.nonzeros(outcome.vectors(t)))) for t in tables}
    return sweeps.on(tables, lambda table: compress.sparse_rows(kept[table]))

  return sparse_rows


def sweep(add, source) -> None:
  """Full tables; fixed, low-rank and mixed widths at equal parts; AMTL and PEP in two stages."""
  tables = sweeps.large(source)
  counts = statistics.counts(source)
  trial = add('full', '')
  # AMTL and PEP train on after their search: so do full tables, to be held against.
  add('full, trained on', '', after=trial)
  cols = trial.model(source).width
  for part in map(float, _PARTS.value):
    dims = max(1, round(cols * part))
    add('keep_dims', f'{part:g}', rules=sweeps.on(tables, lambda t, k=dims: compress.keep_dims(k)))
    add('low_rank', f'{part:g}', rules=sweeps.on(tables, lambda t, k=dims: compress.low_rank(k)))
    chosen = {t: mixed(counts[t], cols, part) for t in tables}
    add('mixed_dims', f'{part:g}', rules=sweeps.on(tables, chosen.__getitem__))
  for weight in map(float, _BUDGETS.value):
    technique = compress.adaptive_dims(budget=weight)
    search = dataclasses.replace(
      trial, name=f'AMTL_search_{weight:g}', rules=sweeps.on(tables, lambda t, x=technique: x)
    )
    add('AMTL', f'{weight:g}', rules=packed(tables), after=search)
  for decay in map(float, _DECAYS.value):
    technique = compress.prune('table', start=-8.0, decay=decay)
    search = dataclasses.replace(
      trial, name=f'PEP_search_{decay:g}', rules=sweeps.on(tables, lambda t, x=technique: x)
    )
    links = [(f'PEP {decay:g}, sparse', sparse(tables))]
    add('PEP', f'{decay:g}', rules=under_masks(tables), after=search, links=links)


def render(found) -> str:
  """One line per technique: bytes, AUC, log loss, and differences from full tables."""
  full = report.full_row(found)
  rows = [
    (
      row['group'],
      row['name'].removeprefix(row['group']).strip(' _') or '–',
      report.size(row['bytes']),
      f'{100 * (1 - row["bytes"] / full["bytes"]):.1f}%' if full else '–',
      report.spread(row['test']['auc']),
      report.difference(row, full, 'auc'),
      report.difference(row, full, 'log_loss'),
      len(row['seeds']),
    )
    for row in found['rows']
  ]
  header = (
    'technique', 'setting', 'tables', 'saved', 'test AUC', 'ΔAUC × 1e4', 'Δlog loss × 1e4', 'seeds',
  )  # fmt: skip
  return report.table(header, rows)


if __name__ == '__main__':
  common.run(lambda: sweeps.run('dimensions', sweep, render))
