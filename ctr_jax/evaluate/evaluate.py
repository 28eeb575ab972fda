"""Scoring a split and measuring it."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ctr_jax import predict
from ctr_jax.data import batches, columns
from ctr_jax.evaluate import metrics


class Scores(NamedTuple):
  """One score per sample of a split, in its order.

  Attributes:
    labels: float32 [n].
    logits: float32 [n].
    groups: int32 [n] or None, the feature that GAUC groups by.
    seconds: from the first read column to the last logit, compilation excluded.
  """

  labels: np.ndarray
  logits: np.ndarray
  groups: np.ndarray | None
  seconds: float


def scorer(model: predict.Model):
  """A jitted (arrays, net, index, values) → logits [batch]."""

  @functools.partial(jax.jit, compiler_options=predict.compiler_options())
  def score(arrays, net, index, values):
    rows = predict.gather_all(model, arrays, index)
    return predict.logits(model, net, rows, values)[0]

  return score


def scores(
  model: predict.Model,
  score: Any,
  arrays: Mapping[str, jax.Array],
  net: Any,
  source: columns.Source,
  split: str,
  batch_size: int = 16384,
) -> Scores:
  """Logits of every sample of a split."""
  group = source.schema.group
  names = tuple(dict.fromkeys((*model.columns, 'label', *((group,) if group else ()))))
  batch_size = min(batch_size, source.num_samples(split))
  reader = batches.Batches(source, split, names, batch_size, shuffle=False)
  labels, groups, logits, start = [], [], [], None

  def prepare(batch):
    return batch, predict.inputs(model, batch)

  for batch, inputs in batches.prefetch(reader.epoch(0), prepare):
    if start is None:  # Compile outside of the clock.
      jax.block_until_ready(score(arrays, net, *inputs))
      start = time.perf_counter()
    kept = int(batch['weight'].sum())
    # Dispatched, not fetched: the device scores while the host reads on.
    logits.append((score(arrays, net, *inputs), kept))
    labels.append(batch['label'][:kept])
    if group:
      groups.append(batch[group][:kept])
  fetched = np.concatenate([np.asarray(x)[:kept] for x, kept in logits])
  seconds = time.perf_counter() - start
  return Scores(np.concatenate(labels), fetched, np.concatenate(groups) if group else None, seconds)


def evaluate(*args, **kwargs) -> dict[str, float]:
  """`metrics.summary` of `scores`, and the samples scored per second."""
  found = scores(*args, **kwargs)
  summary = metrics.summary(found.labels, found.logits, found.groups)
  return summary | {'samples_per_second': len(found.labels) / found.seconds}
