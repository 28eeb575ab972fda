"""--budget on any experiment: tables that fit so many bytes, chosen by how often rows are read."""

from __future__ import annotations

import dataclasses
import re

from absl import flags

from ctr_jax import compress, models
from ctr_jax.data import columns, statistics
from ctr_jax.tables import leaf
from experiments import report, trials

BUDGET = flags.DEFINE_string(
  'budget',
  None,
  'Bytes that all tables may take, as 2MB, 500kB or 10% (of the full tables): a technique and a '
  'size are then chosen for every table.',
)
BUDGET_OF = flags.DEFINE_enum(
  'budget_of',
  'serving',
  ['serving', 'training'],
  'serving: the tables as served; training: the tables with their optimizer state.',
)
_UNITS = {'B': 1, 'kB': 10**3, 'MB': 10**6, 'GB': 10**9, 'TB': 10**12}


def parse(text: str, full: int) -> int:
  """'2MB' or '10%' → bytes; `full` is what 100% stands for."""
  found = re.fullmatch(r'\s*([0-9]*\.?[0-9]+)\s*(B|kB|MB|GB|TB|%)\s*', text)
  if not found:
    raise ValueError(f'--budget={text!r}: give a number with B, kB, MB, GB, TB or %, as in 2MB.')
  number, unit = float(found[1]), found[2]
  return int(number / 100 * full) if unit == '%' else int(number * _UNITS[unit])


def tables(trial: trials.Trial, source: columns.Source) -> dict[str, leaf.Leaf]:
  """The full tables of a trial's model."""
  width = models.NETS[trial.net](**trial.net_options).width(trial.dim)
  return {name: leaf.Leaf((rows, width)) for name, rows in source.rows.items()}


def choose(
  trial: trials.Trial, source: columns.Source, limit: str, of: str = 'serving', kinds=None
) -> compress.Budget:
  """The choice for `limit` bytes (as `--budget` says them) of a trial's tables."""
  full = tables(trial, source)
  size = sum(x.nbytes for x in full.values())
  slots = None
  if of == 'training':
    if trial.optimizer.mode != 'rows':
      raise ValueError('--budget_of=training counts the state of a row optimizer: use --mode=rows.')
    slots = trial.optimizer.recipe().rows.slots
  if slots:
    size += sum(s.nbytes for x in full.values() for s in slots(x).values())
  return compress.budget(
    full, statistics.counts(source), parse(limit, size), slots=slots, kinds=kinds
  )


def within(trial: trials.Trial, source: columns.Source, found: compress.Budget):
  """(trial that trains under the choice, links to measure it as it is served)."""
  trial = dataclasses.replace(trial, rules=found.rules)
  if found.rules == found.served:
    return trial, []
  return trial, [(f'{trial.name}, served', found.served)]


def explain(found: compress.Budget) -> str:
  """What every table got, as a Markdown table; the widest first."""
  rows = [
    (
      name,
      f'{choice.rows:,}',
      report.size(choice.full),
      f'`{choice.technique}`',
      report.size(choice.nbytes),
      f'{choice.loss:.4f}',
    )
    for name, choice in sorted(found.choices.items(), key=lambda item: -item[1].full)
  ]
  full = sum(choice.full for choice in found.choices.values())
  rows.append(('all', '', report.size(full), '', report.size(found.nbytes), ''))
  header = ('table', 'rows', 'full', 'technique', 'bytes', 'bits lost (estimate)')
  used = f'{found.nbytes:,} of {found.limit:,} bytes used ({full / found.nbytes:.1f}× smaller).'
  return f'{report.table(header, rows)}\n\n{used}'
