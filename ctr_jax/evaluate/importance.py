"""How much each feature of a trained model matters: {feature name: importance}, larger is more.

Importances are in the order of the model's features. Those of one function compare with each other,
those of two functions only by their order: `rank`. The net is asked as in serving (train=False).

Jia et al., "ERASE: Benchmarking Feature Selection Methods for Deep Recommender Systems" (KDD 2024)
compares these methods and others. `importance_trees` asks no model at all.
"""

import contextlib
import dataclasses
import functools
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctr_jax import predict
from ctr_jax.data import batches as batches_lib
from ctr_jax.data import columns as columns_lib
from ctr_jax.data import schema as schema_lib
from ctr_jax.evaluate import evaluate, metrics

# Name → (labels, logits) → what is smaller for a better model.
_METRICS = {
  'log_loss': metrics.log_loss,
  'auc': lambda labels, logits: -metrics.auc(labels, logits),
}


@dataclasses.dataclass(frozen=True)
class _Held:
  """Columns of one split in memory, as a Source; whatever split is asked for, it is this one."""

  schema: schema_lib.Schema
  columns: Mapping[str, np.ndarray]
  extras: tuple[str, ...] = ()

  def num_samples(self, split: str) -> int:
    return len(self.columns['label'])

  def read(self, split: str, names: Sequence[str], start: int, stop: int) -> dict[str, np.ndarray]:
    return {name: self.columns[name][start:stop] for name in names}


def permutation(
  model: predict.Model,
  arrays: Mapping[str, jax.Array],
  net: Any,
  source: columns_lib.Source,
  split: str = 'valid',
  repeats: int = 1,
  seed: int = 0,
  metric: str = 'log_loss',
  batch_size: int = 16384,
) -> dict[str, float]:
  """What a metric loses when a feature's column is shuffled among all samples of the split.

  Rows of a multi-valued feature move as a whole, missing values as any other (Breiman, "Random
  Forests", 2001). The split is read once and held; it is scored 1 + repeats · features times. A
  feature's shuffles follow from (seed, repeat, its name), whatever other features there are.

  Args:
    model: what `predict.build` made.
    arrays: physical array → its rows, see `tables.stack`.
    net: the net's variables.
    source: the data.
    split: of the source.
    repeats: shuffles of each feature, over which the mean is taken.
    seed: of the shuffles.
    metric: 'log_loss' (its rise, in nats) or 'auc' (its fall).
    batch_size: samples scored at a time.
  """
  if metric not in _METRICS:
    raise ValueError(f'metric is one of {", ".join(_METRICS)}, got {metric!r}.')
  if repeats < 1:
    raise ValueError(f'repeats must be at least 1, got {repeats}.')
  samples = evaluate.num_samples(source, split)
  columns = source.read(split, (*model.columns, 'label'), 0, samples)
  schema = dataclasses.replace(source.schema, group='')  # Nothing is measured by group.
  score = predict.scorer(model)

  def loss(columns):
    held = _Held(schema, columns)
    found = evaluate.scores(model, score, arrays, net, held, split, batch_size)
    return _METRICS[metric](found.labels, found.logits)

  def rise(name, repeat):
    draw = np.random.default_rng([seed, repeat, zlib.crc32(name.encode())])
    return loss(columns | {name: columns[name][draw.permutation(samples)]}) - whole

  whole = loss(columns)
  return {n: float(np.mean([rise(n, r) for r in range(repeats)])) for n in model.columns}


def sfs(
  model: predict.Model,
  arrays: Mapping[str, jax.Array],
  net: Any,
  source: columns_lib.Source,
  split: str = 'train',
  batches: int = 100,
  batch_size: int = 4096,
  seed: int = 0,
) -> dict[str, float]:
  """Mean over batches of |∂L/∂m_j| at m = 1, where m_j scales all vectors of feature j.

  L is a batch's mean cross-entropy, in nats: the sensitivity of a gate that stands open (Wang et
  al., "Single-shot Feature Selection for Multi-task Recommendations", SIGIR 2023). What cancels
  within a batch does not count, so importances depend on the batch size. Batches are drawn at
  random, without replacement; a short split gives fewer. Arguments as of `permutation`.
  """

  @functools.partial(jax.jit, compiler_options=predict.compiler_options())
  def sensitivity(arrays, net, index, values, labels):
    vectors_BxFxD = _vectors(model, arrays, index, values)

    def loss(gates_F):
      return jnp.mean(_losses(model, net, vectors_BxFxD * gates_F[None, :, None], labels))

    return jnp.abs(jax.grad(loss)(jnp.ones(len(model.features), jnp.float32)))

  found = _batches(model, source, split, batches, batch_size, seed)
  return _named(model, _mean(functools.partial(sensitivity, arrays, net), found))


