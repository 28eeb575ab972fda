"""The nets without jax: vectors [batch, fields, width] → logits [batch], as they are evaluated.

Like the decodes of `techniques`, they are written against `xp`: NumPy, or what writes an ONNX
graph.
Parameters are named by their paths in the Flax variables, 'params/mlp/layer_0/kernel'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ctr_jax.serve import net_layers as layers
from ctr_jax.serve import peers

Forward = Callable[[Any, Mapping[str, Any], Any], Any]


def build(description: Mapping[str, Any]) -> Forward:
  """(xp, parameters by path, vectors) → logits, of a described net.

  Args:
    description: {'net': class of the Flax module, **its settings}.

  Raises:
    ValueError: the net, or what it joins to its MLP, is not written here.
  """
  make = _known(NETS, description, 'net')
  inner = description.get('interaction')
  interact = None if inner is None else _known(INTERACTIONS, inner, 'interaction')

  def interaction(xp, p, vectors):
    return interact(xp, p, inner, vectors)

  return lambda xp, p, vectors: make(xp, p, description, vectors, interaction if interact else None)


def _known(table, description, what):
  if description['net'] not in table:
    raise ValueError(
      f'The {what} {description["net"]} is written in jax alone; without it these are: '
      f"{', '.join(sorted(table))}. Score with scorer='jax', or write it into "
      'ctr_jax/serve/nets.py.'
    )
  return table[description['net']]


def _deep(xp, p, settings, vectors, interaction):
  x = layers.flat(xp, vectors)
  if interaction:
    x = xp.concatenate([x, interaction(xp, p, vectors)], axis=1)
  return layers.mlp(xp, p, 'mlp', settings['hidden'], settings['batch_norm'], x)


def _pairs(xp, vectors):
  """Σ_{i<j} ⟨v_i, v_j⟩ = (|Σ v|² - Σ |v|²) / 2."""
  total = xp.sum(vectors, axis=1)
  squares = xp.sum(xp.sum(vectors * vectors, axis=2), axis=1)
  return np.float32(0.5) * (xp.sum(total * total, axis=1) - squares)


def _lr(xp, p, settings, vectors, interaction):
  del settings, interaction
  return layers.weights(xp, vectors) + p['params/bias']


def _fm(xp, p, settings, vectors, interaction):
  del settings, interaction
  return (
    layers.weights(xp, vectors) + _pairs(xp, layers.without_weight(xp, vectors)) + p['params/bias']
  )


def _dnn(xp, p, settings, vectors, interaction):
  return layers.output(xp, p, 'output', _deep(xp, p, settings, vectors, interaction))


def _deepfm(xp, p, settings, vectors, interaction):
  linear, vectors = layers.weights(xp, vectors), layers.without_weight(xp, vectors)
  deep = layers.output(xp, p, 'output', _deep(xp, p, settings, vectors, interaction))
  return deep + linear + _pairs(xp, vectors)


def _dcn(xp, p, settings, vectors, interaction):
  x0 = x = layers.flat(xp, vectors)
  for i in range(settings['cross_layers']):
    x = x0 * (x @ p[f'params/cross/kernel_{i}']) + p[f'params/cross/bias_{i}'] + x
  return layers.output(xp, p, 'output', x, _deep(xp, p, settings, vectors, interaction))


def _dcnv2(xp, p, settings, vectors, interaction):
  x0 = x = layers.flat(xp, vectors)
  for i in range(settings['cross_layers']):
    at = f'params/cross/layer_{i}'
    x = x0 * (x @ p[f'{at}/kernel'] + p[f'{at}/bias']) + x
  return layers.output(xp, p, 'output', x, _deep(xp, p, settings, vectors, interaction))


def _relation(xp, p, settings, vectors):
  _, fields, dim = vectors.shape
  heads = settings['heads']
  halves = p['params/interaction/matrices']
  matrices = np.float32(0.5) * (halves + xp.transpose(halves, (0, 2, 1)))
  if settings['mode'] == 'pairwise':
    square = xp.reshape(_products(xp, vectors, matrices, heads), (-1, fields * heads * fields))
    i, j = np.triu_indices(fields, 1)
    upper = (i[:, None] * heads + np.arange(heads)[None]) * fields + j[:, None]
    return xp.take(square, upper.reshape(-1), axis=1)
  scores = _products(xp, vectors, matrices / np.float32(dim**0.5), heads)
  chances = xp.exp(scores - xp.max(scores, axis=2, keepdims=True))
  mixed = (chances @ vectors) / xp.sum(chances, axis=2, keepdims=True)
  mixed = xp.reshape(mixed, (-1, fields, heads * dim))
  values = xp.reshape(p['params/interaction/values'], (heads * dim, dim))
  return layers.flat(xp, vectors + mixed @ values)


def _products(xp, vectors, matrices, heads):
  """e_iᵀ S_h e_j for all i, h, j: [batch, fields · heads, fields]."""
  _, fields, dim = vectors.shape
  wide_DxHD = xp.reshape(xp.transpose(matrices, (1, 0, 2)), (dim, heads * dim))
  through = xp.reshape(vectors @ wide_DxHD, (-1, fields * heads, dim))
  return through @ xp.transpose(vectors, (0, 2, 1))


def _inner_product(xp, p, settings, vectors):
  del p, settings
  return layers.products(xp, vectors)


NETS = {
  'LR': _lr, 'FM': _fm, 'DNN': _dnn, 'DeepFM': _deepfm, 'DCN': _dcn, 'DCNv2': _dcnv2, **peers.NETS
}  # fmt: skip
"""Class of the Flax module → (xp, parameters, settings, vectors, interaction or None) → logits."""

INTERACTIONS = {'Relation': _relation, 'InnerProduct': _inner_product}
"""Class of the Flax module → (xp, parameters, settings, vectors) → columns [batch, n]."""
