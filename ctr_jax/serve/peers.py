"""The nets of others that relate fields, without jax; see `nets`."""

from __future__ import annotations

import numpy as np

from ctr_jax.serve import net_layers as layers


def _fwfm(xp, p, settings, vectors, interaction):
  del interaction
  if settings['linear'] == 'weight':
    linear, vectors = layers.weights(xp, vectors), layers.without_weight(xp, vectors)
  elif settings['linear'] == 'feature':
    own, vectors = _halves(xp, vectors)
    linear = xp.sum(layers.flat(xp, own * vectors), axis=1)
  else:
    linear = xp.reshape(layers.flat(xp, vectors) @ p['params/linear'], (-1,))
  pairs = layers.products(xp, vectors)
  column = xp.reshape(p['params/pairs'], (pairs.shape[1], 1))
  return p['params/bias'] + linear + xp.reshape(pairs @ column, (-1,))


def _halves(xp, vectors):
  half = vectors.shape[2] // 2
  return tuple(xp.take(vectors, at, axis=2) for at in np.arange(2 * half).reshape(2, half))


def _fibinet(xp, p, settings, vectors, interaction):
  del interaction
  linear, vectors = layers.weights(xp, vectors), layers.without_weight(xp, vectors)
  seen = xp.sum(vectors, axis=2) / np.float32(vectors.shape[2])
  for name in ('reduce', 'expand'):
    seen = xp.maximum(seen @ p[f'params/squeeze/{name}/kernel'], np.float32(0))
  weighted = vectors * xp.expand_dims(seen, -1)
  parts = [layers.flat(xp, _bilinear(xp, p, settings, v)) for v in (vectors, weighted)]
  x = xp.concatenate(parts, axis=1)
  x = layers.mlp(xp, p, 'mlp', settings['hidden'], settings['batch_norm'], x)
  return linear + layers.output(xp, p, 'output', x)


def _bilinear(xp, p, settings, vectors):
  """(v_i W) ⊙ v_j for i < j: [batch, pairs, dim]."""
  kernel_NxDxD = p['params/bilinear/kernel']
  fields = vectors.shape[1]
  i, j = np.triu_indices(fields, 1)
  kind = settings['bilinear']
  if kind == 'all':
    left = xp.take(vectors @ xp.take(kernel_NxDxD, 0, axis=0), i, axis=1)
  else:
    read = i if kind == 'interaction' else np.arange(fields - 1)
    by_field = xp.transpose(xp.take(vectors, read, axis=1), (1, 0, 2))
    left = xp.transpose(by_field @ kernel_NxDxD, (1, 0, 2))
    left = left if kind == 'interaction' else xp.take(left, i, axis=1)
  return left * xp.take(vectors, j, axis=1)


def _final_mlp(xp, p, settings, vectors, interaction):
  del interaction
  contexts, streams = vectors, []
  if not settings['shared']:
    vectors, contexts = _halves(xp, vectors)
  for i in (1, 2):
    x = layers.flat(xp, vectors)
    if settings['gate'] is not None:
      x = x * _gate(xp, p, f'gate{i}', settings['gate'], settings[f'context{i}'], contexts)
    hidden = settings[f'hidden{i}']
    streams.append(layers.mlp(xp, p, f'mlp{i}', hidden, settings['batch_norm'], x))
  return _fusion(xp, p, settings['heads'], *streams)


def _gate(xp, p, at, hidden, context, contexts):
  """2σ(MLP(context)) = 1 + tanh(MLP(context) / 2), which does not overflow."""
  if context:
    x = layers.flat(xp, xp.take(contexts, np.asarray(context), axis=1))
  else:
    x = p[f'params/{at}/context']
  x = layers.mlp(xp, p, f'{at}/mlp', hidden, False, x)
  return np.float32(1) + xp.tanh(np.float32(0.5) * layers.linear(xp, p, f'{at}/output', x))


def _fusion(xp, p, heads, x, y):
  """w_x · x + w_y · y + bias + Σ_h x_hᵀ W_h y_h."""
  widths = x.shape[1] // heads, y.shape[1] // heads
  kernel_HxXxY = xp.reshape(p['params/fusion/kernel'], (heads, *widths))
  x_HxBxX, y_HxBxY = (
    xp.transpose(xp.reshape(z, (-1, heads, n)), (1, 0, 2))
    for z, n in zip((x, y), widths, strict=True)
  )
  bilinear = xp.sum(xp.sum((x_HxBxX @ kernel_HxXxY) * y_HxBxY, axis=2), axis=0)
  return layers.output(xp, p, 'fusion/linear', x, y) + bilinear


def _autoint(xp, p, settings, vectors, interaction):
  del interaction
  x = vectors
  for i in range(settings['attention_layers']):
    x = _attention(xp, p, settings, f'attention_{i}', x)
  logit = layers.output(xp, p, 'output', layers.flat(xp, x))
  if not settings['hidden']:
    return logit
  deep = layers.flat(xp, vectors)
  deep = layers.mlp(xp, p, 'mlp', settings['hidden'], settings['batch_norm'], deep)
  return logit + layers.output(xp, p, 'deep', deep)


def _attention(xp, p, settings, at, x):
  """relu(norm(heads side by side + R x))."""
  _, fields, width = x.shape
  heads, units = settings['heads'], settings['attention_units']
  each = units // heads

  def of_heads(name, axes):
    projected = x @ p[f'params/{at}/{name}']
    return xp.transpose(xp.reshape(projected, (-1, fields, heads, each)), axes)

  scores_BxHxFxF = of_heads('query', (0, 2, 1, 3)) @ of_heads('key', (0, 2, 3, 1))
  if settings['scaled']:
    scores_BxHxFxF = scores_BxHxFxF / np.float32(each**0.5)
  mixed = layers.softmax(xp, scores_BxHxFxF) @ of_heads('value', (0, 2, 1, 3))
  mixed = xp.reshape(xp.transpose(mixed, (0, 2, 1, 3)), (-1, fields, units))
  y = mixed + (x if width == units else x @ p[f'params/{at}/residual'])
  if settings['layer_norm']:
    y = layers.layer_norm(xp, p, f'{at}/norm', y)
  return xp.maximum(y, np.float32(0))


NETS = {
  'FwFM': _fwfm,
  'FiBiNET': _fibinet,
  'FinalMLP': _final_mlp,
  'AutoInt': _autoint,
  'AutoIntPlus': _autoint,
}
"""Class of the Flax module → (xp, parameters, settings, vectors, interaction or None) → logits."""
