"""Defaults by data set: embedding width, schedule and optimizer.

The row-sparse learning rate and L2 were scanned on Frappe's validation split, one seed;
ml1m_partial compared two settings. On yelp_implicit four were compared (learning rate 0.003 with L2
0.1, 1 and 5, and 0.001 with 1: valid AUC 0.895, 0.916, 0.896, 0.903); hashed tables learn there for
about 27 epochs, full ones for 8. On synthetic_drift, day 5's AUC after days 1 to 4, from scratch
over three epochs and incrementally by one pass (batches of 512, 256): learning rate 0.003 with L2
1: 0.7275, 0.7312; 0.003, 0.1: 0.7243, 0.7289; 0.01, 0.1: 0.7236, 0.7249; 0.03, 0.1: 0.7171, 0.7133
(with L2 0.1 a fourth epoch was worse at 0.003 and 0.01). The others took Frappe's choice and were
not tuned.

Where no batch norm makes up for their size, that L2 keeps vectors near zero: FM had an AUC of 0.64
to 0.68 on Frappe. Its valid AUC there, one seed, at a learning rate of 0.1 and L2 of 0, 1e-5, 1e-4
and 1e-3 was 0.974, 0.977, 0.966 and 0.937, at 0.3 and the first three 0.974, 0.978, 0.970; on ml1m
0.788, 0.790, 0.792 (not 1e-3) and 0.762, 0.770, 0.792. On yelp_implicit at 0.1 and L2 of 1e-6, 1e-4
and 1e-2: FM 0.869, 0.71, 0.58, FwFM 0.808, 0.873, 0.58 (five seeds of it differ by 0.1); at 0.3 and
1e-6, 1e-5, 3e-5, 1e-4, 1e-3: FM 0.847, 0.879, 0.864, 0.722, 0.613, FwFM 0.729, 0.857, 0.876, 0.909,
0.613; at 1 and 1e-5: 0.875 and 0.863. Other data took ml1m's.

Deep parts are (128, 64). The DCN's validation AUC is better with them than with the published
[400]*3: on Frappe 0.9844 against 0.9839, on ml1m 0.7913 against 0.7896 and on Yelp 0.9171
against 0.9152 (five seeds each; `valid_best` in dimensions_*.json and precision_*.json of
experiments/results). The recipes of experiments/bars_frappe.py keep their own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments import common, optimizers

_SHALLOW = ('lr', 'fm', 'fwfm')


@dataclasses.dataclass(frozen=True)
class Settings:
  """Defaults of a data set.

  Attributes:
    dim: embedding dimension.
    epochs: at most.
    batch_size: samples per training step.
    optimizer: of tables and net.
    shallow: of nets that are little but tables (LR, FM, FwFM).
    dropout: of the nets' deep part.
    hidden: units of the nets' deep part, where it is one MLP.
  """

  dim: int = 16
  epochs: int = 10
  batch_size: int = 4096
  optimizer: optimizers.Optimizer = dataclasses.field(default_factory=optimizers.Optimizer)
  shallow: optimizers.Optimizer = dataclasses.field(default_factory=lambda: _rows(0.1, 1e-4))
  dropout: float = 0.2
  hidden: tuple[int, ...] = (128, 64)

  def optimizer_of(self, net: str) -> optimizers.Optimizer:
    return self.shallow if net in _SHALLOW else self.optimizer

  def net_options(self, net: str) -> dict[str, Any]:
    if net in _SHALLOW:
      return {}
    if net in ('autoint', 'final_mlp'):  # Without an MLP; with two of their own.
      return {'dropout': self.dropout}
    return {'dropout': self.dropout, 'hidden': self.hidden}


def _rows(learning_rate: float, l2: float) -> optimizers.Optimizer:
  return optimizers.Optimizer(rows_learning_rate=learning_rate, l2=l2)


_BY_NAME = {
  'synthetic': Settings(dim=8, epochs=5, batch_size=1024, optimizer=_rows(0.003, 1.0)),
  'synthetic_selection': Settings(dim=8, epochs=5, batch_size=1024, optimizer=_rows(0.003, 1.0)),
  'synthetic_large_ids': Settings(dim=8, epochs=4, optimizer=_rows(0.003, 1.0)),
  'synthetic_drift': Settings(dim=8, epochs=3, batch_size=512, optimizer=_rows(0.003, 1.0)),
  'frappe_x1': Settings(dim=10, epochs=30, optimizer=_rows(0.003, 1.0), shallow=_rows(0.1, 1e-5)),
  'ml1m_partial': Settings(dim=10, epochs=15, optimizer=_rows(0.003, 1.0)),
  'yelp_implicit': Settings(
    dim=16, epochs=30, optimizer=_rows(0.003, 1.0), shallow=_rows(0.3, 3e-5)
  ),
}


def of(data: str) -> Settings:
  """The settings of a data set, widened or not; a general choice for one that is not known.

  With --hidden, its deep part is that; with --embedding_dim, its embeddings are so wide.
  """
  found = _BY_NAME.get(data.removesuffix(common.WIDE), Settings())
  if common.DIM.value:
    found = dataclasses.replace(found, dim=common.DIM.value)
  if not common.HIDDEN.value:
    return found
  return dataclasses.replace(found, hidden=tuple(map(int, common.HIDDEN.value)))
