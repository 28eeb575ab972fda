"""What a run starts from, what it compiles and where it leaves."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctr_jax import compress, models, predict
from ctr_jax.tables import leaf, rowwise, stack
from ctr_jax.train import checkpoint, hosted, loop, seeds
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib
from tests.train import worker

RULES = (('user|item|category', compress.identity()), ('.*', compress.drop()))
RECIPE = state_lib.Recipe(optax.adam(1e-3), rowwise.sgd(0.01))


@functools.cache
def model():
  return other_model()


def other_model(rules=RULES, **rows):
  source = worker.tiny()
  net = models.NETS['dnn'](hidden=(4,))
  sizes = source.rows | rows
  return predict.build(source.schema, sizes, rules, net, 4, leaf.normal(0.1), stack.apart)


def run(folder, program, validate, *, seed=0, **schedule):
  schedule = loop.Schedule(**{'epochs': 3, 'batch_size': 256, 'patience': 9} | schedule)
  return loop.Run(model(), program, schedule, worker.tiny(), folder, {}, seed, validate)


def worse_each_time(state):
  return {'auc': 1 - 1e-3 * int(state.step)}


def test_a_step_from_drawn_and_restored_arrays_is_compiled_once():
  drawn, host = jnp.arange(4.0), np.arange(3)
  restored = jax.device_put(jnp.arange(4.0), jax.devices()[0])
  assert not drawn.committed and restored.committed
  state = state_lib.State(0, 0, 0, {'a': drawn, 'b': restored, 'c': host}, {}, {}, ())
  step = jax.jit(lambda a, b: (a + 1, b + a))
  held = loop.committed(state).tables
  assert held['c'] is host
  assert held['a'].unsafe_buffer_pointer() == drawn.unsafe_buffer_pointer()  # No copy.
  step(*step(held['a'], held['b']))
  assert step._cache_size() == 1
  mixed = jax.jit(lambda a, b: (a + 1, b + a))
  mixed(*mixed(drawn, restored))
  assert mixed._cache_size() == 2  # What it is held for.


def test_what_is_monitored_is_measured(tmp_path):
  program = step_lib.program(model(), RECIPE)
  asked = run(tmp_path, program, lambda state: {'auc': 0.5, 'log_loss': 0.7}, monitor='gauc')
  with pytest.raises(ValueError, match=r"'gauc' is to be monitored, .* measures auc, log_loss"):
    asked.validate(None, loop.Position())


def test_an_epoch_without_improvement_compiles_nothing(tmp_path):
  program = step_lib.program(model(), RECIPE)
  compiled = []

  def validate(state):
    compiled.append(program.step._cache_size())
    return worse_each_time(state)

  assert run(tmp_path / 'one', program, validate).fit().position.misses == 2
  assert compiled == [1, 1, 1]
  together = seeds.side_by_side(model(), RECIPE)
  both = [run(tmp_path / f'{k}', program, worse_each_time, seed=k) for k in range(2)]
  seeds.fit(both, together)
  assert together.step._cache_size() == 1


@pytest.mark.parametrize('together', [None, seeds.side_by_side])
def test_whoever_leaves_at_the_end_of_an_epoch_is_validated_before(tmp_path, together):
  program = step_lib.program(model(), RECIPE)
  leaving = run(tmp_path, program, worse_each_time, epochs=2)
  last, note, terminated = leaving.batches.steps_per_epoch, leaving.note, leaving._terminated

  def ends(metrics, inputs, position):
    if (position.epoch, position.step) == (1, last - 1):
      terminated.set()
    return note(metrics, inputs, position)

  leaving.note = ends
  if together is None:
    fit = leaving.fit
  else:
    runs = seeds._Runs([leaving], together(model(), RECIPE))
    runs._terminated, fit = terminated, runs.fit
  # There is nothing left to leave, but what comes after must not begin.
  with pytest.raises(loop.Interrupted, match='finished and saved'):
    fit()
  checkpoints = checkpoint.Checkpoints(tmp_path / 'checkpoints', model(), {}, 0)
  state, position = checkpoints.restore('last', program.like())
  checkpoints.close()
  assert (position['epoch'], position['done'], position['misses']) == (2, True, 1)
  assert float(state.scale) == pytest.approx(0.1)


@pytest.mark.parametrize('on_host', [(), ('user',)])
def test_a_loss_that_is_not_finite_is_said_wherever_tables_are(tmp_path, on_host):
  recipe = RECIPE._replace(tx=optax.sgd(float('nan')))
  program = (
    hosted.program(model(), recipe, on_host, lambda rest: step_lib.program(rest, recipe))
    if on_host
    else step_lib.program(model(), recipe)
  )
  with pytest.raises(loop.Diverged, match='Lower the learning rate'):
    run(tmp_path, program, worse_each_time).fit()


@pytest.mark.parametrize('more', [-1, 1])
def test_a_table_of_the_host_is_not_restored_with_other_rows(tmp_path, more):
  def begun(built):
    on_host = hosted.program(built, RECIPE, ('user',), lambda x: step_lib.program(x, RECIPE))
    return checkpoint.Checkpoints(tmp_path, built, {}), on_host.like()

  saved, like = begun(model())
  saved.save('last', jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like), {})
  saved.close()
  rows = model().rows['user']
  other, like = begun(other_model(user=rows + more))
  words = rf"'user' of shape \[{rows}, 4\].* wants \[{rows + more}, 4\]"
  with pytest.raises(ValueError, match=words):
    other.restore('last', like)
  other.close()


def test_the_dense_mode_refuses_rows_that_are_written_in_a_way_of_their_own():
  rules = (('user', compress.cast('float16', 'stochastic')), *RULES)
  with pytest.raises(ValueError, match="'user' is rounded in a way of its own"):
    step_lib.program(other_model(rules), RECIPE._replace(rows=None)).like()


class Killed(Exception):
  pass


def test_an_epoch_whose_checkpoint_is_on_disk_is_in_the_journal(tmp_path):
  program = step_lib.program(model(), RECIPE)
  killed = run(tmp_path, program, worse_each_time, epochs=2)
  save = killed.save

  def dies(state, position):
    save(state, position)
    killed._checkpoints.wait()
    raise Killed

  killed.save = dies
  with pytest.raises(Killed):
    killed.fit()
  assert run(tmp_path, program, worse_each_time, epochs=2).fit().position.epoch == 2
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['epoch'] for line in lines] == [1, 2]


def test_a_last_checkpoint_that_is_the_best_stands_in_for_it(tmp_path):
  """As where a kill came between the two, which are written at the same time."""
  program = step_lib.program(model(), RECIPE)
  first = run(tmp_path, program, worse_each_time, epochs=1).fit()
  for saved in (tmp_path / 'checkpoints' / 'best').iterdir():
    shutil.rmtree(saved)
  again = run(tmp_path, program, worse_each_time, epochs=1).fit()
  jax.tree.map(np.testing.assert_array_equal, again.state, first.state)


def test_no_later_checkpoint_is_written_before_the_best_one_is(tmp_path, monkeypatch):
  state = jax.tree.map(np.asarray, step_lib.program(model(), RECIPE).create(0))
  saved, events = checkpoint.Checkpoints(tmp_path, model(), {}, deltas=9), []
  wait, save = saved._managers['best'].wait_until_finished, saved._deltas.save
  monkeypatch.setattr(
    saved._managers['best'], 'wait_until_finished', lambda: (wait(), events.append('waited'))
  )
  monkeypatch.setattr(saved._deltas, 'save', lambda *a: (save(*a), events.append('saved')))
  for step, kinds in ((1, ('last',)), (2, ('best', 'last')), (3, ('last',))):
    for kind in kinds:
      saved.save(kind, state._replace(step=np.int32(step)), {})
  assert events[-3:] == ['saved', 'waited', 'saved']
  saved.close()
