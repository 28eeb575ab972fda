"""Pre-training: what it learns, what it must not see, and what a killed one goes on to."""

import dataclasses
import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ctr_jax.data import pairs
from ctr_jax.graphs import graph
from ctr_jax.train import pretrain

N, M = 300, 120
ROWS = {'a': N + 1, 'b': M + 1}


@functools.cache
def planted():
  """(graph, unseen u, unseen v, their truth): b_u + b_v + <h_u, h_v>, seen through clicks."""
  rng = np.random.default_rng(0)
  h_u, h_v = rng.normal(size=(N + 1, 2)), rng.normal(size=(M + 1, 2))
  b_u, b_v = 0.3 * rng.normal(size=N + 1), 0.3 * rng.normal(size=M + 1)

  def truth(u, v):
    return b_u[u] + b_v[v] + 0.7 * (h_u[u] * h_v[v]).sum(axis=1)

  u, v = np.divmod(np.arange(N * M), M)
  seen = rng.random(N * M) < 0.4
  count = rng.integers(20, 200, N * M)
  rate = 1 / (1 + np.exp(1 - truth(u + 1, v + 1)))
  clicks = rng.binomial(count, rate)
  made = pairs.Pairs(
    'a', 'b', *(x[seen].astype(np.int32) + 1 for x in (u, v)), clicks[seen], count[seen]
  )
  prior = clicks[seen].sum() / count[seen].sum()
  found = graph.build([made], {'a': 'a', 'b': 'b'}, ROWS, prior)
  new = [x[~seen].astype(np.int32) + 1 for x in (u, v)]
  return found, *new, truth(*new)


FAST = pretrain.Config(dim=4, steps=120, every=20)


@pytest.mark.parametrize('method', [pytest.param('dot', marks=pytest.mark.long), 'gnn'])
def test_unseen_pairs_are_told_better_than_by_biases(tmp_path, method):
  found, u, v, truth = planted()

  def correlation(name):
    config = dataclasses.replace(FAST, method=name)
    made = pretrain.pretrain(found, config, tmp_path / name, 0)
    return np.corrcoef(pretrain.scores(made, 0, u, v), truth)[0, 1], made.best['unseen']

  (plain, error), (own, own_error) = correlation('biases'), correlation(method)
  assert own > plain + 0.15, (own, plain)
  assert own_error < 0.8 * error


@pytest.mark.parametrize('batch_edges', [0, 4000])
def test_held_out_edges_are_never_learned_from(tmp_path, batch_edges):
  found = planted()[0]
  config = dataclasses.replace(FAST, method='gnn', steps=4, every=4, batch_edges=batch_edges)
  held = graph.held_out(found, config.held_out, 0)
  one = pretrain.pretrain(found, config, tmp_path / 'one', 0)
  target = found.graph.edges['target'].copy()
  target[held] += 1
  other = found._replace(graph=found.graph._replace(edges=found.graph.edges | {'target': target}))
  two = pretrain.pretrain(other, config, tmp_path / 'two', 0)
  np.testing.assert_array_equal(one.vectors, two.vectors)
  assert one.history[0]['seen'] == two.history[0]['seen']
  assert one.history[0]['unseen'] != two.history[0]['unseen']
  if batch_edges:
    return
  target = found.graph.edges['target'].copy()
  target[np.flatnonzero(~held)[0]] += 1  # One that is known does change them.
  other = found._replace(graph=found.graph._replace(edges=found.graph.edges | {'target': target}))
  three = pretrain.pretrain(other, config, tmp_path / 'three', 0)
  assert (one.vectors != three.vectors).any()


def test_sampled_steps_learn_what_whole_ones_do(tmp_path):
  found, u, v, truth = planted()
  config = dataclasses.replace(FAST, method='gnn', batch_edges=2000, fanout=15, steps=120)
  made = pretrain.pretrain(found, config, tmp_path, 0)
  assert np.corrcoef(pretrain.scores(made, 0, u, v), truth)[0, 1] > 0.8


@pytest.mark.parametrize('method', ['biases', 'dot', 'two_tower'])
def test_methods_without_neighbours_are_sampled_too(tmp_path, method):
  config = dataclasses.replace(FAST, method=method, batch_edges=2000, steps=40)
  errors = pretrain.pretrain(planted()[0], config, tmp_path, 0).history
  assert errors[-1]['seen'] < errors[0]['seen']


def test_training_ends_at_a_look():
  with pytest.raises(ValueError, match='a multiple of it'):
    dataclasses.replace(FAST, steps=5, every=4)


@pytest.mark.parametrize('name', ['dim', 'layers', 'fanout'])
def test_sizes_are_at_least_one(name):
  with pytest.raises(ValueError, match=f'{name}=0.*at least 1'):
    dataclasses.replace(FAST, **{name: 0})


def test_missing_values_score_nothing_and_finished_folders_are_opened(tmp_path):
  found = planted()[0]
  config = dataclasses.replace(FAST, method='dot', steps=20)
  made = pretrain.pretrain(found, config, tmp_path, 0)
  rows = np.array([0, 3, 5], np.int32), np.array([4, 0, 6], np.int32)
  scores = pretrain.scores(made, 0, *rows)
  assert (scores[:2] == 0).all()
  assert scores[2] != 0
  stamp = (tmp_path / 'history.json').stat().st_mtime_ns
  again = pretrain.pretrain(found, config, tmp_path, 0)
  assert (tmp_path / 'history.json').stat().st_mtime_ns == stamp
  np.testing.assert_array_equal(again.vectors, made.vectors)
  np.testing.assert_array_equal(pretrain.scores(again, 0, *rows), scores)
  with pytest.raises(ValueError, match='another graph or method'):
    pretrain.pretrain(found, dataclasses.replace(config, l2=1.0), tmp_path, 0)


WORKER = """
import pathlib, sys
sys.path.insert(0, {tests!r})
import pretrain_test as t
t.pretrain.pretrain(t.planted()[0], t.LONG, pathlib.Path({folder!r}), 0)
"""
LONG = pretrain.Config('gnn', dim=4, steps=60, every=2, patience=100)


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path):
  """Killed once its first checkpoints are there; a finished folder has a history."""
  here = pathlib.Path(__file__).parent
  whole = pretrain.pretrain(planted()[0], LONG, tmp_path / 'whole', 0)
  folder = tmp_path / 'killed'
  code = WORKER.format(tests=str(here), folder=str(folder))
  environment = os.environ | {'PYTHONPATH': str(here.parent.parent)}
  worker = subprocess.Popen([sys.executable, '-c', code], env=environment)
  try:
    for _ in range(1200):
      steps = [int(p.name) for p in (folder / 'last').glob('[0-9]*') if p.name.isdigit()]
      if steps and max(steps) >= 20:
        break
      assert worker.poll() is None, 'it ended before it could be killed'
      time.sleep(0.02)
  finally:
    worker.send_signal(signal.SIGKILL)
    worker.wait()
  assert not (folder / 'history.json').exists()
  resumed = pretrain.pretrain(planted()[0], LONG, folder, 0)
  np.testing.assert_array_equal(resumed.vectors, whole.vectors)
  assert resumed.history == whole.history
