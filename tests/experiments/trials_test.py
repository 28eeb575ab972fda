"""Trials that follow trials: what is carried over, shared stages, and stages killed and resumed."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from ctr_jax import compress
from ctr_jax.data import synthetic
from ctr_jax.tables import leaf
from ctr_jax.train import loop
from experiments import measure, trials

SOURCE = synthetic.Synthetic(synthetic.small())
FULL = trials.Trial(
  'full', net='dnn', net_options={'hidden': (8,)}, dim=4,
  schedule=loop.Schedule(epochs=1, batch_size=256),
)  # fmt: skip
HALF = (('.*', compress.cast('float16')),)


def arrays(outcome):
  return jax.tree.map(np.asarray, (leaf.flatten(outcome.stored), outcome.net))


def test_a_stage_starts_from_the_vectors_and_the_net_of_the_one_before(tmp_path):
  after = dataclasses.replace(FULL, name='half', rules=HALF, after=FULL)
  _, before, _ = trials.train(FULL, SOURCE, tmp_path, 0)
  start = trials.carried(before, after.model(SOURCE), HALF)
  for table, stored in start.stored.items():
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, before.vectors(table), rtol=1e-3, atol=1e-6)
  jax.tree.map(np.testing.assert_array_equal, start.net, before.net)


def test_what_is_stored_as_before_is_taken_as_it_is(tmp_path):
  rules = (('.*', compress.multi_hash(16)),)  # Fitting its own vectors again would change it.
  _, before, _ = trials.train(dataclasses.replace(FULL, rules=rules), SOURCE, tmp_path, 0)
  again = trials.carried(before, before.model, rules)
  jax.tree.map(np.testing.assert_array_equal, again.stored, before.stored)


def test_rules_may_be_made_of_the_outcome_and_stages_before_are_shared(tmp_path):
  seen = []

  def halved(outcome):
    seen.append(outcome)
    return HALF

  stages = dataclasses.replace(FULL, name='half', rules=halved, after=FULL)
  trials.run(FULL, SOURCE, tmp_path, [0])
  made = (tmp_path / 'full/seed_0/metrics.jsonl').stat().st_mtime_ns
  (row,) = trials.run(stages, SOURCE, tmp_path, [0])
  assert len(seen) == 1
  assert row['bytes'] * 2 == sum(x.nbytes for x in leaf.flatten(seen[0].model.codec.plan).values())
  assert (tmp_path / 'full/seed_0/metrics.jsonl').stat().st_mtime_ns == made
  trials.run(stages, SOURCE, tmp_path, [0])  # Already done: nothing is trained or made again.
  assert len(seen) == 1


def test_another_stage_before_is_another_result(tmp_path):
  stages = dataclasses.replace(FULL, name='half', rules=HALF, after=FULL)
  trials.run(stages, SOURCE, tmp_path, [0])
  other = dataclasses.replace(FULL, optimizer=dataclasses.replace(FULL.optimizer, l2=0.5))
  with pytest.raises(ValueError, match='made with another optimizer'):
    trials.run(dataclasses.replace(stages, after=other), SOURCE, tmp_path, [0])


def test_what_was_measured_in_another_way_is_measured_anew(tmp_path, monkeypatch):
  said = []
  monkeypatch.setattr(trials.journal, 'say', said.append)
  first = trials.run(FULL, SOURCE, tmp_path, [0])
  assert trials.run(FULL, SOURCE, tmp_path, [0]) == first
  assert len(said) == 1
  monkeypatch.setattr(measure, 'VERSION', measure.VERSION + 1)
  (again,) = trials.run(FULL, SOURCE, tmp_path, [0])
  assert len(said) == 1  # It was not done.
  assert again['test'] == first[0]['test']
  assert again['train_seconds'] == first[0]['train_seconds']  # Nor trained again.


def test_how_often_a_run_is_saved_makes_it_no_other():
  often = dataclasses.replace(FULL.schedule, checkpoint_steps=3, deltas=2)
  assert dataclasses.replace(FULL, schedule=often).describe(SOURCE) == FULL.describe(SOURCE)
  longer = dataclasses.replace(FULL, schedule=dataclasses.replace(often, epochs=2))
  assert longer.describe(SOURCE) != FULL.describe(SOURCE)


@pytest.mark.long
def test_a_stage_that_was_killed_resumes_to_the_same_bits(tmp_path, monkeypatch):
  schedule = dataclasses.replace(FULL.schedule, epochs=2, checkpoint_steps=3)
  stages = dataclasses.replace(FULL, name='half', rules=HALF, after=FULL, schedule=schedule)
  _, want, _ = trials.train(stages, SOURCE, tmp_path / 'whole', 0)
  shutil.copytree(tmp_path / 'whole/full', tmp_path / 'killed/full')

  class Killed(Exception):
    pass

  save, saves = loop.checkpoint.Checkpoints.save, []

  def dies(self, kind, *args):
    save(self, kind, *args)
    saves.append(kind)
    if len(saves) == 2:
      self.wait()
      raise Killed

  monkeypatch.setattr(loop.checkpoint.Checkpoints, 'save', dies)
  with pytest.raises(Killed):
    trials.train(stages, SOURCE, tmp_path / 'killed', 0)
  monkeypatch.undo()
  _, found, _ = trials.train(stages, SOURCE, tmp_path / 'killed', 0)
  jax.tree.map(np.testing.assert_array_equal, arrays(found), arrays(want))


def test_links_may_be_rules_made_of_the_outcome(tmp_path):
  rows = trials.run(FULL, SOURCE, tmp_path, [0], [('as half', lambda outcome: HALF)])
  assert rows[1]['bytes'] * 2 == rows[0]['bytes']
  np.testing.assert_allclose(rows[1]['test']['auc'], rows[0]['test']['auc'], atol=1e-3)
