"""What serving takes is measured once for each link, and again for a link of other arguments."""

from types import SimpleNamespace

import numpy as np

from ctr_jax import compress
from ctr_jax.data import synthetic
from experiments import deployed, trials

SOURCE = synthetic.Synthetic(synthetic.small())
TRIAL = trials.Trial('full', net='dnn', net_options={'hidden': (8,)}, dim=4)


def test_another_link_of_the_same_name_is_measured_anew(tmp_path, monkeypatch):
  def served(trial, source, workdir, seed, link):
    return SimpleNamespace(bytes=2.0 if link.arguments['offset'] else 1.0)

  monkeypatch.setattr(trials, 'train', lambda trial, *_: (trial, SimpleNamespace(bytes=4.0), None))
  monkeypatch.setattr(trials, 'outcome', served)
  for name in ('_parameters', '_sample_bytes'):
    monkeypatch.setattr(deployed, name, lambda *_: 0)
  monkeypatch.setattr(deployed, '_latency', lambda *_: {})
  monkeypatch.setattr(deployed, '_artifact', lambda one, *_: {'bytes_artifact': one.bytes})
  monkeypatch.setattr(deployed, '_scores', lambda one, _: np.array([one.bytes]))

  def found(offset):
    links = [('int8', compress.int_quantize(8, offset))]
    measured = deployed.measured(TRIAL, SOURCE, tmp_path, 0, links)
    return measured['int8']['bytes_artifact'], deployed.logits(TRIAL, tmp_path, [0], 'int8').item()

  assert found(True) == (2.0, 2.0)
  assert found(False) == (1.0, 1.0)
  monkeypatch.setattr(trials, 'train', None)  # What was measured last is not measured again.
  assert found(False) == (1.0, 1.0)
