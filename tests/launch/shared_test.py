"""Rows side by side in one folder: trials are waited for, and other runs are kept out."""

import threading

import pytest

from ctr_jax.data import synthetic
from experiments import common, trials


def test_rows_share_a_folder_that_others_are_kept_out_of(tmp_path):
  def refused(**how):
    with pytest.raises(ValueError, match='in use by another run'), common.locked(tmp_path, **how):
      pass

  with common.locked(tmp_path, shared=True), common.locked(tmp_path, shared=True):
    refused()
  with common.locked(tmp_path):
    refused(shared=True)


def test_a_trial_that_another_process_trains_is_waited_for(tmp_path, monkeypatch, capsys):
  held, over = threading.Event(), threading.Event()

  def hold():
    with common.locked(tmp_path / 'full' / 'seed_0'):
      held.set()
      over.wait(0.5)
      over.set()

  class Reached(Exception):
    pass

  def fit(*_):
    assert over.is_set()
    raise Reached

  monkeypatch.setattr(trials, 'fit', fit)
  other = threading.Thread(target=hold)
  other.start()
  assert held.wait(10)
  with pytest.raises(Reached):
    trials.train(trials.Trial('full'), synthetic.Synthetic(synthetic.small()), tmp_path, 0)
  other.join()
  assert 'waiting for it' in capsys.readouterr().err
