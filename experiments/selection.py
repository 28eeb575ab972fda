"""Every way to rank features, under one interface: (a full model's trial, data, seed) → scores.

Gates are trained as trials of their own; `Ranking`s are kept as JSON, so that a run that was
stopped does not rank again. Costs that FSCD prices by are measured once for each working folder and
full model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from absl import flags

from ctr_jax import compress
from ctr_jax.data import columns, statistics
from ctr_jax.evaluate import costs as costs_lib
from ctr_jax.evaluate import importance, importance_trees
from ctr_jax.tables import leaf, stack
from ctr_jax.train import journal, loop, state
from experiments import trials

WEIGHT = flags.DEFINE_float(
  'price', 1e-3, 'Mean price of a feature, in nats per sample, of gates that are learned alone.'
)
JOINT_WEIGHT = flags.DEFINE_float(
  'joint_price', 3e-4, 'The same, of gates that are learned with net and tables, and of OptFS.'
)
SHARES = flags.DEFINE_list(
  'price_shares', ['1', '1', '1'], 'How much time online, bytes and keys count in a price of FSCD.'
)
GATE_STEPS = flags.DEFINE_integer(
  'gate_steps', 600, 'Steps, in whole epochs, in which gates alone are learned.', lower_bound=1
)
GATE_BATCH = flags.DEFINE_integer('gate_batch', 1024, 'Samples of such a step.', lower_bound=1)
GATE_OPTIMIZER = flags.DEFINE_enum(
  'gate_optimizer', 'sgd', ['sgd', 'adam'], 'What learns gates that are learned alone.'
)
JOINT_EPOCHS = flags.DEFINE_integer(
  'joint_epochs', 1, 'Epochs in which gates are learned with net and tables.', lower_bound=1
)
# A gate has to get from open to closed within a few hundred steps. By SGD its logit grows with the
# log of what the field is worth, so that gates which stay open are in an order too; Adam moves all
# of them alike, and the order is that of chance (experiments/gate_stability.py measures it). While
# net and tables still learn, worth changes from step to step, and Adam's rate needs no units.
_RATES = {'sgd': 30.0, 'adam': 0.05}


class Ranking(NamedTuple):
  """What a method says of the features.

  Attributes:
    importance: feature → score; larger is more important.
    seconds: to get there, training included.
  """

  importance: dict[str, float]
  seconds: float


@dataclasses.dataclass(frozen=True)
class Setting:
  """What a ranking is made of.

  Attributes:
    full: the trial of all features.
    source: the data.
    folder: of all trials and rankings.
  """

  full: trials.Trial
  source: columns.Source
  folder: pathlib.Path

  def trained(self, seed: int):
    """(outcome of the full model, its packed arrays, seconds of training)."""
    _, outcome, how = trials.train(self.full, self.source, self.folder, seed)
    arrays = stack.pack(outcome.model.layout, leaf.flatten(outcome.stored))
    return outcome, arrays, how.seconds

  def costs(self) -> dict[str, costs_lib.Cost]:
    """Feature → cost; measured once for each full model, on tables as they are before training."""
    full = self.full.describe(self.source)
    digest = hashlib.sha256(json.dumps(full, sort_keys=True).encode()).hexdigest()[:12]
    path = self.folder / 'costs' / f'{digest}.json'
    # Folders of before have one file, of the full model that was measured last.
    found = (x for x in (path, self.folder / 'costs.json') if x.exists())
    saved = next((x for x in map(_read, found) if x['full'] == full), None)
    if saved is None:
      model = self.full.model(self.source)
      arrays = state.create(model, self.full.optimizer.recipe(model), 0).tables
      costs = costs_lib.measure(model, arrays, self.source)
      saved = {'full': full, 'costs': {name: cost._asdict() for name, cost in costs.items()}}
      loop.write_json(path, saved)
    return {name: costs_lib.Cost(**x) for name, x in saved['costs'].items()}


def _read(path: pathlib.Path) -> dict[str, Any]:
  return json.loads(path.read_text())


class Method(NamedTuple):
  """A way to rank.

  Attributes:
    rank: (setting, seed) → ranking.
    made_of: (setting, seed) → plain JSON that says how, beyond the full model.
  """

  rank: Callable[[Setting, int], Ranking]
  made_of: Callable[[Setting, int], Any] = lambda setting, seed: None


def _of_model(measure: Callable[..., dict[str, float]], **arguments):
  """A method that looks at the trained full model."""

  def rank(setting: Setting, seed: int) -> Ranking:
    outcome, arrays, seconds = setting.trained(seed)
    start = time.perf_counter()
    found = measure(outcome.model, arrays, outcome.net, setting.source, seed=seed, **arguments)
    return Ranking(found, seconds + time.perf_counter() - start)

  return Method(rank, lambda setting, seed: arguments)


def gates(full: trials.Trial, source, name: str, technique, **changes) -> trials.Trial:
  """The trial `full` with a gate before what stores each table, `technique(table)`."""
  rules = tuple(
    (re.escape(table), compress.chain(technique(table), compress.match(table, full.rules)))
    for table in source.rows
  )
  optimizer = dataclasses.replace(full.optimizer, gate_learning_rate=_RATES['adam'])
  # One pass, as over a stream of clicks: in a second one, fields of many values are rewarded for
  # what the tables remember of the same samples, and noise of high cardinality comes first.
  schedule = _until_the_end(full.schedule, JOINT_EPOCHS.value, full.schedule.batch_size)
  changes = {'optimizer': optimizer, 'schedule': schedule} | changes
  return dataclasses.replace(full, name=name, rules=rules, **changes)


def _until_the_end(schedule: loop.Schedule, epochs: int, batch_size: int) -> loop.Schedule:
  """Every epoch counts as better: the gates of the last one are wanted, not those of the best."""
  return dataclasses.replace(schedule, epochs=epochs, batch_size=batch_size, min_delta=-2.0)


def _steps(setting: Setting) -> int:
  """Of training gates with all else."""
  samples = setting.source.num_samples('train')
  return JOINT_EPOCHS.value * (samples // setting.full.schedule.batch_size)


def after_training(full: trials.Trial, source, name: str, technique) -> trials.Trial:
  """A second stage: gates on held-out samples, the weights of net and tables at rest.

  On samples of train, the memory of a field of many values looks like knowledge. The net is in
  training mode, so that it meets gated batches with their own statistics, and with dropout.
  """
  held_out = source.num_samples('valid')
  batch = min(GATE_BATCH.value, held_out)
  epochs = math.ceil(GATE_STEPS.value / (held_out // batch))
  by = GATE_OPTIMIZER.value
  rest = {'learning_rate': 0.0, 'rows_learning_rate': 0.0, 'l2': 0.0}
  rest |= {'gate_learning_rate': _RATES[by], 'gate_optimizer': by}
  return gates(
    full,
    source,
    f'{name}_by_{by}_in_{GATE_STEPS.value}x{batch}_of_{full.name}',
    technique,
    optimizer=dataclasses.replace(full.optimizer, **rest),
    schedule=_until_the_end(full.schedule, epochs, batch),
    after=full,
    split='valid',
  )


def droprank(full: trials.Trial, source, weight: float, per: str = 'field') -> trials.Trial:
  """Droprank in two stages."""
  technique = compress.droprank(weight, per, anneal=GATE_STEPS.value // 2)
  return after_training(full, source, f'droprank_{per}_{weight:g}', lambda table: technique)


def kept(source: columns.Source, then: compress.Rules):
  """Rules, of the outcome of a trial of gates, that drop the features whose gates have closed."""
  tables = {f.name: f.table for f in source.schema.features}

  def kept_features(outcome):
    found = strengths(outcome, source)
    opened = sum(x > 0 for x in found.values())  # The gate's logit: kept more often than not.
    return compress.selected(found, keep=opened, tables=tables, rules=then)

  # A trial is told by the name of what makes its rules: so that other rules are another trial.
  kept_features.__name__ += json.dumps(compress.describe(then))
  return kept_features


def strengths(outcome: trials.Outcome, source: columns.Source) -> dict[str, float]:
  """Feature → how much its table's gate wants it."""
  counts = statistics.counts(source)

  def of(table):
    of_ids = 'optfs' in str(compress.match(table, outcome.rules))
    return compress.strength(outcome.stored[table], counts[table] if of_ids else None)

  return {f.name: of(f.table) for f in outcome.model.features}


