"""A trial: one model on one data set, trained and measured for each seed, and resumable.

Every seed has a folder with its checkpoints, its journal and, once it is done, `result.json`.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
from typing import Any

import jax
import optax

from ctr_jax import compress, models, predict
from ctr_jax.compress import report
from ctr_jax.data import columns
from ctr_jax.evaluate import evaluate
from ctr_jax.tables import leaf, rowwise, stack
from ctr_jax.train import journal, loop
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib

ROW_OPTIMIZERS = {
  'sgd': lambda lr, l2: rowwise.sgd(lr, l2),
  'adagrad': lambda lr, l2: rowwise.adagrad(lr, l2, per='row'),
  'adagrad_element': lambda lr, l2: rowwise.adagrad(lr, l2, per='element'),
  'lazy_adam': lambda lr, l2: rowwise.lazy_adam(lr, l2),
}


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """How net and tables learn.

  Attributes:
    mode: 'rows' (only touched rows move) or 'dense' (Adam over whole tables, as published recipes).
    learning_rate: of Adam, for the net, and in dense mode for the tables.
    rows: in mode 'rows' the row optimizer, a name in ROW_OPTIMIZERS.
    rows_learning_rate: of the row optimizer.
    l2: λ; in dense mode of (λ/2)·‖E‖² over whole tables, in mode 'rows' on the touched rows.
    clip: norm at which gradients that Adam sees are clipped.
  """

  mode: str = 'rows'
  learning_rate: float = 1e-3
  rows: str = 'adagrad'
  rows_learning_rate: float = 0.05
  l2: float = 1e-3
  clip: float = 10.0

  def recipe(self) -> state_lib.Recipe:
    adam = (optax.clip_by_global_norm(self.clip), optax.adam(self.learning_rate))
    if self.mode == 'dense':
      return state_lib.Recipe(optax.chain(step_lib.l2_on_tables(self.l2), *adam))
    if self.mode != 'rows':
      raise ValueError(f"An optimizer's mode is 'rows' or 'dense', got {self.mode!r}.")
    return state_lib.Recipe(
      optax.chain(*adam), ROW_OPTIMIZERS[self.rows](self.rows_learning_rate, self.l2)
    )


@dataclasses.dataclass(frozen=True)
class Trial:
  """One model to train.

  Attributes:
    name: of the trial; names its folder and its row in tables.
    rules: (pattern, technique) pairs, see `compress.bind`.
    net: a name in `models.NETS`.
    net_options: keyword arguments of the net.
    dim: embedding dimension.
    init: standard deviation of the full tables' first values.
    optimizer: how it learns.
    schedule: how long it learns.
    stacked: store tables of equal width as one array.
  """

  name: str
  rules: tuple[tuple[str, compress.Technique], ...] = (('.*', compress.identity()),)
  net: str = 'dcn'
  net_options: dict[str, Any] = dataclasses.field(default_factory=dict)
  dim: int = 10
  init: float = 1e-4
  optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
  schedule: loop.Schedule = dataclasses.field(default_factory=loop.Schedule)
  stacked: bool = False

  def model(self, source: columns.Source, rules: Any = None) -> predict.Model:
    if self.net not in models.NETS:
      raise ValueError(f'Unknown net {self.net!r}; known are {", ".join(sorted(models.NETS))}.')
    return predict.build(
      source.schema,
      source.rows,
      self.rules if rules is None else rules,
      models.NETS[self.net](**self.net_options),
      self.dim,
      leaf.normal(self.init),
      stack.stacked if self.stacked else stack.apart,
    )

  def describe(self, source: columns.Source) -> dict[str, Any]:
    """What has to be equal for a checkpoint to be of this trial: plain JSON."""
    described = {
      'data': source.checksum,
      'schema': source.schema.digest,
      'chain': compress.describe(self.rules),
      'net': {'name': self.net, **self.net_options},
      'dim': self.dim,
      'init': self.init,
      'optimizer': dataclasses.asdict(self.optimizer),
      'schedule': dataclasses.asdict(self.schedule),
    }
    return json.loads(json.dumps(described))


def run(trial: Trial, source: columns.Source, workdir: pathlib.Path, seeds, links=()) -> list[dict]:
  """Trains `trial` once per seed, and measures it as trained and with each serving link appended.

  Args:
    trial: what to train.
    source: the data.
    workdir: a folder for this trial; finished seeds are not trained again.
    seeds: integers.
    links: (name, technique) pairs, each appended to the trained model (post-training).

  Returns:
    A row for the trial and one for each link: see `_row`.
  """
  per_seed = [_seed(trial, source, workdir / trial.name / f'seed_{s}', s, links) for s in seeds]
  names = [trial.name, *(name for name, _ in links)]
  return [_row(name, [found[name] for found in per_seed]) for name in names]


def train(
  trial: Trial, source: columns.Source, folder: pathlib.Path, seed: int
) -> tuple[predict.Model, loop.Trained]:
  """Trains one seed in `folder`, from its last checkpoint if there is one."""
  model, recipe = trial.model(source), trial.optimizer.recipe()
  score = evaluate.scorer(model)

  def validate(state):
    return evaluate.evaluate(model, score, state.tables, state.net, source, 'valid')

  described = trial.describe(source) | {'seed': seed}
  name = f'{trial.name} seed {seed}'
  run = loop.Run(model, recipe, trial.schedule, source, folder, described, seed, validate, name)
  return model, run.fit()


def _seed(trial, source, folder, seed, links):
  described = trial.describe(source) | {'seed': seed}
  done = folder / 'result.json'
  if done.exists():
    saved = json.loads(done.read_text())
    if saved['description'] == described and all(n in saved['measured'] for n, _ in links):
      journal.say(f'{trial.name}, seed {seed}: already done, see {done}')
      return saved['measured']
  model, trained = train(trial, source, folder, seed)
  how = trained.position
  training = {
    'seed': seed,
    'epochs': how.epoch,
    'best_epoch': how.best_epoch,
    'valid_best': how.best,
    'train_seconds': how.seconds,
    'train_samples_per_second': how.samples / how.seconds,
    'bytes_training': report.training(
      model.codec, state_lib.slot_leaves(model, trial.optimizer.recipe())
    ),
  }
  measured = {trial.name: training | _measure(model, trained.state.tables, trained.state, source)}
  stored = leaf.unflatten(model.codec.plan, stack.unpack(model.layout, trained.state.tables))
  for name, link in links:
    served = trial.model(source, compress.appended(trial.rules, link))
    arrays = compress.extend(model.codec.plan, stored, link)
    arrays = stack.pack(served.layout, leaf.flatten(arrays))
    measured[name] = {'seed': seed} | _measure(served, arrays, trained.state, source)
  loop.write_json(done, {'description': described, 'measured': measured})
  return measured


def _measure(model, arrays, state, source):
  score = evaluate.scorer(model)
  passes = [evaluate.evaluate(model, score, arrays, state.net, source, 'test') for _ in range(3)]
  test = {k: v for k, v in passes[0].items() if k != 'samples_per_second'}
  return {
    'test': test,
    'score_samples_per_second': statistics.median(p['samples_per_second'] for p in passes),
    'bytes': leaf.nbytes(model.codec.plan),
    'bytes_by_table': report.by_table(model.codec.plan),
    'axes_by_table': {t: report.by_axis(part) for t, part in model.codec.plan.items()},
    'net_parameters': sum(x.size for x in jax.tree.leaves(state.net['params'])),
  }


def _row(name, found):
  """Per-seed measurements → one row: a list of values per metric, and what all seeds share."""
  metrics = sorted(found[0]['test'])
  shared = ('bytes', 'bytes_training', 'bytes_by_table', 'axes_by_table', 'net_parameters')
  lists = (
    'train_samples_per_second', 'score_samples_per_second', 'train_seconds', 'epochs', 'best_epoch',
    'valid_best',
  )  # fmt: skip
  return {
    'name': name,
    'seeds': [x['seed'] for x in found],
    'test': {m: [x['test'][m] for x in found] for m in metrics},
    **{k: [x[k] for x in found] for k in lists if k in found[0]},
    **{k: found[0][k] for k in shared if k in found[0]},
  }
