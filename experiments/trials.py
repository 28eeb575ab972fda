"""A trial: one model on one data set, trained and measured for each seed, and resumable.

Every seed has a folder with its checkpoints, its journal and, once it is done, `result.json`.

A trial may come `after` another, for techniques with a life of several stages (warm-up → search →
retrain under the result; train → quantise → fine-tune). Each stage is a trial with a folder of its
own: stages that are done are not run again, a killed one resumes, and trials that come after the
same trial share it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ctr_jax import compress, models, predict
from ctr_jax.data import columns
from ctr_jax.evaluate import evaluate
from ctr_jax.models import part as part_lib
from ctr_jax.tables import gather, leaf, stack
from ctr_jax.train import journal, loop, mesh, step
from ctr_jax.train import seeds as seeds_lib
from ctr_jax.train import state as state_lib
from experiments import cluster, common, measure, optimizers


class Outcome(NamedTuple):
  """A trained model, for what comes after it.

  Attributes:
    model: its description.
    rules: that it was built with.
    stored: arrays laid out as `model.codec.plan`.
    net: the net's variables.
  """

  model: predict.Model
  rules: compress.Rules
  stored: Any
  net: dict[str, Any]

  def vectors(self, table: str) -> jax.Array:
    """The vectors of all ids of a table, [rows, cols]; a table that its rule drops has none."""
    codec = self.model.codec
    if not leaf.flatten(codec.plan[table]):
      raise ValueError(f'Table {table!r} has no vectors: the rules of this model drop it.')
    ids = jnp.arange(self.model.rows[table], dtype=jnp.int32)

    def read(stored):
      index = codec.address({table: ids})
      plan = {table: codec.plan[table]}
      return codec.decode(gather.gather(plan, stored, index), train=False)[table]

    return jax.jit(read)({table: self.stored[table]})


def carried(before: Outcome, model: predict.Model, rules: compress.Rules) -> Outcome:
  """What a stage starts from: the vectors of the one before in this model's form, and its net.

  Tables whose technique stays are taken as they are.

  Raises:
    ValueError: the two models read different features.
  """
  old, new = before.model.columns, model.columns
  if old != new:
    parts = {'gone': set(old) - set(new), 'new': set(new) - set(old)}
    words = '; '.join(f'{what}: {", ".join(sorted(x))}' for what, x in parts.items() if x)
    raise ValueError(
      f'This stage has other features than the one before ({words}), and a net reads those that it '
      'was trained with. `start=trials.part` takes the part of it that fewer features need; with '
      'new ones `train.grow` goes on from a checkpoint.'
    )
  return Outcome(model, rules, _stored(before, model, rules), before.net)


def part(before: Outcome, model: predict.Model, rules: compress.Rules) -> Outcome:
  """What a stage with fewer features starts from: `carried`, with the part of the net for them.

  Its logits are those of the model before with the vectors of the other features zero.

  Raises:
    ValueError: there are new features, or the net has no such part: see `models.part`.
  """
  old, new = before.model.columns, model.columns
  net = part_lib.part(model.net, before.net, old, new, model.width)
  return Outcome(model, rules, _stored(before, model, rules), net)


def afresh(before: Outcome, model: predict.Model, rules: compress.Rules) -> None:
  """A stage that takes nothing but its rules from the one before."""
  del before, model, rules


def _stored(before, model, rules):
  """The tables of the one before in this model's form; a table that is dropped is gone: {}."""

  def stays(table):
    one, other = (compress.match(table, x) for x in (before.rules, rules))
    return compress.describe(one) == compress.describe(other)

  left = {t for t, plan in model.codec.plan.items() if leaf.flatten(plan)}
  kept = {t for t in left if stays(t)}
  made = {t: before.vectors(t) for t in sorted(left - kept)}
  taken = {t: before.stored[t] for t in kept}
  return {t: {} for t in model.codec.plan} | compress.encode(model.codec, made) | taken


class Instead(NamedTuple):
  """A link that takes the place of what a trial was trained with, on the same stored tables.

  Attributes:
    link: the technique that every table is then stored by, from what is stored of it.
  """

  link: compress.Technique


