"""Sweeps: many trials on one data set, each a row; a table, a picture, and results that fill up.

An experiment says what to train in plain loops:

  def sweep(add, source):
    for ways in (1, 2, 3):
      add('multi-hash', f'{ways} ways', rules=..., technique settings)

Finished trials are not trained again, and rows are merged into what experiments/results already
has, so that a table may be filled over several runs and with more seeds where a claim rests on it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

from absl import flags

from ctr_jax import compress, models
from ctr_jax.data import columns
from experiments import common, merging, report, settings, trials

ONLY = flags.DEFINE_string('only', None, 'Only the rows whose "group: name" holds this expression.')
CORE_ROWS = flags.DEFINE_integer('core_rows', 1000, 'Tables of at least so many rows are changed.')
NET = flags.DEFINE_string('net', 'dcn', f'One of {", ".join(models.NETS)}.')
RATIOS = flags.DEFINE_list('ratios', ['10', '100'], 'How many times fewer bytes.')


@dataclasses.dataclass(frozen=True)
class Entry:
  """One trial of a sweep.

  Attributes:
    group: what it is a member of: a curve in the picture.
    trial: what is trained.
    links: as in `trials.run`: measured after training, a row each.
    facts: more columns of its row, as plain JSON.
    source: makes what it reads, where that is not the data set of the sweep but one with columns
      beside: () → (source, more facts). Called only if the trial is run.
  """

  group: str
  trial: trials.Trial
  links: tuple[tuple[str, Any], ...] = ()
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)
  source: Callable[[], tuple[columns.Source, dict[str, Any]]] | None = None

  @property
  def label(self) -> str:
    """What --only looks in."""
    return f'{self.group}: {self.trial.name}'


def base() -> trials.Trial:
  """The trial that a sweep changes: full tables with the settings of the data set."""
  chosen = settings.of(common.data_name())
  return trials.Trial(
    'full',
    net=NET.value,
    net_options=chosen.net_options(NET.value),
    dim=chosen.dim,
    optimizer=chosen.optimizer_of(NET.value),
    schedule=common.schedule(chosen.epochs, chosen.batch_size),
  )


def large(source: columns.Source) -> list[str]:
  """Tables of at least --core_rows rows: those that a sweep compresses."""
  found = [table for table, n in source.rows.items() if n >= CORE_ROWS.value]
  if not found:
    largest = max(source.rows.values())
    raise ValueError(
      f'No table has {CORE_ROWS.value} rows (the largest has {largest}): lower --core_rows.'
    )
  return found


def on(tables: list[str], make: Callable[[str], compress.Technique]) -> compress.Rules:
  """Rules that store `tables` by `make(table)` and leave the others as they are."""
  return (*((re.escape(t), make(t)) for t in tables), ('.*', compress.identity()))


def entries(sweep: Callable[..., None], source: columns.Source) -> list[Entry]:
  """The rows of a sweep that --only names.

  Raises:
    ValueError: there are none.
  """
  found: list[Entry] = []

  def add(group, name, *, links=(), facts=None, source=None, **changes):
    trial = dataclasses.replace(base(), **({'name': folder_name(group, name)} | changes))
    found.append(Entry(group, trial, tuple(links), facts or {}, source))
    return trial

  sweep(add, source)
  wanted = re.compile(ONLY.value or '')
  chosen = [entry for entry in found if wanted.search(entry.label)]
  if not chosen:
    raise ValueError(f'--only={ONLY.value}: no row is called so.')
  return chosen


def run(
  experiment: str,
  sweep: Callable[..., None],
  render: Callable[[dict], str],
  axis: str | None = 'bytes',
) -> None:
  """Trains what a sweep asks for, merges the rows into the results, prints and draws them.

  Args:
    experiment: the name of the module.
    sweep: `sweep(add, source)`; `add(group, name, links=(), facts={}, source=None, **changes of the
      trial)`.
    render: result → Markdown.
    axis: 'bytes' of the served tables or 'bytes_training' in the picture; None for no picture.
  """
  source = common.source()
  chosen = entries(sweep, source)
  name = f'{experiment}_{common.data_name()}'
  shared = {'base': base().describe(source), **common.best_possible(source)}
  if axis is None:
    shared['picture'] = False
  if common.SAVE.value:
    merging.merged(
      common.result(experiment, source, [], **shared), name
    )  # Refused before hours of work.
  with common.workdir(experiment) as folder:
    rows = []
    for i, entry in enumerate(chosen):
      print(f'[{i + 1}/{len(chosen)}] {entry.label}', flush=True)
      own, facts = (source, {}) if entry.source is None else entry.source()
      found = trials.run(entry.trial, own, folder, common.seeds(), entry.links)
      rows += [row | {'group': entry.group, **entry.facts, **facts} for row in found]
      # After every trial, so that a sweep that is stopped has kept what it has measured.
      result = merging.merged(common.result(experiment, source, rows, **shared), name)
      common.save(folder, result, name)
    if common.SHARED.value:
      return  # The report is made of all rows, by a run that finds them done.
    text = f'{render(result)}\n\n{report.caption(result)}\n'
    (folder / 'report.md').write_text(text)
    if axis is not None:
      report.groups(result, folder / 'report.png', axis)
    print(f'\n{text}\nThe report and result.json are in {folder}')


def folder_name(group: str, name: str) -> str:
  """A trial's name: also its folder, and unique within its sweep."""
  return re.sub(r'[^\w.=,+×-]+', '_', f'{group} {name}'.strip())
