"""What each feature costs, measured: time online, bytes stored, keys."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ctr_jax import predict
from ctr_jax.data import columns
from ctr_jax.evaluate import evaluate
from ctr_jax.tables import leaf


class Cost(NamedTuple):
  """Of one feature.

  Attributes:
    seconds: to address, gather, decode and pool the feature of one sample, in batches.
    nbytes: of its stored table. Features that share a table share them alike, and its keys.
    keys: rows of its table before compression.
  """

  seconds: float
  nbytes: float
  keys: float


def measure(
  model: predict.Model,
  arrays: Mapping[str, jax.Array],
  source: columns.Source,
  split: str = 'valid',
  batch_size: int = 8192,
  turns: int = 15,
) -> dict[str, Cost]:
  """Feature → cost, of the features that a model reads.

  Seconds are the median over interleaved turns, so that what else the machine does meets all
  features alike; the cost of a call without any feature is taken away.

  Args:
    model: whose rules say how tables are stored.
    arrays: its stored arrays by name; trained or not, they cost the same.
    source: what samples are read from.
    split: of the source.
    batch_size: samples looked up at a time.
    turns: how often each is timed.
  """
  batch_size = min(batch_size, evaluate.num_samples(source, split))
  batch = source.read(split, model.columns, 0, batch_size)
  looks = {f.name: _lookup(model, f, arrays, batch) for f in model.features}
  empty = jax.jit(lambda x: x + 1)
  looks[''] = lambda: empty(np.float32(1))
  times = {name: [] for name in looks}
  for turn in range(turns + 1):
    for name, look in looks.items():
      start = time.perf_counter()
      jax.block_until_ready(look())
      if turn:  # The first compiles.
        times[name].append(time.perf_counter() - start)
  seconds = {name: float(np.median(found)) for name, found in times.items()}
  sharing = [feature.table for feature in model.features]
  return {
    f.name: Cost(
      max(seconds[f.name] - seconds[''], 0.0) / batch_size,
      leaf.nbytes(model.codec.plan[f.table]) / sharing.count(f.table),
      model.rows[f.table] / sharing.count(f.table),
    )
    for f in model.features
  }


def _lookup(model, feature, arrays: Mapping[str, Any], batch):
  """() → the vectors of one feature for the batch, addressed on the host each time."""
  plan = leaf.flatten({feature.table: model.codec.plan[feature.table]})
  layout = model.layout._replace(leaves=plan)
  alone = model._replace(features=(feature,), layout=layout)
  column = {feature.name: batch[feature.name]}

  @jax.jit
  def vectors(arrays, inputs):
    rows = predict.gather_all(alone, arrays, inputs.index)
    return predict.vectors(alone, rows, inputs.values, train=False)

  return lambda: vectors(arrays, predict.inputs(alone, column))
