"""A full checkpoint and its deltas are the state, to the bit; a delta is as large as what moved."""

import functools
import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctr_jax import compress, models, predict
from ctr_jax.data import batches
from ctr_jax.tables import leaf, placement, rowwise, stack
from ctr_jax.train import checkpoint, deltas, loop, mesh, processes, seeds
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib
from tests.compress import techniques
from tests.train import snapshots, worker

HASHED = (
  ('item', compress.multi_hash(40, ways=2)),
  ('tags', compress.quotient_remainder(8)),
  ('user|category', compress.identity()),
  ('.*', compress.drop()),
)
# Halves, codes with their steps, leaves read whole, frozen ones, ids that read nothing.
MIXED = (
  ('user', compress.cast('bfloat16', rounding='stochastic')),
  ('item', compress.chain(compress.multi_hash(40, 2, 'weights'), compress.alpt(8))),
  ('noise', compress.chain(compress.hot_cold(100, compress.hash_trick(50)), compress.low_rank(2))),
  ('.*', compress.drop()),
)
ADAM = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(1e-3))
CASES = {
  'stacked, adagrad': (HASHED, stack.stacked, rowwise.adagrad(0.05, 1e-3)),
  'apart, lazy adam': (MIXED, stack.apart, rowwise.lazy_adam(0.05, 1e-3)),
  'dense': (HASHED[2:], stack.apart, None),
}
BATCH = 64


def build(rules, layout, source=None, dim=4):
  source = worker.tiny() if source is None else source
  net = models.NETS['dnn'](hidden=(8,), dropout=0.2)
  return predict.build(source.schema, source.rows, rules, net, dim, leaf.normal(0.1), layout)


@functools.cache
def made(name):
  rules, layout, rows = CASES[name]
  model, recipe = build(rules, layout), state_lib.Recipe(ADAM, rows)
  program = step_lib.program(model, recipe)
  first, like = jax.tree.map(np.asarray, program.create(5)), program.like()
  # Compiled once for all that begin anew.
  begin = functools.partial(jax.tree.map, jnp.array, first)
  return model, program._replace(create=lambda seed: begin(), like=lambda: like)


def columns(start=0):
  """Batches of clicks, from the one of number `start`."""
  source = worker.tiny()
  reader = batches.Batches(source, 'train', (*source.schema.names, 'label'), BATCH)
  return itertools.islice(itertools.chain(*map(reader.epoch, range(9))), start, None)


def trained(program, state, steps, saved=None, every=3):
  """`steps` more steps, with a checkpoint after every few of them where there is one to save to."""
  first = int(state.step)
  for i, found in enumerate(itertools.islice(columns(first), steps), first + 1):
    batch = program.batch(found)
    state, _ = program.step(state, batch)
    if saved is not None:
      saved.moved(batch)
      if i % every == 0:
        saved.save('last', state, {'step': i})
  return state


def same(found, want):
  found, want = (jax.tree_util.tree_leaves_with_path(x) for x in (found, want))
  for (path, x), (other, y) in zip(found, want, strict=True):
    assert path == other
    assert x.dtype == y.dtype, path
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), path


def names(folder):
  return sorted(p.name for p in (folder / 'deltas').glob('delta-*'))


def nbytes(folder):
  return sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=[pytest.mark.long] if i else []) for i, n in enumerate(CASES)]
)
def test_a_full_checkpoint_and_ten_deltas_are_the_state_to_the_bit(name, tmp_path):
  model, program = made(name)
  saved = checkpoint.Checkpoints(tmp_path, model, {}, deltas=10)
  state = trained(program, program.create(5), 33, saved)
  same(state, trained(program, program.create(5), 33))
  saved.close()
  assert names(tmp_path) == sorted(f'delta-{i}-{i + 3}' for i in range(3, 33, 3))
  assert [p.name for p in (tmp_path / 'last').iterdir()] == ['3']

  again = checkpoint.Checkpoints(tmp_path, model, {}, deltas=12)
  found, position = again.restore('last', program.like())
  assert position == {'step': 33}
  same(found, state)
  # What goes on from there is what would have been: two more deltas, a full one, another delta.
  found, state = trained(program, found, 12, again), trained(program, state, 12)
  same(found, state)
  again.close()
  assert [p.name for p in (tmp_path / 'last').iterdir()] == ['42']
  assert names(tmp_path) == ['delta-42-45']
  last = checkpoint.Checkpoints(tmp_path, model, {})  # Whoever makes none reads them.
  same(last.restore('last', program.like())[0], state)
  last.compact(program.like())
  assert not (tmp_path / 'deltas').exists()
  found, position = last.restore('last', program.like())
  assert position == {'step': 45}
  same(found, state)
  last.close()