@dataclasses.dataclass(frozen=True)
class Trial:
  """One model to train.

  Attributes:
    name: of the trial; names its folder and its row in tables.
    rules: (pattern, technique) pairs, see `compress.bind`; or a function that makes them of the
      outcome of the trial before.
    net: a name in `models.NETS`.
    net_options: keyword arguments of the net.
    dim: embedding dimension.
    init: standard deviation of the full tables' first values.
    optimizer: how it learns.
    schedule: how long it learns.
    stacked: store tables of equal width as one array.
    split: what is learned from: 'train', or for a stage that learns little, held-out samples.
    after: the trial that this one starts from; None to start afresh.
    start: (outcome before, this model, its rules) → outcome to start from: `carried`, `part`, or
      None, as of `afresh`, to start anew.
  """

  name: str
  rules: tuple[tuple[str, compress.Technique], ...] | Callable[[Outcome], Any] = (
    ('.*', compress.identity()),
  )
  net: str = 'dcn'
  net_options: dict[str, Any] = dataclasses.field(default_factory=dict)
  dim: int = 10
  init: float = 1e-4
  optimizer: optimizers.Optimizer = dataclasses.field(default_factory=optimizers.Optimizer)
  schedule: loop.Schedule = dataclasses.field(default_factory=loop.Schedule)
  stacked: bool = False
  split: str = 'train'
  after: Trial | None = None
  start: Callable[[Outcome, predict.Model, compress.Rules], Outcome | None] = carried

  def model(
    self, source: columns.Source, rules: Any = None, on: mesh.Cluster | None = None
  ) -> predict.Model:
    """The model, of this trial's rules or of others, and for a mesh if it is to lie on one."""
    if self.net not in models.NETS:
      raise ValueError(f'Unknown net {self.net!r}; known are {", ".join(sorted(models.NETS))}.')
    layout = stack.stacked if self.stacked else stack.apart
    return predict.build(
      source.schema,
      source.rows,
      self.rules if rules is None else rules,
      models.NETS[self.net](**self.net_options),
      self.dim,
      leaf.normal(self.init),
      on.layout if on else layout,
    )

  def describe(self, source: columns.Source) -> dict[str, Any]:
    """What has to be equal for a checkpoint to be of this trial: plain JSON."""
    schedule = dataclasses.asdict(self.schedule)
    described = {
      'data': source.checksum,
      'schema': source.schema.digest,
      'chain': compress.describe(self.rules),
      'net': {'name': self.net, **self.net_options},
      'dim': self.dim,
      'init': self.init,
      'optimizer': {k: v for k, v in dataclasses.asdict(self.optimizer).items() if v is not None},
      # How often it is saved changes no bit: a run may go on with more checkpoints, or fewer.
      'schedule': {k: v for k, v in schedule.items() if k != 'deltas'} | {'checkpoint_steps': 0},
    }
    if self.split != 'train':
      described['split'] = self.split
    if self.after:
      described |= {'after': self.after.name, 'start': self.start.__name__}
    return json.loads(json.dumps(described))


def run(trial: Trial, source: columns.Source, workdir: pathlib.Path, seeds, links=()) -> list[dict]:
  """Trains `trial` once per seed, and measures it as trained and with each serving link appended.

  Args:
    trial: what to train.
    source: the data.
    workdir: a folder for this trial; finished seeds are not trained again.
    seeds: integers.
    links: (name, link) pairs, each applied to the trained model: a technique is appended to what it
      stores; `Instead` takes the place of what it was trained with; rules, or a function that makes
      them of the outcome, store its vectors anew.

  Returns:
    A row for the trial and one for each link: see `measure.row`.
  """
  seeds = list(seeds)
  left = [s for s in seeds if not _done(trial, source, workdir, s, links)]
  for group in common.groups(left):
    together(trial, source, workdir, group)
  per_seed = [_seed(trial, source, workdir, s, links) for s in seeds]
  names = [trial.name, *(name for name, _ in links)]
  return [measure.row(name, [found[name] for found in per_seed]) for name in names]


def train(
  trial: Trial, source: columns.Source, workdir: pathlib.Path, seed: int
) -> tuple[Trial, Outcome, loop.Position]:
  """Trains one seed of a trial and of those it comes after, each from its last checkpoint.

  Args:
    trial: what to train.
    source: the data.
    workdir: the folder of all trials.
    seed: an integer.

  Returns:
    The trial with its rules spelt out, what was trained (after the best epoch), and how it went.
  """
  trial, before = _spelt(trial, source, workdir, seed)
  folder = workdir / trial.name / f'seed_{seed}'
  with common.locked(folder, wait=True):  # Rows run apart may come after the same trial.
    model, trained = fit(trial, source, folder, seed, before)
  tables, net = mesh.fetched(trained.state.tables), mesh.fetched(trained.state.net)
  stored = leaf.unflatten(model.codec.plan, stack.unpack(model.layout, tables))
  return trial, Outcome(trial.model(source), trial.rules, stored, net), trained.position


def outcome(
  trial: Trial, source: columns.Source, workdir: pathlib.Path, seed: int, link: Any = None
) -> Outcome:
  """What `train` gives, in the form of a link where one is given: what is served."""
  trial, found, _ = train(trial, source, workdir, seed)
  return found if link is None else _served(trial, found, source, link)


def together(trial: Trial, source: columns.Source, workdir: pathlib.Path, seeds: list[int]) -> None:
  """Trains seeds at once, so that `train` finds each of them done; stages before it likewise.

  Seeds for which a stage before has made rules of their own are other models: those that have the
  same rules are trained at once, and what is left alone is left to `train`.
  """
  if trial.after:
    together(trial.after, source, workdir, seeds)
  alike: dict[str, list] = {}
  for seed in seeds:
    spelt, before = _spelt(trial, source, workdir, seed)
    alike.setdefault(json.dumps(compress.describe(spelt.rules)), []).append((seed, spelt, before))
  for found in alike.values():
    if len(found) == 1:
      continue
    made = _made(found[0][1], source)
    with contextlib.ExitStack() as locks:
      runs = []
      for seed, spelt, before in found:
        folder = workdir / trial.name / f'seed_{seed}'
        locks.enter_context(common.locked(folder, wait=True))
        runs.append(_run(spelt, source, folder, seed, before, *made))
      _, model, recipe, _ = made
      seeds_lib.fit(runs, seeds_lib.FORMS[common.SEEDS_FORM.value](model, recipe))


