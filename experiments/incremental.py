r"""Ten days that arrive: retrained each day, from the last model, or by one pass over what is new.

  python -m experiments.incremental --data=synthetic_drift --seeds=3 --save_result
  python -m experiments.incremental --data=yelp_implicit

Each day is scored by the model of the day before, and then learned:

  retrain      from scratch, on all days so far, or on a window of the last --window_days
  warm start   from the last model, once over the window, or once over all days so far
  incremental  from the last model, one pass over the new day alone

A feature (--late; `badge` of the drifting set, which exists from then on) is added on day 6: to
retraining by a model that has it, to the others by `train.grow`, which changes no logit. The rows
`without` never get it. Rows with a cap admit and evict values (`data.admission`), so that tables,
optimizer state and the vocabularies' own bytes stay under so many kB; those without a cap have a
row for every value that there ever is. Where there are no days (Yelp), samples are cut into --days
in the order of their position in the user's history.

All rows share the optimizer, and the passes over the first day. The mean is over days 6 to 10; what
was chosen (learning rates, L2, epochs, passes, batches) was chosen by days 2 to 5 (--until=5) of
one seed. A row that is killed goes on after its last finished day. Measured results are in
experiments/RESULTS.md.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import statistics
from typing import Any

from absl import flags

from ctr_jax import compress
from ctr_jax.data import admission, drift
from ctr_jax.data import days as days_lib
from ctr_jax.evaluate import evaluate
from ctr_jax.tables import leaf
from ctr_jax.train import days, grow, step
from experiments import common, crossed, incremental_report, merging, report, sweeps

flags.adopt_module_key_flags(common)  # So that --help shows them.
flags.adopt_module_key_flags(sweeps)
_DAYS = flags.DEFINE_integer('days', 10, 'Days to cut samples into that have no day.')
_UNTIL = flags.DEFINE_integer('until', None, 'Only so many days: to choose settings by.')
_LATE = flags.DEFINE_string('late', None, 'The feature that is added; default: by data set.')
_ADDED = flags.DEFINE_integer(
  'added', 6, 'The day on which it is added; days count from 1.', lower_bound=1
)
_WINDOW = flags.DEFINE_integer('window_days', 4, 'Days of a window.')
_PASSES = flags.DEFINE_integer(
  'incremental_passes', 1, 'Passes over a new day, of the incremental rows.'
)
_BATCH = flags.DEFINE_integer('incremental_batch', 256, 'Samples per step of warm and incremental.')
_SCALE = flags.DEFINE_float(
  'incremental_scale', 1.0, 'Factor of learning rates after the first day, likewise.'
)
_RATE = flags.DEFINE_float('rows_learning_rate', None, 'Of tables. Default: by data set.')
_NET_RATE = flags.DEFINE_float('learning_rate', None, 'Of the net. Default: by data set.')
_L2 = flags.DEFINE_float('l2', None, 'On touched rows. Default: by data set.')
_CAPS = flags.DEFINE_list('caps', ['600', '300', '150', '75'], 'Caps in kB (1000 bytes).')
_LARGE = flags.DEFINE_integer('admitted_rows', 500, 'Tables of so many rows admit and evict.')
_THRESHOLD = flags.DEFINE_float(
  'admission_threshold', 2.0, 'Decayed count from which a value has a row.'
)
_DECAY = flags.DEFINE_float('admission_decay', 0.7, 'Factor of counts from one day to the next.')
_LATE_OF = {'synthetic_drift': 'badge', 'yelp_implicit': 'attributes'}

# Values wait in half as many places as there are rows.
_WAITING = 0.5


@dataclasses.dataclass(frozen=True)
class Entry:
  """A row: what is learned of each day, and of which model.

  Attributes:
    group: 'retrain', 'warm start' or 'incremental'.
    name: of the row.
    plan: what is learned of each day.
    added: whether it gets the late feature.
    cap: bytes, of tables that admit and evict; None for those of every value.
  """

  group: str
  name: str
  plan: days.Plan
  added: bool = True
  cap: int | None = None

  @property
  def label(self) -> str:
    return f'{self.group}: {self.name}'


class Setting:
  """The data by days, and models of it; programs are made once and shared by rows."""

  def __init__(self, source):
    self.source = crossed.clocked(source)
    ordered = 'day' in self.source.extras
    clock = 'day' if ordered else 'clock'
    if not ordered and clock not in self.source.schema.names:
      raise ValueError(f'--data={common.DATA.value} has neither days nor a clock to make them of.')
    held = days_lib.held(self.source, ('day',) if ordered else ())
    self.stream = days_lib.by_column(held) if ordered else days_lib.slices(held, clock, _DAYS.value)
    self.trial = _trial()
    self.late = _LATE.value or _LATE_OF.get(common.data_name()) or source.schema.names[-1]
    self.dropped = [] if ordered else [(clock, compress.drop())]
    self.days = min(_UNTIL.value or self.stream.days, self.stream.days)

  def rules(self, added: bool):
    """Without the late feature, or with it; never with the clock."""
    late = [] if added else [(f'feature:{re.escape(self.late)}', compress.drop())]
    return (*late, *self.dropped, ('.*', compress.identity()))

  @functools.cache  # noqa: B019
  def stage(self, added: bool, capacity: tuple[tuple[str, int], ...] = ()) -> days.Stage:
    """The model with or without the late feature, of tables of some capacities."""
    rows = dict(self.source.rows) | {t: n + 1 for t, n in capacity}
    sized = days_lib.Mapped(self.source, {})
    sized.rows = rows
    model = self.trial.model(sized, self.rules(added))
    recipe = self.trial.optimizer.recipe(model)
    return days.Stage(model, recipe, step.program(model, recipe))

  def stages(self, entry, capacity, seed) -> dict[int, days.Stage]:
    """Day from which → stage."""
    first, at = self.stage(False, capacity), _ADDED.value - 1
    if not entry.added or at >= self.days - 1:
      return {0: first}
    then = self.stage(True, capacity)

    def carry(state):
      return grow.grow(state, first.model, then.model, then.recipe, seed=seed)[0]

    return {0: first, at: then._replace(carry=carry)}

  def capacities(self, cap: int | None) -> dict[str, int]:
    """Rows of the large tables under a cap, by how many values each has on the first day."""
    if cap is None:
      return {}
    stage = self.stage(True)
    row = {t: _bytes(stage, x) for t, x in stage.model.layout.leaves.items()}
    first = self.stream.window(0, 0)
    large = {t for t in row if self.source.rows[t] >= _LARGE.value}
    values = {t: len(set(admission.observed(first, t).tolist())) for t in sorted(large)}
    rest = sum(nbytes for t, nbytes in row.items() if t not in large)
    per_row = max(row[t] // self.source.rows[t] for t in large)
    return admission.capacities(values, cap, per_row, _WAITING, rest)


def _bytes(stage, table):
  """Of a table and of what the optimizer keeps of it."""
  return table.nbytes + leaf.nbytes(stage.recipe.rows.slots(table))


def _trial():
  base = dataclasses.replace(sweeps.base(), stacked=True)
  changed = {'rows_learning_rate': _RATE, 'learning_rate': _NET_RATE, 'l2': _L2}
  given = {name: flag.value for name, flag in changed.items() if flag.value is not None}
  return dataclasses.replace(base, optimizer=dataclasses.replace(base.optimizer, **given))


def entries(setting: Setting) -> list[Entry]:
  """The rows that --only names."""
  epochs, batch = setting.trial.schedule.epochs, setting.trial.schedule.batch_size
  scratch = days.Plan(0, epochs, epochs, afresh=True, batch_size=batch)
  warm = days.Plan(_WINDOW.value, 1, epochs, batch_size=_BATCH.value, scale=_SCALE.value)
  new = dataclasses.replace(warm, window=1, epochs=_PASSES.value)
  # What is compared with each other first, so that a run that is stopped has it.
  found = [
    Entry('incremental', 'new day', new),
    Entry('incremental', 'new day, without', new, added=False),
    Entry('retrain', 'all days', scratch),
    Entry('retrain', 'all days, without', scratch, added=False),
  ]
  found += [
    Entry('incremental', f'cap of {kb} kB', new, cap=round(1000 * float(kb))) for kb in _CAPS.value
  ]
  found += [
    Entry('warm start', 'all days', dataclasses.replace(warm, window=0)),
    Entry('warm start', 'window', warm),
    Entry('retrain', 'window', dataclasses.replace(scratch, window=_WINDOW.value)),
  ]
  wanted = re.compile(sweeps.ONLY.value or '')
  chosen = [entry for entry in found if wanted.search(entry.label)]
  if not chosen:
    raise ValueError(f'--only={sweeps.ONLY.value}: no row is called so.')
  return chosen


def measured(setting: Setting, entry: Entry, folder, seed: int) -> dict[str, Any]:
  """One seed of a row: what `days.run` found, and bytes."""
  sizes = setting.capacities(entry.cap)
  waiting = {t: max(1, int(_WAITING * n)) for t, n in sizes.items()}
  tables = {
    t: admission.Table(n, waiting[t], _THRESHOLD.value, _DECAY.value) for t, n in sizes.items()
  }
  capacity = tuple(sorted(sizes.items()))
  kept: list[int] = []

  def admit(day):
    window = setting.stream.window(day, day)
    found = {t: x.observe(admission.observed(window, t), day) for t, x in tables.items()}
    kept.append(sum(x.nbytes for x in tables.values()))
    return {t: x.given for t, x in found.items()}

  def learned(first, last):
    window = setting.stream.window(first, last)
    return days_lib.Mapped(window, tables) if tables else window

  def score(stage, state, day):
    window = setting.stream.window(0, 0, scored=day)
    source = days_lib.Mapped(window, tables) if tables else window
    found = evaluate.evaluate(
      stage.model, stage.program.scorer, state.tables, state.net, source, 'valid'
    )
    return {name: found[name] for name in ('auc', 'log_loss', 'calibration')}

  stages = setting.stages(entry, capacity, seed)
  described = setting.trial.describe(setting.source) | {
    'days': setting.days,
    'late': [setting.late, _ADDED.value] if len(stages) > 1 else None,
    'admission': [capacity, _THRESHOLD.value, _DECAY.value] if tables else None,
  }
  stream = days.Stream(setting.days, learned, score, admit if tables else None)
  name = sweeps.folder_name(entry.group, entry.name)
  place = folder / name / f'seed_{seed}'
  with common.locked(place, wait=True):
    found = days.run(entry.plan, stages, stream, place, described, seed, f'{name} seed {seed}')
  last = stages[max(stages)]
  nbytes = sum(_bytes(last, x) for x in last.model.layout.leaves.values())
  own = sum(admission.nbytes(n, waiting[t]) for t, n in sizes.items())
  return {'days': found, 'bytes_training': nbytes + own, 'bytes_vocabulary': own}


def row(entry: Entry, found: list[dict[str, Any]], seeds) -> dict[str, Any]:
  """A row of the result, over seeds."""
  total = {
    key: [sum(day.get(key, 0) for day in x['days']) for x in found]
    for key in ('samples', 'seconds', 'bytes_written', 'rows_anew')
  }
  auc = [[day['auc'] for day in x['days'][1:]] for x in found]
  # Settings are chosen by the days before the feature is there (--until).
  since = incremental_report.since(_ADDED.value, len(auc[0]))
  return {
    'name': f'{entry.group}, {entry.name}',
    'group': entry.group,
    'seeds': list(seeds),
    'cap': entry.cap,
    'auc_by_day': auc,
    'log_loss_by_day': [[day['log_loss'] for day in x['days'][1:]] for x in found],
    'test': {'auc': [statistics.fmean(x[since - 2 :]) for x in auc]},
    'bytes_training': found[0]['bytes_training'],
    'bytes_vocabulary': found[0]['bytes_vocabulary'],
    **total,
  }


def main() -> None:
  source = common.source()
  setting = Setting(source)
  chosen = entries(setting)
  name = f'incremental_{common.data_name()}'
  shared: dict[str, Any] = {
    'base': setting.trial.describe(setting.source),
    'added': {'feature': setting.late, 'day': _ADDED.value},
    'how': {
      'days': setting.days,
      'window_days': _WINDOW.value,
      'passes': _PASSES.value,
      'batch_size': _BATCH.value,
      'scale': _SCALE.value,
    },
  }
  if isinstance(source, drift.Drift):
    shared['best_by_day'] = [x['auc'] for x in drift.best_by_day(source)][1 : setting.days]
  with common.workdir('incremental') as folder:
    rows = []
    for i, entry in enumerate(chosen):
      print(f'[{i + 1}/{len(chosen)}] {entry.label}', flush=True)
      found = [measured(setting, entry, folder, seed) for seed in common.seeds()]
      rows.append(row(entry, found, common.seeds()))
      result = merging.merged(common.result('incremental', source, rows, **shared), name)
      common.save(folder, result, name)
    if common.SHARED.value:
      return
    text = f'{render(result)}\n\n{report.caption(result)}\n'
    (folder / 'report.md').write_text(text)
    figure(result, folder / 'report.png')
    print(f'\n{text}\nreport.md, report.png and result.json are in {folder}')


render, figure = incremental_report.render, incremental_report.figure

if __name__ == '__main__':
  common.run(main)
