"""How a trial learns: Adam for the net, a row optimizer or Adam for its tables."""

from __future__ import annotations

import dataclasses

import optax

from ctr_jax import predict
from ctr_jax.tables import rowwise
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib

ROW_OPTIMIZERS = {
  'sgd': lambda lr, l2: rowwise.sgd(lr, l2),
  'adagrad': lambda lr, l2: rowwise.adagrad(lr, l2, per='row'),
  'adagrad_element': lambda lr, l2: rowwise.adagrad(lr, l2, per='element'),
  'lazy_adam': lambda lr, l2: rowwise.lazy_adam(lr, l2),
}
_GATE_OPTIMIZERS = {'adam': optax.adam, 'sgd': optax.sgd}


@dataclasses.dataclass(frozen=True)
class Optimizer:
  """How net and tables learn.

  Attributes:
    mode: 'rows' (only touched rows move) or 'dense' (Adam over whole tables, as published recipes).
    learning_rate: of Adam, for the net, and in dense mode for the tables.
    rows: in mode 'rows' the row optimizer, a name in ROW_OPTIMIZERS.
    rows_learning_rate: of the row optimizer.
    l2: λ; in dense mode of (λ/2)·‖E‖² over whole tables, in mode 'rows' on the touched rows.
    clip: norm at which gradients that Adam sees are clipped.
    gate_learning_rate: of gates (`compress.gate`) of fields and columns; None: as the net.
    gate_optimizer: with a rate of their own, 'adam' (None is the same) or 'sgd'.
  """

  mode: str = 'rows'
  learning_rate: float = 1e-3
  rows: str = 'adagrad'
  rows_learning_rate: float = 0.05
  l2: float = 1e-3
  clip: float = 10.0
  gate_learning_rate: float | None = None
  gate_optimizer: str | None = None

  def recipe(self, model: predict.Model | None = None) -> state_lib.Recipe:
    """What `train` takes; with a model, L2 knows which of its leaves are vectors."""
    adam = (optax.clip_by_global_norm(self.clip), self._adam())
    if self.mode == 'dense':
      return state_lib.Recipe(optax.chain(step_lib.l2_on_tables(self.l2, model), *adam))
    if self.mode != 'rows':
      raise ValueError(f"An optimizer's mode is 'rows' or 'dense', got {self.mode!r}.")
    return state_lib.Recipe(
      optax.chain(*adam), ROW_OPTIMIZERS[self.rows](self.rows_learning_rate, self.l2)
    )

  def _adam(self):
    if self.gate_learning_rate is None:
      return optax.adam(self.learning_rate)
    of_gates = _GATE_OPTIMIZERS[self.gate_optimizer or 'adam'](self.gate_learning_rate)

    def labels(params):
      gates = {n: 'gate' if n.split('/')[-1] == 'gate' else 'rest' for n in params['tables']}
      return {'net': 'rest', 'tables': gates}

    return optax.multi_transform({'gate': of_gates, 'rest': optax.adam(self.learning_rate)}, labels)