def one_table(rows):
  """A model of one table of so many rows, of which the batches read the first few hundred."""
  source = worker.tiny()
  sizes = dict(source.rows) | {'user': rows}
  rules = (('user', compress.identity()), ('.*', compress.drop()))
  net = models.NETS['dnn'](hidden=(8,), dropout=0.0)
  model = predict.build(source.schema, sizes, rules, net, 4, leaf.normal(0.1))
  return model, state_lib.Recipe(ADAM, rowwise.adagrad(0.05))


def test_a_delta_is_as_large_as_what_was_touched_and_not_as_the_table(tmp_path):
  sizes, touched = [], set()
  for rows in (5_000, 50_000):
    model, recipe = one_table(rows)
    state = jax.eval_shape(lambda m=model, r=recipe: state_lib.init(m, r, 0))
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)
    found = deltas.Deltas(tmp_path / str(rows), model, 9)
    found.begin(state)
    for data in itertools.islice(columns(), 5):
      found.add(step_lib.batch(model, recipe, data))
      touched |= set(data['user'].tolist())
    found.save(state._replace(step=np.int32(5)), {})
    sizes.append(nbytes(tmp_path / str(rows)))
    part = tmp_path / str(rows) / 'delta-0-5' / 'rows' / 'user.bin'
    assert part.stat().st_size == len(touched) * (4 + 4 * 4 + 4)
  assert abs(sizes[1] / sizes[0] - 1) < 0.02


@pytest.mark.parametrize('every', [False, pytest.param(True, marks=pytest.mark.long)])
def test_interrupted_at_the_writes_of_compaction_nothing_is_lost(every, tmp_path, monkeypatch):
  model, recipe = one_table(50)
  state = jax.tree.map(np.asarray, state_lib.create(model, recipe, 0))
  folder = tmp_path / 'run'
  saved = checkpoint.Checkpoints(folder, model, {}, deltas=9)
  for step in (1, 2, 3):
    net = jax.tree.map(lambda x: x + np.float32(1), state.net)
    state = state._replace(step=np.asarray(step, np.int32), net=net)
    saved.save('last', state, {'step': step})
  saved.wait()
  with snapshots.taken(folder, tmp_path / 'copies', monkeypatch) as copies:
    saved.compact(state)
  saved.close()
  assert len(copies) > 30
  before, fulls = None, []
  for copy in [*copies, folder]:
    there = sorted(p.relative_to(copy).as_posix() for p in copy.glob('*/*'))
    if every or there != before:  # What else is written lies in folders that are not complete.
      found = checkpoint.Checkpoints(copy, model, {})
      fulls.append(found._managers['last'].latest_step())
      restored, position = found.restore('last', state)
      found.close()
      assert position == {'step': 3}
      same(restored, state)
    before = there
  assert fulls == sorted(fulls)
  assert set(fulls) == {1, 3}


def test_deltas_without_their_full_checkpoint_are_no_fresh_start(tmp_path):
  model, recipe = one_table(50)
  state = jax.tree.map(np.asarray, state_lib.create(model, recipe, 0))
  saved = checkpoint.Checkpoints(tmp_path, model, {}, deltas=9)
  for step in (1, 2):
    state = state._replace(step=np.asarray(step, np.int32))
    saved.save('last', state, {'step': step})
  saved.close()
  shutil.rmtree(tmp_path / 'last')
  found = checkpoint.Checkpoints(tmp_path, model, {})
  with pytest.raises(FileNotFoundError, match='the full checkpoint that they follow is missing'):
    found.restore('last', state)
  found.close()


def test_deltas_of_another_model_are_refused(tmp_path):
  model, recipe = one_table(50)
  state = jax.tree.map(np.array, state_lib.create(model, recipe, 0))
  saved = deltas.Deltas(tmp_path, model, 9)
  saved.begin(state)
  later = state._replace(step=np.asarray(1, np.int32))
  saved.add(step_lib.batch(model, recipe, next(columns()) | {'user': np.full(BATCH, 49)}))
  saved.save(later, {})
  same(deltas.Deltas(tmp_path, model, 0).restore(state, {})[0], later)
  smaller, _ = one_table(49)
  with pytest.raises(ValueError, match=r"delta-0-1 has rows of 'user', as this model has none"):
    deltas.Deltas(tmp_path, smaller, 0).restore(state, {})
  other = state._replace(seed=np.asarray(1, np.uint32))
  with pytest.raises(ValueError, match='it follows another full-0'):
    deltas.Deltas(tmp_path, model, 0).restore(other, {})


def test_several_processes_are_refused_in_words(tmp_path, monkeypatch):
  model, _ = one_table(50)
  monkeypatch.setattr(processes, 'joined', lambda: True)
  with pytest.raises(ValueError, match='by one process: leave out --deltas'):
    deltas.Deltas(tmp_path, model, 1)