def _of_gates(trial: Callable[[Setting], trials.Trial]):
  """A method that trains gates and reads them."""

  def rank(setting: Setting, seed: int) -> Ranking:
    made = trial(setting)
    _, outcome, how = trials.train(made, setting.source, setting.folder, seed)
    before = setting.trained(seed)[2] if made.after else 0.0
    return Ranking(strengths(outcome, setting.source), before + how.seconds)

  return Method(
    rank, lambda setting, seed: trials.description(trial(setting), setting.source, seed)
  )


def fscd(setting: Setting, weight: float, joint: bool = False) -> trials.Trial:
  """FSCD's first stage, every table at its price: on held-out samples, or with all else."""
  shares = tuple(map(float, SHARES.value))
  prices = compress.prices(setting.costs(), weight, shares)
  # Features that share a table share its gate: it costs what they cost together.
  by_table: dict[str, float] = {}
  for feature in setting.source.schema.features:
    by_table[feature.table] = by_table.get(feature.table, 0.0) + prices[feature.name]
  name, steps = '_'.join(SHARES.value) + f'_{weight:g}', GATE_STEPS.value
  if joint:
    name, steps = f'joint_{name}', _steps(setting)
  make = gates if joint else after_training
  return make(
    setting.full, setting.source, f'fscd_{name}',
    lambda table: compress.fscd(by_table[table], anneal=steps // 2),
  )  # fmt: skip


def _joint(setting: Setting, weight: float) -> trials.Trial:
  technique = compress.droprank(weight, anneal=_steps(setting) // 2)
  return gates(setting.full, setting.source, f'droprank_joint_{weight:g}', lambda table: technique)


def _plain(make: Callable[[Setting], compress.Technique]):
  def trial(setting):
    technique = make(setting)
    return gates(setting.full, setting.source, technique.name, lambda table: technique)

  return trial


def _trees(setting: Setting, seed: int) -> Ranking:
  start = time.perf_counter()
  found = importance_trees.gain(setting.source, seed=seed)
  return Ranking(found, time.perf_counter() - start)


def _random(setting: Setting, seed: int) -> Ranking:
  return Ranking(importance.random(setting.source.schema.names, seed), 0.0)


def _without_each(setting: Setting, seed: int) -> Ranking:
  """Leave one out and train again: slow, and the truth about one feature at a time."""
  _, outcome, how = trials.train(setting.full, setting.source, setting.folder, seed)
  full, seconds, found = how.best, how.seconds, {}
  for name in outcome.model.columns:
    trial = keeping(setting, [x for x in outcome.model.columns if x != name])
    how = trials.train(trial, setting.source, setting.folder, seed)[2]
    found[name] = full - how.best
    seconds += how.seconds
  return Ranking(found, seconds)


def keeping(setting: Setting, kept: list[str], warm: bool = False) -> trials.Trial:
  """The trial of a model with these features, from scratch or from the full one's part."""
  features = setting.source.schema.features
  if len(kept) == len(features):
    return setting.full
  scores = {f.name: float(f.name in kept) for f in features}
  tables = {f.name: f.table for f in features}
  rules = compress.selected(scores, keep=len(kept), tables=tables)
  order = [f.name for f in features if f.name in kept]
  name = ('warm_' if warm else 'kept_') + '+'.join(order)
  if len(name) > 100:  # Names of folders are limited.
    name = f'{name[:60]}_{hashlib.sha256(name.encode()).hexdigest()[:12]}'
  trial = dataclasses.replace(setting.full, name=name, rules=rules)
  return dataclasses.replace(trial, after=setting.full, start=trials.part) if warm else trial


# Gates of ids (OptFS) move at the rate of rows, the others at one of `_RATES`.
METHODS: dict[str, Method] = {
  'droprank': _of_gates(lambda s: droprank(s.full, s.source, WEIGHT.value)),
  'droprank per column': _of_gates(lambda s: droprank(s.full, s.source, WEIGHT.value, 'column')),
  'droprank joint': _of_gates(lambda s: _joint(s, JOINT_WEIGHT.value)),
  'fscd': _of_gates(lambda s: fscd(s, WEIGHT.value)),
  'fscd joint': _of_gates(lambda s: fscd(s, JOINT_WEIGHT.value, joint=True)),
  'permutation': _of_model(importance.permutation),
  'sfs': _of_model(importance.sfs),
  'shark': _of_model(importance.shark),
  'autofield': _of_gates(_plain(lambda s: compress.autofield())),
  'lpfs': _of_gates(_plain(lambda s: compress.lpfs())),
  'optfs': _of_gates(_plain(lambda s: compress.optfs(JOINT_WEIGHT.value, steps=_steps(s)))),
  'trees': Method(_trees),
  'random': Method(_random),
  'leave one out': Method(_without_each),
}


def ranked(method: str, setting: Setting, seed: int) -> Ranking:
  """A method's ranking, from its file if it was made before."""
  chosen = METHODS[method]
  made_of = json.loads(
    json.dumps([setting.full.describe(setting.source), chosen.made_of(setting, seed)])
  )
  digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:8]
  path = setting.folder / 'rankings' / f'{method.replace(" ", "_")}_{digest}' / f'seed_{seed}.json'
  if path.exists():
    saved = json.loads(path.read_text())
    return Ranking(saved['importance'], saved['seconds'])
  journal.say(f'{method}, seed {seed}: ranking')
  found = chosen.rank(setting, seed)
  loop.write_json(path, {'made_of': made_of, **found._asdict()})
  return found
