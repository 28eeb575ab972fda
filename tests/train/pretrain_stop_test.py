"""Pre-training that is told to stop, has nothing held out, nothing to learn from, or diverges."""

import dataclasses

import numpy as np
import pytest

from ctr_jax.data import pairs
from ctr_jax.graphs import graph, sample
from ctr_jax.train import journal, loop, pretrain

CONFIG = pretrain.Config('gnn', dim=3, l2=1.0, steps=12, every=4, patience=100)
SAMPLED = dataclasses.replace(CONFIG, batch_edges=64, fanout=3)


def small():
  rng = np.random.default_rng(0)
  u, v = (x.astype(np.int32) + 1 for x in np.divmod(rng.choice(800, 300, replace=False), 20))
  count = rng.integers(1, 30, 300)
  made = pairs.Pairs('a', 'b', u, v, rng.binomial(count, 0.3), count)
  return graph.build([made], {'a': 'a', 'b': 'b'}, {'a': 41, 'b': 21}, 0.3)


def stop_at(monkeypatch, thing, name, times):
  """A SIGTERM that is noticed while `thing.name` is called for the so-manyth time."""
  runs, real, calls = [], getattr(thing, name), []
  start = pretrain._Run.__init__

  def init(self, *args):
    start(self, *args)
    runs.append(self)

  def call(self, *args):
    calls.append(args)
    if len(calls) == times:
      runs[-1]._terminated.set()
    return real(self, *args)

  monkeypatch.setattr(pretrain._Run, '__init__', init)
  monkeypatch.setattr(thing, name, call)


@pytest.mark.parametrize(
  ('config', 'thing', 'name', 'times', 'at'),
  [
    (CONFIG, journal._Bar, 'update', 1, (4,)),
    (SAMPLED, journal._Bar, 'update', 2, (8,)),
    # The parts are drawn ahead, so the step that notices may be an earlier one.
    (SAMPLED, sample.Sampler, 'batch', 6, (5, 6)),
  ],
)
def test_sigterm_saves_says_so_and_changes_no_bit(
  monkeypatch, tmp_path, config, thing, name, times, at
):
  want = pretrain.pretrain(small(), config, tmp_path / 'whole', 0)
  with monkeypatch.context() as patch:
    stop_at(patch, thing, name, times)
    with pytest.raises(loop.Interrupted, match='SIGTERM: saved step') as caught:
      pretrain.pretrain(small(), config, tmp_path / 'left', 0)
  assert any(f'saved step {step} in' in str(caught.value) for step in at), str(caught.value)
  assert not (tmp_path / 'left' / 'history.json').exists()
  found = pretrain.pretrain(small(), config, tmp_path / 'left', 0)
  np.testing.assert_array_equal(found.vectors, want.vectors)
  assert found.history == want.history


def test_an_epoch_of_sampled_steps_is_permuted_once():
  sampler = sample.Sampler(small(), 64, hops=1, fanout=3, seed=0)
  assert sampler.steps_per_epoch == 4
  for step in range(8):
    sampler.batch(step)
  assert sampler._order.cache_info().misses == 2


def test_nothing_held_out_stops_by_what_is_known(tmp_path):
  config = dataclasses.replace(CONFIG, held_out=0.0)
  found = pretrain.pretrain(small(), config, tmp_path, 0)
  assert [sorted(look) for look in found.history] == 3 * [['seen', 'step']]
  assert found.best == min(found.history, key=lambda look: look['seen'])
  assert found.best['step'] == 12  # It goes on learning.


def test_everything_held_out_is_refused(tmp_path):
  with pytest.raises(ValueError, match='leaves none of 300 edges'):
    pretrain.pretrain(small(), dataclasses.replace(CONFIG, held_out=1.0), tmp_path, 0)


def test_an_error_that_is_not_finite_stops_in_words(tmp_path):
  with pytest.raises(loop.Diverged, match='lower the learning rate'):
    pretrain.pretrain(small(), dataclasses.replace(CONFIG, learning_rate=1e30), tmp_path, 0)
