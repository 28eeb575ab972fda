"""The forward function as `jax.export` keeps it: one program for every batch, on three platforms.

(arrays, index, values) → logits. Stored arrays and parameters are arguments, so the program is as
small as its operations; the batch is symbolic. It is `predict`'s forward path, so what is served is
what was trained and evaluated.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ctr_jax import predict
from ctr_jax.serve import served
from ctr_jax.tables import stack

PLATFORMS = ('cpu', 'cuda', 'tpu')


def function(model: predict.Model, host: served.Model):
  """The function that is exported.

  Args:
    model: of training; its leaves lie apart here.
    host: the same as an artifact describes it: what addresses the rows.
  """
  model = model._replace(layout=stack.apart(model.codec.plan))

  def forward(arrays, net, index, values):
    flat = {}
    for path, at in index.items():
      flat[path] = _by_feature(host, path.split('/')[0], at)
    rows = predict.gather_all(model, arrays, flat)
    return predict.logits(model, net, rows, values)[0]

  return forward


def _by_feature(host, table, index):
  """[B, reads, ...] → [B · reads, ...], all reads of one feature before those of the next."""
  parts, start = [], 0
  for _, width in host.sharing(table):
    parts.append(index[:, start : start + width].reshape(-1, *index.shape[2:]))
    start += width
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def program(model: predict.Model, host: served.Model, arrays: Mapping[str, Any], net: Any) -> bytes:
  """The exported function, serialised.

  Args:
    model: see `function`.
    host: see `function`.
    arrays: path → stored array, or a description of it.
    net: the net's variables.
  """
  (batch,) = export.symbolic_shape('batch')
  example = {f.name: _example(f, host) for f in host.features}
  inputs = served.inputs(host, example)

  def symbolic(x):
    return jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)

  def struct(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype)

  arguments = (
    jax.tree.map(struct, dict(arrays)),
    jax.tree.map(struct, net),
    jax.tree.map(symbolic, inputs.index),
    jax.tree.map(symbolic, inputs.values),
  )
  with _without_places():
    made = export.export(jax.jit(function(model, host)), platforms=PLATFORMS)(*arguments)
    return bytes(made.serialize())


@contextlib.contextmanager
def _without_places():
  """Programs do not say from which lines of which files they were made: the same has one text."""
  name = 'jax_traceback_in_locations_limit'
  before = getattr(jax.config, name)
  jax.config.update(name, 0)
  try:
    yield
  finally:
    jax.config.update(name, before)


def _example(feature, host):
  """A column of one sample that reads row 0."""
  if feature.kind == 'numeric':
    return np.zeros(1, np.float32)
  shape = (1, host.widths[feature.name]) if feature.kind == 'ids' else (1,)
  return np.zeros(shape, np.int32)