def _spelt(trial, source, workdir, seed):
  """The trial with its rules spelt out, and what it comes after."""
  before = train(trial.after, source, workdir, seed)[1] if trial.after else None
  if callable(trial.rules):
    trial = dataclasses.replace(trial, rules=tuple(trial.rules(before)))
  return trial, before


def fit(
  trial: Trial,
  source: columns.Source,
  folder: pathlib.Path,
  seed: int,
  before: Outcome | None = None,
) -> tuple[predict.Model, loop.Trained]:
  """Trains one seed of one trial in `folder`, from its last checkpoint or from what came before."""
  made = _made(trial, source)
  return made[1], _run(trial, source, folder, seed, before, *made).fit()


def _made(trial, source):
  """The mesh, if there is one, the model, its recipe and its program: of all seeds."""
  on = cluster.chosen()
  model = trial.model(source, on=on)
  recipe = trial.optimizer.recipe(model)
  program = mesh.program(on, model, recipe) if on else step.program(model, recipe)
  return on, model, recipe, program


def _run(trial, source, folder, seed, before, on, model, recipe, program):
  def validate(state):
    return evaluate.evaluate(model, program.scorer, state.tables, state.net, source, 'valid')

  def start(state):
    given = trial.start(before, model, trial.rules)
    if given is None:
      return state
    tables = stack.pack(model.layout, leaf.flatten(given.stored))
    params = state_lib.dense_params(model, recipe, tables, given.net)
    begun = state._replace(tables=tables, net=given.net, opt=recipe.tx.init(params))
    return mesh.placed(on, model, recipe, begun) if on else begun

  described = trial.describe(source) | {'seed': seed}
  return loop.Run(
    model, program, trial.schedule, source, folder, described, seed, validate,
    name=f'{trial.name} seed {seed}', start=start if before else None, split=trial.split,
  )  # fmt: skip


def _done(trial, source, workdir, seed, links):
  """What was measured of a seed that is done, with these links; else None."""
  path = workdir / trial.name / f'seed_{seed}' / 'result.json'
  if not path.exists():
    return None
  saved = json.loads(path.read_text())
  same = saved['description'] == description(trial, source, seed)
  as_now = saved.get('version') == measure.VERSION
  return saved['measured'] if same and as_now and _measured(saved, links) else None


def _seed(trial, source, workdir, seed, links):
  done = workdir / trial.name / f'seed_{seed}' / 'result.json'
  measured = _done(trial, source, workdir, seed, links)
  if measured:
    journal.say(f'{trial.name}, seed {seed}: already done, see {done}')
    return measured
  described = description(trial, source, seed)
  trial, outcome, how = train(trial, source, workdir, seed)
  training = {'seed': seed} | measure.training(outcome.model, trial.optimizer, how)
  measured = {trial.name: training | measure.of(outcome, source)}
  for name, link in links:
    measured[name] = {'seed': seed} | measure.of(_served(trial, outcome, source, link), source)
  done_with = {name: applied(link) for name, link in links}
  found = {'description': described, 'links': done_with, 'measured': measured}
  found |= {'version': measure.VERSION}
  loop.write_json(done, found)
  return measured


def _measured(saved, links):
  """Whether a saved result has these links: of the same name, and the same in what they do."""
  before = saved.get('links', {})
  return all(n in before and before[n] == applied(link) for n, link in links)


def applied(link: Any) -> Any:
  """What a link does, as plain JSON; rules made of the outcome are a function, and are named."""
  if isinstance(link, Instead):
    return {'instead': compress.describe(link.link)}
  described = link.__name__ if callable(link) and hasattr(link, '__name__') else link
  return json.loads(json.dumps(compress.describe(described)))


def description(trial, source, seed):
  """What a result has to agree with, as plain JSON: the trial, and all that it comes after."""
  chain = []
  while trial is not None:
    rules = trial.rules.__name__ if callable(trial.rules) else trial.rules
    chain.append(dataclasses.replace(trial, rules=rules).describe(source))
    trial = trial.after
  return {'seed': seed, **chain[0], **({'before': chain[1:]} if chain[1:] else {})}


def _served(trial, outcome, source, link):
  """The outcome in the form of a link that is applied after training."""
  if isinstance(link, Instead):
    rules, link = (('.*', link.link),), link.link
  elif isinstance(link, compress.Technique):
    rules = compress.appended(trial.rules, link)
  else:
    rules = tuple(link(outcome) if callable(link) else link)
    return carried(outcome, trial.model(source, rules), rules)
  model = trial.model(source, rules)
  stored = compress.extend(outcome.model.codec.plan, outcome.stored, link)
  return Outcome(model, rules, stored, outcome.net)
