"""Scoring a split and measuring it."""

from __future__ import annotations

import itertools
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
    seconds: from the columns of the first batch to the last logit, compilation excluded.
  """

  labels: np.ndarray
  logits: np.ndarray
  groups: np.ndarray | None
  seconds: float


def scores(
  model: predict.Model,
  scorer: predict.Scorer,
  arrays: Mapping[str, jax.Array],
  net: Any,
  source: columns.Source,
  split: str,
  batch_size: int = 16384,
) -> Scores:
  """Logits of every sample of a split; of several processes each reads a part, and gets all.

  Raises:
    ValueError: the split has no samples.
  """
  samples, group = num_samples(source, split), source.schema.group
  batch_size = min(batch_size, samples)
  batch_size = -(-batch_size // scorer.multiple) * scorer.multiple
  reader = batches.Batches(
    source, split, model.columns, batch_size, shuffle=False,
    host=scorer.host, hosts=scorer.hosts,
  )  # fmt: skip
  known = source.read(split, ('label', *((group,) if group else ())), 0, samples)
  epoch = reader.epoch(0)
  first = next(epoch)
  # Compile outside of the clock, before any batch is prepared within it.
  jax.block_until_ready(scorer.score(arrays, net, scorer.prepare(first)))
  start = time.perf_counter()
  # Dispatched, not fetched: the device scores while the host reads on.
  logits = [
    scorer.score(arrays, net, prepared)
    for prepared in batches.prefetch(itertools.chain([first], epoch), scorer.prepare)
  ]
  found = _in_order([np.asarray(x) for x in logits], samples, scorer.hosts)
  seconds = time.perf_counter() - start
  return Scores(known['label'], found, _numbered(known[group]) if group else None, seconds)


def _numbered(group):
  """Row numbers as they are; of a numeric feature the numbers of its values from 1, 0 for NaN."""
  if not np.issubdtype(group.dtype, np.floating):
    return group
  values, number = np.unique(group, return_inverse=True)
  return np.where(np.isnan(values), 0, np.arange(1, len(values) + 1))[number].astype(np.int32)


def num_samples(source: columns.Source, split: str) -> int:
  """Samples of a split that has some; others are refused in words."""
  samples = source.num_samples(split)
  if not samples:
    raise ValueError(
      f'Split {split!r} of {source.schema.name!r} has no samples, so nothing can be measured on '
      'it: encode the data with some in it, or name another split.'
    )
  return samples


def _in_order(logits, samples, hosts):
  """Logits by batch, each with a part of every host, to those of the split: `data.batches`."""
  by_host = np.stack(logits).reshape(len(logits), hosts, -1).swapaxes(0, 1).reshape(hosts, -1)
  rows = [(h + 1) * samples // hosts - h * samples // hosts for h in range(hosts)]
  return np.concatenate([x[:n] for x, n in zip(by_host, rows, strict=True)])


def evaluate(*args, **kwargs) -> dict[str, float]:
  """`metrics.summary` of `scores`, and the samples scored per second."""
  found = scores(*args, **kwargs)
  summary = metrics.summary(found.labels, found.logits, found.groups)
  return summary | {'samples_per_second': len(found.labels) / found.seconds}
