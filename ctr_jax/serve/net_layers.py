"""What the nets are made of, without jax: the counterpart of `models.layers`."""

from __future__ import annotations

import numpy as np

_EPSILON = np.float32(1e-5)  # Of `models.layers`.


def flat(xp, vectors):
  """[batch, fields, width] → [batch, fields · width]."""
  _, fields, width = vectors.shape
  return xp.reshape(vectors, (-1, fields * width))


def linear(xp, p, at, x):
  """x · kernel + bias, of the module at a path."""
  del xp
  return x @ p[f'params/{at}/kernel'] + p[f'params/{at}/bias']


def mlp(xp, p, at, hidden, batch_norm, x):
  """Hidden layers of the module at a path, normalised by what they have seen in training."""
  for i in range(len(hidden)):
    layer = f'{at}/layer_{i}'
    x, bias = x @ p[f'params/{layer}/kernel'], p[f'params/{layer}/bias']
    if batch_norm:
      spread = xp.sqrt(p[f'batch_stats/{layer}/variance'] + _EPSILON)
      gain = p[f'params/{layer}/scale'] / spread
      bias = p[f'params/{layer}/offset'] + (bias - p[f'batch_stats/{layer}/mean']) * gain
      x = x * gain
    x = xp.maximum(x + bias, np.float32(0))
  return x


def output(xp, p, at, *parts):
  """One logit for each row of the parts side by side."""
  x = parts[0] if len(parts) == 1 else xp.concatenate(list(parts), axis=1)
  return xp.reshape(linear(xp, p, at, x), (-1,))


def layer_norm(xp, p, at, x):
  """(x - mean) / √(variance + eps) · scale + offset along the last axis."""
  units, axis = np.float32(x.shape[-1]), len(x.shape) - 1
  centred = x - xp.sum(x, axis=axis, keepdims=True) / units
  variance = xp.sum(centred * centred, axis=axis, keepdims=True) / units
  normal = centred / xp.sqrt(variance + _EPSILON)
  return normal * p[f'params/{at}/scale'] + p[f'params/{at}/offset']


def softmax(xp, x):
  """Along the last axis."""
  axis = len(x.shape) - 1
  chances = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
  return chances / xp.sum(chances, axis=axis, keepdims=True)


def weights(xp, vectors):
  """What is linear of rows [w, v...]: Σ w, [batch]."""
  return xp.sum(xp.take(vectors, 0, axis=2), axis=1)


def without_weight(xp, vectors):
  """The vectors of rows [w, v...]."""
  return xp.take(vectors, np.arange(1, vectors.shape[2]), axis=2)


def products(xp, vectors):
  """⟨v_i, v_j⟩ for i < j: [batch, pairs]."""
  fields = vectors.shape[1]
  square = xp.reshape(vectors @ xp.transpose(vectors, (0, 2, 1)), (-1, fields * fields))
  i, j = np.triu_indices(fields, 1)
  return xp.take(square, i * fields + j, axis=1)
