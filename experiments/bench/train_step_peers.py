"""The same training step in other libraries, for experiments.bench.train_step.

Each function builds a model and returns `(prepare, step)`: `prepare` turns a batch of columns into
what `step` takes, ahead of time and off the clock; `step` trains on it. A library that is not
installed raises ImportError.
"""

import numpy as np


def _embeddings(shape, sparse):
  import torch

  class Net(torch.nn.Module):
    """One nn.Embedding for each table, then the small net that all of them train."""

    def __init__(self):
      super().__init__()
      self.tables = torch.nn.ModuleList(
        torch.nn.Embedding(rows, shape.dim, sparse=sparse) for rows in shape.sizes
      )
      self.net = _head(shape)

    def forward(self, ids):
      tables = len(self.tables)
      rows = [self.tables[i % tables](x) for i, x in enumerate(ids)]
      return self.net(torch.cat(rows, 1))[:, 0]

  return Net()


def _head(shape):
  import torch

  return torch.nn.Sequential(
    torch.nn.Linear(shape.features * shape.dim, shape.hidden),
    torch.nn.ReLU(),
    torch.nn.Linear(shape.hidden, 1),
  )


def _trainer(model, optimizers):
  import torch

  def step(inputs):
    *ids, label = inputs
    for optimizer in optimizers:
      optimizer.zero_grad()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(model(*ids), label)
    loss.backward()
    for optimizer in optimizers:
      optimizer.step()
    return loss.item()

  return step


def _ids_and_label(columns, shape):
  import torch

  ids = [torch.from_numpy(columns[name].astype(np.int64)) for name in shape.names]
  return ids, torch.from_numpy(columns['label'])


def torch_dense_adam(shape, lr=1e-3):
  """nn.Embedding and Adam over everything."""
  import torch

  model = _embeddings(shape, sparse=False)
  step = _trainer(model, [torch.optim.Adam(model.parameters(), lr)])
  return lambda columns: _ids_and_label(columns, shape), step


def torch_sparse_adagrad(shape, lr=0.05):
  """nn.Embedding(sparse=True) with Adagrad (a sum for each element), Adam for the net."""
  import torch

  torch.sparse.check_sparse_tensor_invariants.disable()  # The default; said so, it does not warn.
  model = _embeddings(shape, sparse=True)
  optimizers = [
    torch.optim.Adagrad(model.tables.parameters(), lr),
    torch.optim.Adam(model.net.parameters(), 1e-3),
  ]
  return lambda columns: _ids_and_label(columns, shape), _trainer(model, optimizers)


def fbgemm(shape, lr=0.05):
  """FBGEMM's fused tables on the CPU: exact row-wise Adagrad inside the backward pass."""
  import torch
  from fbgemm_gpu import split_table_batched_embeddings_ops_common as common
  from fbgemm_gpu import split_table_batched_embeddings_ops_training as training
  from fbgemm_gpu.split_embedding_configs import EmbOptimType

  where = common.EmbeddingLocation.HOST, training.ComputeDevice.CPU

  class Net(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.tables = training.SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, shape.dim, *where) for rows in shape.sizes],
        feature_table_map=sorted(i % len(shape.sizes) for i in range(shape.features)),
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=lr,
        eps=1e-8,
      )
      self.net = _head(shape)

    def forward(self, ids, offsets):
      # Bags of one id each, and sums of them: [batch, features · dim].
      return self.net(self.tables(ids, offsets))[:, 0]

  def prepare(columns):
    ids, label = _ids_and_label(columns, shape)
    flat = torch.cat(_by_table(ids, len(shape.sizes)))
    return flat, torch.arange(flat.numel() + 1), label

  model = Net()
  return prepare, _trainer(model, [torch.optim.Adam(model.net.parameters(), 1e-3)])


def _by_table(ids, tables):
  """In the order of the feature_table_map, which wants features that share a table side by side."""
  return [ids[i] for i in sorted(range(len(ids)), key=lambda i: i % tables)]


def deepctr_dcn(shape):
  """deepctr-torch's DCN at its own defaults (2 cross layers, 128-128, Adam, L2 over everything).

  The step is the body of the loop in its `BaseModel.fit`.
  """
  import torch
  from deepctr_torch import models
  from deepctr_torch.inputs import SparseFeat

  sizes = [shape.sizes[i % len(shape.sizes)] for i in range(shape.features)]
  features = [
    SparseFeat(name, rows, shape.dim) for name, rows in zip(shape.names, sizes, strict=True)
  ]
  model = models.DCN(features, features)
  model.compile('adam', 'binary_crossentropy')
  model.train()

  def prepare(columns):
    ids = np.stack([columns[name] for name in shape.names], axis=1)
    return torch.from_numpy(ids.astype(np.float32)), torch.from_numpy(columns['label'])

  def step(inputs):
    x, y = inputs
    predicted = model(x).squeeze()
    model.optim.zero_grad()
    loss = model.loss_func(predicted, y, reduction='sum')
    total = loss + model.get_regularization_loss() + model.aux_loss
    total.backward()
    model.optim.step()
    return loss.item()

  return prepare, step
