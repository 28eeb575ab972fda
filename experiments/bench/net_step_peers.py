"""The same DCN step in torch and in deepctr-torch, for experiments.bench.net_step.

Each function returns `run(steps)`, which trains for so many steps and returns when they are done. A
library that is not installed raises ImportError.
"""

import itertools
import sys
import types

import numpy as np


def _cycle(batches, convert):
  import torch

  ready = [(convert(torch.from_numpy(ids)), torch.from_numpy(label)) for ids, label in batches]
  return itertools.cycle(ready)


def _turns(step, batches):
  """`run(steps)`, which takes so many steps and waits for the last one's loss."""

  def run(steps):
    for _ in range(steps):
      loss = step(*next(batches))
    return loss.item()

  return run


def _dcn(recipe):
  import torch
  from torch import nn

  width = len(recipe.rows) * recipe.dim

  def mlp():
    inputs = width
    for units in recipe.hidden:
      yield from (nn.Linear(inputs, units), nn.BatchNorm1d(units), nn.ReLU())
      yield nn.Dropout(recipe.dropout)
      inputs = units

  class DCN(nn.Module):
    def __init__(self):
      super().__init__()
      self.tables = nn.ModuleList(nn.Embedding(rows, recipe.dim) for rows in recipe.rows)
      for table in self.tables:
        nn.init.normal_(table.weight, 0.0, 1e-4)
      self.mlp = nn.Sequential(*mlp())
      self.weights = nn.ModuleList(nn.Linear(width, 1, bias=False) for _ in range(recipe.cross))
      self.biases = nn.ParameterList(torch.zeros(width) for _ in range(recipe.cross))
      self.output = nn.Linear(width + recipe.hidden[-1], 1)

    def forward(self, ids):
      x = torch.cat([table(ids[:, i]) for i, table in enumerate(self.tables)], 1)
      cross = x
      for weight, bias in zip(self.weights, self.biases, strict=True):
        cross = x * weight(cross) + bias + cross
      return self.output(torch.cat([cross, self.mlp(x)], 1))[:, 0]

  return DCN()


def torch_dcn(recipe, batches):
  """nn.Embedding, nn.Linear, nn.BatchNorm1d, nn.Dropout and Adam, as their documentation has it."""
  import torch

  model = _dcn(recipe)
  optimizer = torch.optim.Adam(model.parameters(), recipe.learning_rate)
  batches = _cycle(batches, lambda ids: ids.to(torch.int64))

  def step(ids, label):
    optimizer.zero_grad()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(ids), label)
    loss = loss + recipe.l2 / 2 * sum(table.weight.square().sum() for table in model.tables)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimizer.step()
    return loss

  return _turns(step, batches)


def deepctr_dcn(recipe, batches):
  """deepctr-torch's DCN of the same sizes; the step is the body of the loop in its `fit`.

  It does not clip, and its model has a linear part more, as it always does.
  """
  # It imports requests only to ask PyPI for a newer version of itself, which a benchmark need not.
  sys.modules['requests'] = types.ModuleType('requests')
  import torch
  from deepctr_torch import inputs, models

  features = [inputs.SparseFeat(f'f{i}', n, recipe.dim) for i, n in enumerate(recipe.rows)]
  model = models.DCN(
    features,
    features,
    cross_num=recipe.cross,
    dnn_hidden_units=recipe.hidden,
    dnn_dropout=recipe.dropout,
    dnn_use_bn=True,
    l2_reg_embedding=recipe.l2 / 2,
  )
  model.compile(torch.optim.Adam(model.parameters(), recipe.learning_rate), 'binary_crossentropy')
  model.train()
  batches = _cycle(batches, lambda ids: ids.to(torch.float32))

  def step(ids, label):
    predicted = model(ids).squeeze()
    model.optim.zero_grad()
    loss = model.loss_func(predicted, label, reduction='sum')
    total = loss + model.get_regularization_loss() + model.aux_loss
    total.backward()
    model.optim.step()
    return loss

  return _turns(step, batches)


def random_batches(recipe, count, seed=0) -> list[tuple[np.ndarray, np.ndarray]]:
  """Power-law ids int32 [batch, features] and labels float32 [batch]."""
  rng = np.random.default_rng(seed)

  def ids():
    columns = [np.minimum(rng.pareto(0.8, recipe.batch), n - 1) for n in recipe.rows]
    return np.stack(columns, 1).astype(np.int32)

  return [(ids(), (rng.random(recipe.batch) < 1 / 3).astype(np.float32)) for _ in range(count)]
