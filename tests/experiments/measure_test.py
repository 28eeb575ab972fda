"""Scoring is measured on the samples as they are, drawn beforehand where they are drawn."""

import pytest

from ctr_jax import predict
from ctr_jax.data import beside, crosses, synthetic
from ctr_jax.evaluate import evaluate
from ctr_jax.tables import leaf, stack
from experiments import measure, trials

SOURCE = synthetic.Synthetic(synthetic.small())
TRIAL = trials.Trial('full', net='lr', dim=4, schedule=trials.loop.Schedule(1, 256))


@pytest.mark.parametrize('crossed', [False, True])
def test_drawn_samples_are_drawn_before_the_clock(tmp_path, monkeypatch, crossed):
  source = SOURCE
  if crossed:
    first, second = [f.name for f in source.schema.features if f.kind == 'id'][:2]
    added = crosses.add(source, tmp_path / 'crossed', [crosses.Cross(first, second)], [])
    source = beside.join(source, added)
  _, outcome, _ = trials.train(TRIAL, source, tmp_path, 0)
  model, arrays = outcome.model, stack.pack(outcome.model.layout, leaf.flatten(outcome.stored))
  expected = evaluate.evaluate(model, predict.scorer(model), arrays, outcome.net, source, 'test')
  reads, read = [], synthetic.Synthetic.read

  def counted(self, split, *args):
    reads.append(split)
    return read(self, split, *args)

  monkeypatch.setattr(synthetic.Synthetic, 'read', counted)
  found = measure.of(outcome, source)['test']
  assert found == {name: x for name, x in expected.items() if name != 'samples_per_second'}
  assert reads == ['test']