def run(folder, seed=5, **schedule):
  """A run of two epochs, with checkpoints within; the second epoch is no better than the first."""
  model, program = made('stacked, adagrad')
  chosen = loop.Schedule(2, 256, min_delta=1, checkpoint_steps=3, **schedule)

  def validate(state):
    return {'auc': float(np.sum(state.net['params']['output']['bias']))}

  return loop.Run(model, program, chosen, worker.tiny(), folder, {}, seed, validate)


@pytest.mark.long
def test_a_run_with_deltas_that_dies_ends_with_the_bits_of_one_without(tmp_path, monkeypatch):
  class Killed(Exception):
    pass

  save, saves = checkpoint.Checkpoints.save, []

  def dies(self, kind, *args):
    save(self, kind, *args)
    saves.append(kind)
    if len(saves) in (2, 4, 9):
      raise Killed

  monkeypatch.setattr(checkpoint.Checkpoints, 'save', dies)
  for _ in range(3):
    with pytest.raises(Killed):
      run(tmp_path / 'killed', deltas=3).fit()
  found = run(tmp_path / 'killed', deltas=3).fit()
  assert names(tmp_path / 'killed' / 'checkpoints')
  monkeypatch.undo()
  want = run(tmp_path / 'whole').fit()
  same(found.last, want.last)
  same(found.state, want.state)
  assert found.position.misses == want.position.misses == 1


@pytest.mark.long
def test_seeds_at_once_save_deltas_of_their_own(tmp_path):
  rules, layout, rows = CASES['stacked, adagrad']
  together = seeds.side_by_side(build(rules, layout), state_lib.Recipe(ADAM, rows))
  seeds.fit([run(tmp_path / str(seed), seed, deltas=3) for seed in (5, 6)], together)
  for seed in (5, 6):
    folder = tmp_path / str(seed)
    assert names(folder / 'checkpoints')
    same(run(folder, seed).fit().last, run(tmp_path / 'alone' / str(seed), seed).fit().last)


@pytest.mark.long
@pytest.mark.parametrize('name', sorted(techniques.TECHNIQUES))
def test_every_technique_is_restored_to_the_bit(name, tmp_path):
  """Trained in full by the row optimizer, and stacked."""
  rules = (('user|item', techniques.TECHNIQUES[name]), ('.*', compress.drop()))
  model, recipe = build(rules, stack.stacked, dim=6), state_lib.Recipe(ADAM, rowwise.adagrad(0.05))
  program = step_lib.program(model, recipe)
  saved = deltas.Deltas(tmp_path, model, 9)
  first = program.create(1)
  saved.begin(first)
  first, state = jax.tree.map(np.array, first), first
  for i, found in enumerate(itertools.islice(columns(), 4), 1):
    batch = program.batch(found)
    state, _ = program.step(state, batch)
    saved.add(batch)
    if i % 2 == 0:
      saved.save(state, {})
  assert len(list(tmp_path.glob('delta-*'))) == 2
  same(deltas.Deltas(tmp_path, model, 0).restore(first, {})[0], state)


PLACES = {
  'split': ((2, 2), (('.*', placement.rows(least=30)),)),
  'host': ((1, 1), (('user|category', placement.host()), ('.*', placement.rows(least=30)))),
}


@pytest.mark.long
@pytest.mark.parametrize('place', PLACES)
def test_on_a_mesh_of_one_process_and_from_the_host(place, tmp_path):
  (data, over), rules = PLACES[place]
  recipe = state_lib.Recipe(ADAM, rowwise.adagrad(0.05, 1e-3))
  on = mesh.Cluster(mesh.make(data, over), rules, lanes=16)
  model = build(HASHED, on.layout)
  program = mesh.program(on, model, recipe)
  saved = checkpoint.Checkpoints(tmp_path, model, {}, deltas=5)
  state = trained(program, program.create(5), 12, saved)
  saved.close()
  assert len(names(tmp_path)) == 3
  again = checkpoint.Checkpoints(tmp_path, model, {})
  found, _ = again.restore('last', program.like())
  again.close()
  same(found, state)
  for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
    assert type(x) is type(y)
    assert isinstance(x, np.ndarray) or x.sharding.is_equivalent_to(y.sharding, x.ndim)
  # One device reads what a mesh has written.
  apart = build(HASHED, stack.apart)
  alone = checkpoint.Checkpoints(tmp_path, apart, {})
  found, _ = alone.restore('last', step_lib.program(apart, recipe).like())
  alone.close()
  same(found.tables, stack.unpack(model.layout, mesh.fetched(state.tables)))
