"""A full checkpoint and its deltas are the state, to the bit; a delta's size is that of what moved."""

import functools
import itertools

import jax
import numpy as np
import optax
import pytest

from ctr_jax import compress, models, predict
from ctr_jax.data import batches
from ctr_jax.tables import leaf, placement, rowwise, stack
from ctr_jax.train import checkpoint, deltas, mesh, processes
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib
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


def build(rules, layout, source=None):
  source = worker.tiny() if source is None else source
  net = models.NETS['dnn'](hidden=(8,), dropout=0.2)
  return predict.build(source.schema, source.rows, rules, net, 4, leaf.normal(0.1), layout)


@functools.cache
def made(name):
  rules, layout, rows = CASES[name]
  model, recipe = build(rules, layout), state_lib.Recipe(ADAM, rows)
  return model, step_lib.program(model, recipe)


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


@pytest.mark.parametrize('name', CASES)
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


@pytest.mark.parametrize('every', [True, pytest.param(False, marks=pytest.mark.long)])
def test_interrupted_at_every_write_of_compaction_nothing_is_lost(every, tmp_path, monkeypatch):
  del every
  model, recipe = one_table(50)
  state = jax.tree.map(np.asarray, state_lib.create(model, recipe, 0))
  folder = tmp_path / 'run'
  saved = checkpoint.Checkpoints(folder, model, {}, deltas=9)
  for step in (1, 2):
    state = state._replace(step=np.int32(step), net=jax.tree.map(lambda x: x + 1, state.net))
    saved.save('last', state, {'step': step})
  saved.wait()
  with snapshots.taken(folder, tmp_path / 'copies', monkeypatch) as copies:
    saved.compact(state)
  saved.close()
  print(len(copies))
