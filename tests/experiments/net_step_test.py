"""The net-step benchmark, shrunk: its step trains, and the table says what was measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax import models
from experiments.bench import net_step
from experiments.bench import net_step_models as bench
from experiments.bench import net_step_peers as peers

RECIPE = bench.Recipe(rows=(5, 3, 9), dim=4, batch=64, hidden=(8, 8), l2=1e-3)


@pytest.fixture(autouse=True)
def _promotion():
  # optax raises floats to its int32 count of steps, and Flax's own layers add a bias of one rank
  # to a batch of another.
  with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):
    yield


def net(dropout):
  return models.NETS['dcn'](hidden=RECIPE.hidden, dropout=dropout, cross_layers=2)


def losses(net, batches):
  state, step = bench.trainer(net, RECIPE)
  found = []
  for batch in batches:
    state, loss = jax.jit(step)(state, batch)
    found.append(float(loss))
  return state, found


def test_steps_learn_what_can_be_learnt():
  (ids, _), *_ = peers.random_batches(RECIPE, 1)
  assert ids.shape == (64, 3)
  assert (ids.max(0) < RECIPE.rows).all()
  label = (ids[:, 2] % 2).astype(np.float32)
  _, found = losses(net(0.2), [(ids, label)] * 80)
  assert found[-1] < 0.5 * found[0]


def test_several_steps_per_call_are_the_same_steps():
  batches = peers.random_batches(RECIPE, 4)
  (params, stats, *_), found = losses(net(0.2), batches)
  state, step = bench.trainer(net(0.2), RECIPE)
  stacked = tuple(map(np.stack, zip(*batches, strict=True)))
  state, scanned = jax.lax.scan(step, state, stacked)
  np.testing.assert_allclose(scanned, found, rtol=1e-5)
  for ours, theirs in zip(
    jax.tree.leaves(state[:2]), jax.tree.leaves((params, stats)), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_stock_layers_are_the_same_net():
  """In evaluation mode, with our parameters moved into Flax's layers."""
  ours, stock = net(0.0), bench.StockDCN(RECIPE._replace(dropout=0.0, cross=2))
  vectors = jax.random.normal(jax.random.key(0), (64, 3, 4))
  variables = ours.init(jax.random.key(1), vectors, train=False)
  params, cross = variables['params'], variables['params']['cross']
  dense = [{'kernel': cross[f'kernel_{i}']} for i in range(2)]
  dense += [{k: params['mlp'][f'layer_{i}'][k] for k in ('kernel', 'bias')} for i in range(2)]
  moved = {f'Dense_{i}': x for i, x in enumerate([*dense, params['output']])}
  for i in range(2):
    layer = params['mlp'][f'layer_{i}']
    moved[f'BatchNorm_{i}'] = {'scale': layer['scale'], 'bias': layer['offset']}
    moved[f'bias_{i}'] = cross[f'bias_{i}']
  there = {'params': moved, 'batch_stats': {}}
  expected, _ = stock.apply(there, vectors, train=True, mutable=['batch_stats'])
  found, _ = ours.apply(variables, vectors, train=True, mutable=['batch_stats'])
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
  assert jnp.ptp(found) > 0.1


def test_table_names_ratios_and_what_is_not_installed():
  theirs = [(0.2, 0.4), (0.3, 0.6), (0.2, 0.4)]
  ours = [(0.1, 0.1), (0.1, 0.1), (0.2, 0.1)]
  turns = {'torch': theirs, 'ours': ours, 'other': None}
  lines = [net_step.line(name, found, theirs, 4096) for name, found in turns.items()]
  assert lines[1]['times_torch_wall'] == pytest.approx(2.0)  # Of 2, 3 and 1.
  assert lines[1]['times_torch_cpu'] == pytest.approx(4.0)  # Of 4, 6 and 4.
  assert lines[1]['samples_per_second'] == pytest.approx(4096 / 0.1)
  table = net_step.render({'rows': lines})
  assert '| other         | not measured' in table
  assert '2.00×' in table
