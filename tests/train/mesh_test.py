"""Training on a mesh is training on one device: any mesh, any placement, any size of bucket."""

import functools
import re

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from ctr_jax import compress
from ctr_jax.evaluate import evaluate
from ctr_jax.tables import placement, rowwise, stack
from ctr_jax.train import checkpoint, mesh
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib
from tests.train import cluster_worker as small

COLUMNS = (('user|category', placement.columns()), *small.SPLIT)
BOTH = (
  ('user', placement.rows(('data', 'model'), least=1)),
  ('.*', placement.rows('data', least=60)),
)
HOST = (('user|category', placement.host()), *small.SPLIT)
COPIES = (('.*', placement.replicated()),)


@pytest.fixture(autouse=True, scope='module')
def _cached_again():
  # A mesh of CPUs takes no programs from the compilation cache; the tests after it may.
  yield
  jax.config.update('jax_enable_compilation_cache', True)
  compilation_cache.reset_cache()


def close(found, want):
  """Equal to 1e-5 of its norm, array by array; and no array is missing."""
  assert found.keys() == want.keys()
  for name in want:
    error = np.linalg.norm(found[name].astype(np.float64) - want[name])
    assert error <= 1e-5 * np.linalg.norm(want[name].astype(np.float64)) + 1e-12, name


def cluster(data, model, rules=small.SPLIT, slack=1.25):
  return mesh.Cluster(mesh.make(data, model), rules, lanes=16, slack=slack)


@functools.cache
def one_device(techniques):
  model = small.build(stack.apart, getattr(small, techniques))
  state, metrics = small.steps(step_lib.program(model, small.RECIPE))
  return small.arrays_of(model, state), metrics


@pytest.mark.parametrize(
  'data, model, techniques, rules, slack',
  [
    pytest.param(1, 1, 'RULES', small.SPLIT, 1.25, marks=pytest.mark.long),
    pytest.param(8, 1, 'RULES', small.SPLIT, 1.25, marks=pytest.mark.long),
    pytest.param(1, 8, 'RULES', small.SPLIT, 0.01, marks=pytest.mark.long),
    (2, 4, 'RULES', small.SPLIT, 0.3),
    (4, 2, 'SLIM', BOTH, 16),
    (2, 2, 'SLIM', HOST, 1.25),
    (2, 2, 'SLIM', COPIES, 1.25),
  ],
)
def test_fifty_steps_are_those_of_one_device(data, model, techniques, rules, slack):
  on = cluster(data, model, rules, slack)
  built = small.build(on.layout, getattr(small, techniques))
  state, metrics = small.steps(mesh.program(on, built, small.RECIPE))
  want, losses = one_device(techniques)
  close(small.arrays_of(built, state), want)
  np.testing.assert_allclose([m['loss'] for m in metrics], [m['loss'] for m in losses], rtol=1e-5)
  assert all(m.get('imbalance', 1) >= 1 for m in metrics)
  if slack != 1.25:  # A bucket that is too small is counted, and changes nothing.
    assert (max(m['overflow'] for m in metrics) > 0) == (slack < 1)


def test_columns_are_split_where_the_optimizer_keeps_nothing_for_rows():
  recipe = small.RECIPE._replace(rows=rowwise.adagrad(0.05, 1e-3, per='element'))
  apart = small.build(stack.apart, small.SLIM)
  want = small.arrays_of(apart, small.steps(step_lib.program(apart, recipe), 5)[0])
  on = cluster(2, 4, COLUMNS)
  built = small.build(on.layout, small.SLIM)
  state, _ = small.steps(mesh.program(on, built, recipe), 5)
  assert state.tables['user'].sharding.shard_shape(state.tables['user'].shape)[1] == 1
  close(small.arrays_of(built, state), want)
  with pytest.raises(ValueError, match=r"'category' is split by columns, and its optimizer keeps"):
    mesh.program(on, built, small.RECIPE)


@pytest.mark.parametrize('rules', [COPIES, HOST])
def test_a_split_is_scored_as_on_one_device(rules):
  source, tables = small.worker.tiny(), (('user', compress.identity()), ('.*', compress.drop()))
  net = small.models.NETS['lr']()

  def scored(program_of, layout):
    built = small.predict.build(source.schema, source.rows, tables, net, 1, layout=layout)
    program = program_of(built)
    state = program.create(3)
    args = program.scorer, state.tables, state.net, source, 'test', 96
    return evaluate.scores(built, *args).logits

  on = cluster(2, 2, rules)
  found = scored(lambda built: mesh.program(on, built, small.RECIPE), on.layout)
  want = scored(lambda built: step_lib.program(built, small.RECIPE), stack.apart)
  assert np.ptp(want) > 0
  np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-6)


