"""The nets that cross pairs of fields, in float64 NumPy: pair by pair and head by head.

`logit(name, ...)` is what `reference.logit` is for the others.
"""

import numpy as np

from tests.models import reference


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


def linear(x, params):
  return x @ params['kernel'] + params.get('bias', 0.0)


def relations(vectors, matrices):
  """r_ijh for i < j, heads side by side."""
  _, fields, _ = vectors.shape
  columns = []
  for i in range(fields):
    for j in range(i + 1, fields):
      for s in matrices:
        columns.append([e[i] @ s @ e[j] for e in vectors])
  return np.array(columns).reshape(len(columns), len(vectors)).T


def attend(vectors, matrices, values):
  """e_i + Σ_h Σ_j a_ijh V_hᵀ e_j, sample by sample."""
  y = vectors.copy()
  for b, e in enumerate(vectors):
    for s, v in zip(matrices, values, strict=True):
      for i in range(len(e)):
        weights = softmax(np.array([e[i] @ s @ other for other in e]) / np.sqrt(e.shape[1]))
        y[b, i] += sum(w * (other @ v) for w, other in zip(weights, e, strict=True))
  return y


def relation(vectors, params):
  """The columns that a `Relation` adds; its mode is seen by its parameters."""
  halves = params['matrices']
  matrices = [(a + a.T) / 2 for a in halves]
  if 'values' in params:
    return attend(vectors, matrices, params['values']).reshape(len(vectors), -1)
  return relations(vectors, matrices)


def fwfm(vectors, params):
  linear, vectors = vectors[:, :, 0].sum(1), vectors[:, :, 1:]
  total, weights = params['bias'] + linear, iter(params['pairs'])
  for i in range(vectors.shape[1]):
    for j in range(i + 1, vectors.shape[1]):
      total = total + next(weights) * np.sum(vectors[:, i] * vectors[:, j], axis=1)
  return total


def squeeze(vectors, params):
  z = vectors.mean(2)
  hidden = np.maximum(linear(z, params['reduce']), 0)
  return vectors * np.maximum(linear(hidden, params['expand']), 0)[:, :, None]


def bilinear(vectors, kernel):
  """(v_i W) ⊙ v_j; as many matrices as there are say which of them a pair has."""
  _, fields, _ = vectors.shape
  columns = []
  for i in range(fields):
    for j in range(i + 1, fields):
      number = {1: 0, fields - 1: i}.get(len(kernel), len(columns))
      columns.append((vectors[:, i] @ kernel[number]) * vectors[:, j])
  return np.concatenate(columns, 1) if columns else np.zeros((len(vectors), 0))


def attention(x, params, heads, scaled):
  """One layer of AutoInt."""
  query, key, value = (x @ params[n] for n in ('query', 'key', 'value'))
  units = query.shape[2] // heads
  mixed = np.zeros_like(value)
  for b, i, h in np.ndindex(len(x), x.shape[1], heads):
    own = slice(h * units, (h + 1) * units)
    products = key[b, :, own] @ query[b, i, own]
    weights = softmax(products / np.sqrt(units) if scaled else products)
    mixed[b, i, own] = weights @ value[b, :, own]
  y = mixed + (x @ params['residual'] if 'residual' in params else x)
  if 'norm' in params:
    mean, variance = y.mean(2, keepdims=True), y.var(2, keepdims=True)
    y = (y - mean) / np.sqrt(variance + 1e-5) * params['norm']['scale'] + params['norm']['offset']
  return np.maximum(y, 0)


def autoint(vectors, params, stats, train, heads, scaled):
  x, new = vectors, {}
  for i in range(sum(name.startswith('attention') for name in params)):
    x = attention(x, params[f'attention_{i}'], heads, scaled)
  logit = linear(x.reshape(len(x), -1), params['output'])
  if 'mlp' in params:
    flat = vectors.reshape(len(vectors), -1)
    deep, new['mlp'] = reference.mlp(flat, params['mlp'], stats.get('mlp'), train)
    logit = logit + linear(deep, params['deep'])
  return logit[:, 0], new


def gate(vectors, params, context):
  flat = vectors.reshape(len(vectors), -1)
  read = vectors[:, list(context)].reshape(len(vectors), -1) if context else params['context']
  hidden, _ = reference.mlp(read, params['mlp'], None, False)
  return flat * 2 * sigmoid(linear(hidden, params['output']))


def final_mlp(vectors, params, stats, train, heads, contexts):
  streams, new = [], {}
  for i, context in zip((1, 2), contexts, strict=True):
    x, name = vectors.reshape(len(vectors), -1), f'mlp{i}'
    if f'gate{i}' in params:
      x = gate(vectors, params[f'gate{i}'], context)
    x, new[name] = reference.mlp(x, params[name], stats.get(name), train)
    streams.append(x)
  x, y = streams
  logit = linear(np.concatenate(streams, 1), params['fusion']['linear'])[:, 0]
  kernel = params['fusion']['kernel'].reshape(heads, x.shape[1] // heads, y.shape[1] // heads)
  pieces = (np.split(z, heads, axis=1) for z in streams)
  for left, right, w in zip(*pieces, kernel, strict=True):
    logit = logit + np.sum((left @ w) * right, axis=1)
  return logit, new


def fibinet(vectors, params, stats, train):
  linear_part, vectors = vectors[:, :, 0].sum(1), vectors[:, :, 1:]
  seen = (vectors, squeeze(vectors, params['squeeze']))
  x = np.concatenate([bilinear(v, params['bilinear']['kernel']) for v in seen], 1)
  deep, new = reference.mlp(x, params['mlp'], stats.get('mlp'), train)
  return linear_part + linear(deep, params['output'])[:, 0], {'mlp': new}
