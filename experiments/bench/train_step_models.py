"""The model that experiments.bench.train_step trains, its batches, and ours at work on them."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np
import optax

from ctr_jax import compress, models, predict
from ctr_jax.compress import report
from ctr_jax.data import batches, schema
from ctr_jax.tables import rowwise
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib


class Shape(NamedTuple):
  """The size of a model: rows of each table, and what reads them; feature i reads table i mod n."""

  sizes: tuple[int, ...]
  features: int
  dim: int
  hidden: int
  batch: int

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(f'f{i:02}' for i in range(self.features))


def power_law(shape: Shape, count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
  """Batches of columns. P(id = i) ∝ log(1 + 1/(i + 1)) ≈ 1/i: half of the draws hit √rows ids."""
  rng = np.random.default_rng(seed)

  def column(i):
    rows = shape.sizes[i % len(shape.sizes)]
    return np.minimum((rows + 1.0) ** rng.random(shape.batch) - 1, rows - 1).astype(np.int32)

  def batch():
    ids = {name: column(i) for i, name in enumerate(shape.names)}
    return ids | {'label': rng.integers(0, 2, shape.batch).astype(np.float32)}

  return [batch() for _ in range(count)]


def distinct_rows(shape, columns):
  """How many rows a batch touches: what a row-sparse step has to read and write at least."""
  tables = len(shape.sizes)
  reads = [
    np.concatenate([columns[name] for name in shape.names[table::tables]])
    for table in range(min(tables, shape.features))
  ]
  return sum(len(np.unique(x)) for x in reads)


class Ours:
  """A model of ours and its state, trained by the step that training uses."""

  def __init__(
    self,
    shape: Shape,
    layout,
    rows: rowwise.RowOptimizer | None,
    net=None,
    technique: compress.Technique | None = None,
  ):
    features = tuple(
      schema.Feature(name, table=f't{i % len(shape.sizes):02}')
      for i, name in enumerate(shape.names)
    )
    self.model = predict.build(
      schema.Schema('bench', features),
      {f't{i:02}': rows_ for i, rows_ in enumerate(shape.sizes)},
      [('.*', technique or compress.identity())],
      net or models.NETS['dnn'](hidden=(shape.hidden,), dropout=0.0, batch_norm=False),
      shape.dim,
      layout=layout,
    )
    self.recipe = state_lib.Recipe(optax.adam(1e-3), rows)
    self.state = jax.block_until_ready(state_lib.create(self.model, self.recipe, 0))
    self._step = step_lib.compiled(self.model, self.recipe)

  def prepare(self, columns) -> step_lib.Batch:
    """The host's part: addresses and distinct rows."""
    return step_lib.batch(self.model, self.recipe, columns)

  def train(self, inputs: Iterable[step_lib.Batch]) -> None:
    """The device's part."""
    metrics = None
    for x in inputs:
      self.state, metrics = self._step(self.state, x)
    jax.block_until_ready((self.state, metrics))

  def pipeline(self, columns: Iterable[dict[str, np.ndarray]]) -> None:
    """Both, as training runs them: the host's part in a thread, ahead of the device's."""
    self.train(batches.prefetch(iter(columns), self.prepare))

  @property
  def nbytes(self) -> int:
    """Of tables and of the row optimizer's state, exactly."""
    return report.training(self.model.codec, state_lib.slot_leaves(self.model, self.recipe))
