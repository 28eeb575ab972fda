"""Importances against slow references in float64 NumPy: loops, and finite differences."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from ctr_jax import compress, models, predict
from ctr_jax.data import batches, synthetic
from ctr_jax.evaluate import importance
from ctr_jax.tables import leaf, stack
from tests.models import reference

SOURCE = synthetic.Synthetic(synthetic.small(samples=(1_000, 300, 300)))
FULL = (('.*', compress.identity()),)
ALL = [importance.permutation, importance.sfs, importance.shark]


def build(layout=stack.apart, rules=FULL, silent=()):
  """A deep net and tables drawn at random, large enough to matter; those of `silent` are zero."""
  net = models.NETS['dnn'](hidden=(8,))
  init = leaf.normal(0.3)
  model = predict.build(SOURCE.schema, SOURCE.rows, rules, net, 4, init, layout)
  drawn = leaf.flatten(leaf.init(model.codec.plan, jax.random.key(0)))
  drawn |= {path: jnp.zeros_like(drawn[path]) for path in silent}
  return model, stack.pack(model.layout, drawn), predict.init_net(model, jax.random.key(1))


def vectors(model, arrays, columns):
  """float64 [n, fields, width]."""
  index, values = predict.inputs(model, columns)
  rows = predict.gather_all(model, arrays, index)
  return np.asarray(predict.vectors(model, rows, values), np.float64)


def logits(net, vectors):
  """float64 [n]."""
  net = jax.tree.map(lambda x: np.asarray(x, np.float64), net)
  return reference.logit('dnn', vectors, net['params'], net['batch_stats'], False)[0]


def losses(net, vectors, labels):
  """Each sample's cross-entropy, float64 [n]."""
  found = logits(net, vectors)
  return np.logaddexp(0, found) - labels * found


def read(split):
  names = (*SOURCE.schema.names, 'label')
  return SOURCE.read(split, names, 0, SOURCE.num_samples(split))


def close(found, want, rtol):
  """Equal by name and in order; an importance far below the largest may be rounded away."""
  assert list(found) == list(want)
  found, want = np.array(list(found.values())), np.array(list(want.values()))
  np.testing.assert_allclose(found, want, rtol=rtol, atol=rtol * np.abs(want).max())


@pytest.mark.parametrize('layout', [stack.apart, stack.stacked])
@pytest.mark.parametrize('metric', ['log_loss', 'auc'])
def test_permutation_is_a_loop_over_shuffled_columns(layout, metric):
  model, arrays, net = build(layout)
  columns = read('valid')

  def measured(columns):
    given, label = vectors(model, arrays, columns), columns['label']
    if metric == 'auc':
      return -sklearn.metrics.roc_auc_score(label, logits(net, given))
    return losses(net, given, label).mean()

  want = {}
  for name in SOURCE.schema.names:
    rises = []
    for repeat in range(2):
      draw = np.random.default_rng([3, repeat, zlib.crc32(name.encode())])
      order = draw.permutation(len(columns['label']))
      rises.append(measured({**columns, name: columns[name][order]}) - measured(columns))
    want[name] = np.mean(rises)
  args = (model, arrays, net, SOURCE, 'valid')
  # Batches of 128: the last of 300 samples is padded.
  found = importance.permutation(*args, repeats=2, seed=3, metric=metric, batch_size=128)
  close(found, want, 1e-5)
  assert min(np.abs(list(found.values()))) > 0


def test_permutation_reads_once_and_compiles_once(monkeypatch):
  model, arrays, net = build()
  reads, made, scorer = [], [], predict.scorer

  class Counted(synthetic.Synthetic):
    def read(self, split, names, start, stop):
      reads.append((split, start, stop))
      return super().read(split, names, start, stop)

  monkeypatch.setattr(predict, 'scorer', lambda model: made.append(scorer(model)) or made[-1])
  importance.permutation(model, arrays, net, Counted(SOURCE.spec), batch_size=128)
  assert reads == [('valid', 0, 300)]
  assert [scorer.score._cache_size() for scorer in made] == [1]


def test_shuffles_of_a_feature_do_not_depend_on_other_features():
  model, arrays, net = build(silent=('noise',))
  without = predict.build(
    SOURCE.schema, SOURCE.rows, (('noise', compress.drop()), *FULL), model.net, 4
  )
  kept = {n: x for n, x in arrays.items() if n != 'noise'}
  # The net without `noise` reads what the other reads where it is zero.
  first = net['params']['mlp']['layer_0'] | {
    'kernel': net['params']['mlp']['layer_0']['kernel'][: 4 * len(without.features)]
  }
  params = net['params'] | {'mlp': {'layer_0': first}}
  found = importance.permutation(without, kept, net | {'params': params}, SOURCE)
  want = importance.permutation(model, arrays, net, SOURCE)
  assert want.pop('noise') == 0
  close(found, want, 1e-5)


