"""Seeds trained at once are seeds trained one by one: states, metrics, journals and checkpoints."""

import dataclasses
import functools
import itertools
import json
import os
import shutil
import signal
import types

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from ctr_jax import compress
from ctr_jax.data import batches, synthetic
from ctr_jax.evaluate import evaluate
from ctr_jax.train import loop, seeds
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib
from experiments import common, optimizers, trials

SOURCE = synthetic.Synthetic(synthetic.small())
SEEDS = (0, 1)
CODES = compress.chain(compress.multi_hash(64, ways=2), compress.alpt(8))
DROPPED = ('.*', compress.drop())
RULES = {
  'full': (('user|item', compress.identity()), DROPPED),
  'codes': (('user', compress.identity()), ('item', CODES), DROPPED),
}
SCHEDULE = loop.Schedule(epochs=3, batch_size=512, patience=1, min_delta=-1, monitor='goal')


def trial(rules):
  net = {'hidden': (16,), 'dropout': 0.2}
  return trials.Trial(
    'tiny', RULES[rules], 'dnn', net, dim=4, optimizer=optimizers.Optimizer(), schedule=SCHEDULE
  )


@functools.cache
def made(rules):
  model = trial(rules).model(SOURCE)
  recipe = trial(rules).optimizer.recipe(model)
  # Compiled once for all seeds.
  create = jax.jit(lambda seed: state_lib.init(model, recipe, seed))
  like = jax.eval_shape(lambda: state_lib.init(model, recipe, 0))
  program = step_lib.program(model, recipe)._replace(create=create, like=lambda: like)
  return model, recipe, program, seeds.side_by_side(model, recipe)


def run_of(rules, folder, seed, **schedule):
  model, _, program, _ = made(rules)

  def validate(state):
    found = evaluate.evaluate(model, program.scorer, state.tables, state.net, SOURCE, 'valid')
    # Seed 1 is never better again, and stops after two epochs.
    return found | {'goal': -10.0 * int(state.step) if seed == 1 else found['auc']}

  chosen = dataclasses.replace(SCHEDULE, **schedule)
  described = {'rules': rules, 'seed': seed}
  return loop.Run(model, program, chosen, SOURCE, folder / str(seed), described, seed, validate)


def runs(rules, folder, chosen=SEEDS, **schedule):
  return [run_of(rules, folder, seed, **schedule) for seed in chosen]


@functools.cache
def one_by_one(rules, root):
  return [run.fit() for run in runs(rules, root / f'{rules}_one_by_one')]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return tmp_path_factory.mktemp('seeds')


def measured(position):
  return [{k: v for k, v in x.items() if 'per_second' not in k} for x in position.history]


def equal(found, want):
  for name in ('state', 'last'):
    ours, theirs = (jax.tree.leaves(getattr(x, name)) for x in (found, want))
    for x, y in zip(ours, theirs, strict=True):
      assert x.dtype == y.dtype
      assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
  assert measured(found.position) == measured(want.position)
  for name in ('epoch', 'best', 'best_epoch', 'misses', 'done'):
    assert getattr(found.position, name) == getattr(want.position, name)


@pytest.mark.long  # Bits, of programs as they are compiled outside of tests.
def test_seeds_at_once_have_the_bits_of_one_by_one(root, tmp_path):
  want = one_by_one('codes', root)
  _, _, program, together = made('codes')
  before = together.step._cache_size()
  positions = seeds.fit(runs('codes', tmp_path), together)
  assert [position.epoch for position in positions] == [3, 2]
  compiled = program.step._cache_size()
  for seed, run, one in zip(SEEDS, runs('codes', tmp_path), want, strict=True):
    equal(run.fit(), one)
    lines = (tmp_path / str(seed) / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(line)['epoch'] for line in lines] == list(range(1, one.position.epoch + 1))
  assert [float(x.last.scale) < 1 for x in want] == [False, True]
  assert program.step._cache_size() == compiled  # They were done: no step was taken.
  # Two seeds, and one after the other had stopped: nothing else was compiled.
  assert together.step._cache_size() <= before + 2


@pytest.mark.long  # Bits, of programs as they are compiled outside of tests.
def test_an_interrupted_run_goes_on_at_once_or_one_by_one(root, tmp_path):
  _, _, _, together = made('codes')
  want = one_by_one('codes', root)
  calls = itertools.count(1)

  def step(held, inputs):
    if next(calls) == 5:
      os.kill(os.getpid(), signal.SIGTERM)
    return together.step(held, inputs)

  # One seed is a step ahead of the other from then on.
  ahead = run_of('codes', tmp_path, 1)
  ahead._terminated.set()
  with pytest.raises(loop.Interrupted):
    ahead.fit()
  ahead.close()
  with pytest.raises(loop.Interrupted, match=r'epoch 1, step 5 in .*step 6 in') as caught:
    seeds.fit(runs('codes', tmp_path), together._replace(step=step))
  assert str(tmp_path / '1') in str(caught.value)
  equal(run_of('codes', tmp_path, 0).fit(), want[0])
  seeds.fit(runs('codes', tmp_path), together)
  for run, one in zip(runs('codes', tmp_path), want, strict=True):
    equal(run.fit(), one)