def lowered(rows, on, batch=256):
  """Collectives of a step for one table of so many rows: [(operation, elements)]."""
  source = small.worker.tiny()
  sizes = dict(source.rows) | {'user': rows}
  rules = (('user', compress.identity()), ('.*', compress.drop()))
  net = small.models.NETS['dnn'](hidden=(4,), dropout=0.0, batch_norm=False)
  built = small.predict.build(source.schema, sizes, rules, net, 4, layout=on.layout)
  program = mesh.program(on, built, small.RECIPE)
  columns = source.read('train', ('user', 'label'), 0, batch)
  compiled = program.step.lower(program.like(), program.batch(columns)).compile()
  found = []
  for line in compiled.as_text().splitlines():
    match = re.search(r'= (.*?) (all-to-all|all-gather|all-reduce|reduce-scatter)\(', line)
    if match:
      shapes = re.findall(r'\w+\[([\d,]*)\]', match.group(1))
      sizes = [np.prod([int(x) for x in s.split(',') if x], dtype=int) for s in shapes]
      found.append((match.group(2), int(sum(sizes))))
  assert found
  return found


def test_collectives_go_with_the_batch_and_not_with_the_table():
  on = cluster(2, 4, slack=1.25)
  found = lowered(1 << 12, on)
  assert 'all-to-all' in {name for name, _ in found}
  assert found == lowered(1 << 16, on)
  # 32 reads a device, in 4 buckets of 10 rows of 4 numbers, gathered from 2 copies: 2.5 times.
  unique = 256 // 8
  assert max(size for _, size in found) <= 2.5 * unique * 4


@pytest.mark.long  # Bits, of programs as they are compiled outside of tests.
def test_states_are_made_alike_on_any_mesh():
  want = small.build(stack.apart)
  state = state_lib.create(want, small.RECIPE, 5)
  on = cluster(2, 4)
  built = small.build(on.layout)
  made = mesh.program(on, built, small.RECIPE).create(5)
  assert made.tables['user'].sharding.shard_shape(made.tables['user'].shape)[0] * 4 == 304
  found, wanted = small.arrays_of(built, made), small.arrays_of(want, state)
  for name in wanted:
    np.testing.assert_array_equal(found[name], wanted[name])


PLACES = {
  'split over 8': (1, 8, small.SPLIT),
  'split over 2': (1, 2, small.SPLIT),
  'one device': (1, 1, small.SPLIT),
  'copies': (2, 2, COPIES),
  'host': (1, 1, HOST),
}


@functools.cache
def placed(name):
  data, model, rules = PLACES[name]
  on = cluster(data, model, rules)
  built = small.build(on.layout, small.SLIM)
  return built, mesh.program(on, built, small.RECIPE)


@pytest.mark.long
def test_checkpoints_restore_on_any_other_mesh(tmp_path):
  want = {}
  for name in PLACES:
    built, program = placed(name)
    saved = checkpoint.Checkpoints(tmp_path / name, built, {})
    state = program.create(11)
    saved.save('last', state, {'step': 0})
    saved.close()
    want[name] = small.arrays_of(built, state)
  for source in PLACES:
    for target in PLACES:
      built, program = placed(target)
      reader = checkpoint.Checkpoints(tmp_path / source, built, {})
      state, _ = reader.restore('last', program.like())
      reader.close()
      found = small.arrays_of(built, state)
      assert found.keys() == want[source].keys()
      for name, x in found.items():
        np.testing.assert_array_equal(x, want[source][name], err_msg=f'{source} → {target}: {name}')
      like = program.like()
      for name, x in state.tables.items():
        if isinstance(like.tables[name], np.ndarray):
          assert isinstance(x, np.ndarray)
        else:
          assert x.sharding.is_equivalent_to(like.tables[name].sharding, x.ndim)


@pytest.mark.parametrize(
  'rules, words',
  [
    ((('user', placement.rows()),), "No placement for array 'category'"),
    ((('item/.*', placement.columns()), *small.SPLIT), 'which 4 devices cannot share evenly'),
  ],
)
def test_placements_that_cannot_be_are_refused_in_words(rules, words):
  on = cluster(2, 4, rules)
  with pytest.raises(ValueError, match=re.escape(words)):
    mesh.program(on, small.build(on.layout), small.RECIPE)


def test_a_state_is_placed_on_the_mesh_and_on_its_host():
  on = cluster(1, 2, HOST)
  built = small.build(on.layout)
  shapes = jax.eval_shape(lambda: state_lib.init(built, small.RECIPE, 0))
  state = jax.tree.map(lambda x: np.arange(x.size, dtype=x.dtype).reshape(x.shape), shapes)
  found = mesh.placed(on, built, small.RECIPE, state)
  jax.tree.map(np.testing.assert_array_equal, found, state)
  like = mesh.program(on, built, small.RECIPE).like()

  def same_place(one, other):
    if isinstance(other, np.ndarray):
      assert isinstance(one, np.ndarray) and one.flags.writeable  # Steps change it in place.
    else:
      assert one.sharding == other.sharding

  jax.tree.map(same_place, (found.tables, found.slots), (like.tables, like.slots))
  assert isinstance(found.slots['user']['sum'], np.ndarray)


def test_the_dense_mode_and_split_tables_do_not_go_together():
  on = cluster(1, 8)
  dense = small.RECIPE._replace(rows=None)
  with pytest.raises(ValueError, match='need a row optimizer'):
    mesh.program(on, small.build(on.layout), dense)
  with pytest.raises(ValueError, match='A mesh of 4×4 needs 16 devices, there are 8'):
    mesh.make(4, 4)