def test_sfs_is_the_slope_of_the_mean_loss_at_open_gates():
  model, arrays, net = build()
  args = (model, arrays, net, SOURCE, 'train')
  found = importance.sfs(*args, batches=3, batch_size=200, seed=5)
  names, slopes, step = (*SOURCE.schema.names, 'label'), [], 1e-6
  epoch = batches.Batches(SOURCE, 'train', names, 200, seed=5).epoch(0)
  for batch, _ in zip(epoch, range(3), strict=False):
    given, label = vectors(model, arrays, batch), batch['label'].astype(np.float64)
    rise = []
    for gate in np.eye(len(model.features))[:, None, :, None] * step:
      rise.append(np.mean(losses(net, given * (1 + gate), label)))
      rise[-1] -= np.mean(losses(net, given * (1 - gate), label))
    slopes.append(np.abs(rise) / (2 * step))
  want = dict(zip(SOURCE.schema.names, np.mean(slopes, axis=0), strict=True))
  close(found, want, 1e-4)


def test_shark_is_a_loop_over_samples():
  model, arrays, net = build()
  columns = read('train')
  found = importance.shark(model, arrays, net, SOURCE, batches=1, batch_size=1_000)
  given, step = vectors(model, arrays, columns), 1e-6
  away = given.mean(axis=0) - given
  want = {}
  for j, name in enumerate(SOURCE.schema.names):
    changes = []
    for i, label in enumerate(columns['label']):
      move = np.zeros_like(given[i : i + 1])
      move[0, j] = step * away[i, j]
      up, down = (losses(net, given[i : i + 1] + s * move, float(label)) for s in (1, -1))
      changes.append(abs(up[0] - down[0]) / (2 * step))
    want[name] = np.mean(changes)
  close(found, want, 1e-4)


def test_shark_does_not_depend_on_the_batch_size():
  args = (*build(stack.stacked), SOURCE, 'train')
  want = importance.shark(*args, batches=2, batch_size=400)
  for size in (100, 160):
    close(importance.shark(*args, batches=800 // size, batch_size=size), want, 1e-5)


@pytest.mark.parametrize('silent', ['noise', 'tags', 'price'])
@pytest.mark.parametrize('method', ALL)
def test_a_feature_of_zeros_has_no_importance(method, silent):
  found = method(*build(silent=(silent,)), SOURCE)
  assert found.pop(silent) == 0
  assert min(np.abs(list(found.values()))) > 0


@pytest.mark.parametrize('method', ALL)
def test_importances_follow_from_the_seed_and_leave_out_dropped_features(method):
  built = build(rules=(('item', compress.drop()), *FULL))
  found = method(*built, SOURCE, seed=1)
  assert list(found) == [n for n in SOURCE.schema.names if n != 'item']
  assert all(type(x) is float for x in found.values())
  assert method(*built, SOURCE, seed=1) == found


def test_rank():
  importances = {'c': 0.5, 'a': 0.5, 'd': -1.0, 'b': 2.0, 'e': 0.5}
  assert importance.rank(importances) == ['b', 'a', 'c', 'e', 'd']
  assert importance.rank(dict(reversed(importances.items()))) == ['b', 'a', 'c', 'e', 'd']
  with pytest.raises(ValueError, match='importance of c, d is NaN and cannot be ranked'):
    importance.rank(importances | {'c': np.nan, 'd': np.nan})


def test_random():
  names = SOURCE.schema.names
  found = importance.random(names, seed=4)
  assert tuple(found) == names
  assert importance.random(names, seed=4) == found
  assert len({tuple(importance.rank(importance.random(names, seed))) for seed in range(9)}) > 5


def test_aukc():
  # Two trapezoids: 1 · 0.65 and 2 · 0.75, over a range of 3.
  assert importance.aukc([1, 2, 4], [0.6, 0.7, 0.8]) == pytest.approx((0.65 + 1.5) / 3, rel=1e-12)
  assert importance.aukc([4, 1, 2], [0.8, 0.6, 0.7]) == pytest.approx((0.65 + 1.5) / 3, rel=1e-12)
  assert importance.aukc([3, 9, 5], [0.75] * 3) == pytest.approx(0.75, rel=1e-12)


@pytest.mark.parametrize('method', ALL)
def test_a_split_without_samples_is_refused(method):
  empty = synthetic.Synthetic(synthetic.small(samples=(1_000, 0, 300)))
  with pytest.raises(ValueError, match=r"'valid' of .* has no samples"):
    method(*build(), empty, 'valid')


def test_errors_say_what_is_wrong():
  built = build()
  with pytest.raises(ValueError, match="metric is one of log_loss, auc, got 'gauc'"):
    importance.permutation(*built, SOURCE, metric='gauc')
  with pytest.raises(ValueError, match='repeats must be at least 1, got 0'):
    importance.permutation(*built, SOURCE, repeats=0)
  for method in (importance.sfs, importance.shark):
    with pytest.raises(ValueError, match='batches must be at least 1, got 0'):
      method(*built, SOURCE, batches=0)
  with pytest.raises(ValueError, match=r'equally long, got shapes \(2,\) and \(3,\)'):
    importance.aukc([1, 2], [0.5, 0.5, 0.5])
  with pytest.raises(ValueError, match='at least two counts, each of them once'):
    importance.aukc([2, 2], [0.5, 0.6])
  with pytest.raises(ValueError, match='must be finite'):
    importance.aukc([1, 2], [0.5, np.nan])
