"""Costs of features: bytes and keys are exact, time is there and nothing else is looked up."""

import jax
import numpy as np
import pytest

from ctr_jax import compress, models, predict
from ctr_jax.data import synthetic
from ctr_jax.evaluate import costs
from ctr_jax.tables import leaf, stack


@pytest.mark.parametrize('layout', [stack.apart, stack.stacked])
def test_every_feature_has_its_bytes_keys_and_a_time(layout):
  source = synthetic.Synthetic(synthetic.small())
  hashed = compress.chain(compress.multi_hash(16, 2), compress.int_quantize(8))
  rules = [('noise', compress.drop()), ('user', hashed), ('.*', compress.identity())]
  model = predict.build(source.schema, source.rows, rules, models.NETS['fm'](), 3, layout=layout)
  plan = leaf.flatten(model.codec.plan)
  leaves = {p: x.init(jax.random.key(0), x.shape, x.dtype) for p, x in plan.items()}
  arrays = stack.pack(model.layout, leaves)
  found = costs.measure(model, arrays, source, batch_size=256, turns=3)
  assert list(found) == list(model.columns)
  assert 'noise' not in found
  for name, cost in found.items():
    assert cost.nbytes == leaf.nbytes(model.codec.plan[name])
    assert cost.keys == source.rows[name]
    assert 0 <= cost.seconds < 1
  assert np.any([cost.seconds > 0 for cost in found.values()])