def shark(
  model: predict.Model,
  arrays: Mapping[str, jax.Array],
  net: Any,
  source: columns_lib.Source,
  split: str = 'train',
  batches: int = 100,
  batch_size: int = 4096,
  seed: int = 0,
) -> dict[str, float]:
  """Mean over samples of |Σ_d ∂L_i/∂e_ijd · (E[e_jd] − e_ijd)|: SHARK's F-permutation.

  To first order, what a sample's own loss L_i (nats) changes when the vector e_ij of its feature j
  becomes the mean vector of the feature (Zhang et al., "SHARK: A Lightweight Model Compression
  Approach for Large-scale Recommender Systems", CIKM 2023). Two passes over the same samples: the
  first finds the means. How the samples are cut into batches does not matter. Arguments as of
  `sfs`.
  """
  options = predict.compiler_options()

  @functools.partial(jax.jit, compiler_options=options)
  def center(arrays, index, values, labels):
    del labels
    return jnp.mean(_vectors(model, arrays, index, values), axis=0)

  @functools.partial(jax.jit, compiler_options=options)
  def change(arrays, net, mean_FxD, index, values, labels):
    vectors_BxFxD = _vectors(model, arrays, index, values)
    # Samples do not meet in evaluation: the gradient of the sum holds that of each sample's loss.
    slope_BxFxD = jax.grad(lambda x: jnp.sum(_losses(model, net, x, labels)))(vectors_BxFxD)
    change_BxF = jnp.sum(slope_BxFxD * (mean_FxD[None] - vectors_BxFxD), axis=2)
    return jnp.mean(jnp.abs(change_BxF), axis=0)

  read = functools.partial(_batches, model, source, split, batches, batch_size, seed)
  mean_FxD = jnp.asarray(_mean(functools.partial(center, arrays), read()), jnp.float32)
  return _named(model, _mean(functools.partial(change, arrays, net, mean_FxD), read()))


def _vectors(model, arrays, index, values):
  """The vectors of a batch as served, [batch, fields, width]."""
  rows = predict.gather_all(model, arrays, index)
  return predict.vectors(model, rows, values, train=False, rng=None, step=None)


def _losses(model, net, vectors, labels):
  """Cross-entropy of each sample, in nats, [batch]."""
  logits = model.net.apply(net, vectors, train=False)
  return optax.sigmoid_binary_cross_entropy(logits, labels)


def _batches(model, source, split, count, size, seed) -> Iterator[tuple]:
  """(index, values, labels) of up to `count` batches, shuffled; the same for the same arguments."""
  if count < 1:
    raise ValueError(f'batches must be at least 1, got {count}.')
  size = min(size, evaluate.num_samples(source, split))
  reader = batches_lib.Batches(source, split, (*model.columns, 'label'), size, seed=seed)

  def prepare(batch):
    return (*predict.inputs(model, batch), batch['label'])

  with contextlib.closing(batches_lib.prefetch(reader.epoch(0), prepare)) as found:
    yield from itertools.islice(found, count)


def _mean(function: Callable[..., jax.Array], batches: Iterator[tuple]) -> np.ndarray:
  """Mean over (equally large) batches of what `function` makes of each, summed in float64."""
  found = [function(*batch) for batch in batches]
  return np.mean([np.asarray(x, np.float64) for x in found], axis=0)


def _named(model, importances):
  return dict(zip(model.columns, importances.tolist(), strict=True))


def random(features: Sequence[str], seed: int = 0) -> dict[str, float]:
  """Importances that mean nothing, uniform in 0..1: the order that others have to beat."""
  return dict(
    zip(features, np.random.default_rng(seed).random(len(features)).tolist(), strict=True)
  )


def rank(importances: Mapping[str, float]) -> list[str]:
  """Names of features, the most important first; ties in the order of their names."""
  unknown = [name for name, importance in importances.items() if np.isnan(importance)]
  if unknown:
    raise ValueError(
      f'The importance of {", ".join(unknown)} is NaN and cannot be ranked: the model has '
      'diverged, or read a value that it should not.'
    )
  return sorted(importances, key=lambda name: (-importances[name], name))


def aukc(counts: Sequence[int], aucs: Sequence[float]) -> float:
  """Area under AUC over the number of kept features, by trapezoids, over the range of the numbers.

  So it reads as a mean AUC: a selection that keeps AUC at A throughout has A. The idea is ERASE's
  (area under the K-performance curve), the scale is ours. Compare only over the same range.

  Args:
    counts: how many features were kept, at least two different numbers, in any order.
    aucs: AUC of a model with that many.
  """
  counts, aucs = np.asarray(counts, np.float64), np.asarray(aucs, np.float64)
  if counts.ndim != 1 or counts.shape != aucs.shape:
    raise ValueError(
      f'Counts and AUCs must be 1-D and equally long, got shapes {counts.shape} and {aucs.shape}.'
    )
  if counts.size < 2 or np.unique(counts).size < counts.size:
    raise ValueError(
      f'An area needs at least two counts, each of them once; got {counts.tolist()}.'
    )
  if not (np.isfinite(counts).all() and np.isfinite(aucs).all()):
    raise ValueError(f'Counts and AUCs must be finite, got {counts.tolist()} and {aucs.tolist()}.')
  order = np.argsort(counts)
  return float(np.trapezoid(aucs[order], counts[order]) / np.ptp(counts))