def prepared(rules, seed, steps):
  model, recipe, _, _ = made(rules)
  stream = batches.Batches(SOURCE, 'train', (*model.columns, 'label'), 512, seed=seed).epoch(0)
  return [step_lib.batch(model, recipe, x) for x in itertools.islice(stream, steps)]


def test_stacked_seeds_are_equal_up_to_rounding():
  model, recipe, program, _ = made('full')
  together = seeds.stacked(model, recipe)
  given = [prepared('full', seed, 3) for seed in (0, 1)]
  held = together.join([program.create(seed) for seed in (0, 1)])
  held = together.rescaled(held, 1, np.float32(0.5))
  states = [program.create(seed) for seed in (0, 1)]
  states[1] = states[1]._replace(scale=np.float32(0.5))
  for each in zip(*given, strict=True):
    held, metrics = together.step(held, together.inputs(list(each)))
    assert metrics['loss'].shape == (2,)
    states = [program.step(s, x)[0] for s, x in zip(states, each, strict=True)]
  assert together.step._cache_size() == 1
  kept = together.take(together.keep(held, [1]), 0)
  for found, want in ((together.take(held, 0), states[0]), (kept, states[1])):
    for x, y in zip(
      jax.tree.leaves((found.tables, found.net)), jax.tree.leaves((want.tables, want.net)),
      strict=True,
    ):  # fmt: skip
      assert np.linalg.norm(x - y) <= 1e-5 * np.linalg.norm(y) + 1e-9


@pytest.mark.parametrize('form', seeds.FORMS)
def test_a_step_makes_nothing_of_a_tables_size(form):
  rows = dict.fromkeys(SOURCE.rows, 200_000)
  large = types.SimpleNamespace(schema=SOURCE.schema, rows=rows)
  model = trial('full').model(large)
  recipe = trial('full').optimizer.recipe(model)
  together = seeds.FORMS[form](model, recipe)
  like = jax.eval_shape(lambda: state_lib.init(model, recipe, 0))
  if form == 'stacked':
    held = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), like)
  else:
    held = (like, like)
  stream = batches.Batches(SOURCE, 'train', (*model.columns, 'label'), 512).epoch(0)
  batch = step_lib.batch(model, recipe, next(stream))
  compiled = together.step.lower(held, together.inputs([batch, batch])).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 200_000 * 4 * 4


def test_where_seeds_cannot_be_trained_at_once_it_says_so(tmp_path):
  _, _, program, together = made('full')
  run = run_of('full', tmp_path, 0)
  split = program.scorer._replace(multiple=2)
  run.program = program._replace(scorer=split)
  with pytest.raises(ValueError, match='on one device: leave out the mesh'):
    seeds.fit([run], together)

  def like():
    return program.like()._replace(tables={'user': np.zeros((3, 4), np.float32)})

  run.program = program._replace(like=like)
  with pytest.raises(ValueError, match=r"'user'.*: tables in the host's memory"):
    seeds.fit([run], together)
  run.close()


@pytest.fixture
def parsed():
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver():
    yield flags.FLAGS


def test_seeds_are_grouped_and_meshes_are_refused(parsed):
  assert common.groups(range(5)) == []
  parsed.seeds_at_once = 2
  assert common.groups(range(5)) == [[0, 1], [2, 3]]
  parsed.mesh = '2x1'
  with pytest.raises(ValueError, match='by one process on one device'):
    common.groups(range(5))


def test_trials_and_their_stages_are_trained_at_once(parsed, tmp_path, monkeypatch):
  schedule = loop.Schedule(epochs=1, batch_size=512)
  first = trials.Trial('first', RULES['full'], 'fm', dim=2, schedule=schedule)
  half = (('user|item', compress.cast('float16')), DROPPED)
  after = dataclasses.replace(first, name='after', after=first, rules=lambda outcome: half)
  at_once = []
  fit = seeds.fit
  monkeypatch.setattr(seeds, 'fit', lambda runs, how: at_once.append(len(runs)) or fit(runs, how))
  parsed.seeds_at_once = 2
  (found,) = trials.run(after, SOURCE, tmp_path, [0, 1])
  assert at_once == [2, 2]
  assert found['seeds'] == [0, 1]
  parsed.seeds_at_once = 1
  assert trials.run(after, SOURCE, tmp_path, [0, 1]) == [found]
  shutil.rmtree(tmp_path / 'after/seed_1')
  (alone,) = trials.run(after, SOURCE, tmp_path, [1])
  for name in ('test', 'epochs', 'best_epoch', 'valid_best'):
    assert (
      jax.tree.map(lambda x: x[1:], found[name], is_leaf=lambda x: isinstance(x, list))
      == (alone[name])
    )
  assert at_once == [2, 2]
