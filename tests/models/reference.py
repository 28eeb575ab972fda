"""The nets in float64 NumPy, written from the papers' formulas and torch's documentation."""

import numpy as np


def batch_norm(x, params, stats, train, momentum=0.1, eps=1e-5):
  """torch's BatchNorm1d. Returns the normalised batch and the new running (mean, variance)."""
  mean, variance = stats['mean'], stats['variance']
  if train:
    mean, variance = x.mean(0), x.var(0)
    unbiased = x.var(0, ddof=1)
    stats = {
      'mean': (1 - momentum) * stats['mean'] + momentum * mean,
      'variance': (1 - momentum) * stats['variance'] + momentum * unbiased,
    }
  y = (x - mean) / np.sqrt(variance + eps) * params['scale'] + params['offset']
  return y, stats


def mlp(x, params, stats, train):
  """Hidden layers without dropout, and the new running statistics."""
  new = {}
  for i in range(len(params)):
    layer = params[f'layer_{i}']
    x = x @ layer['kernel'] + layer['bias']
    if 'scale' in layer:
      x, new[f'layer_{i}'] = batch_norm(x, layer, stats[f'layer_{i}'], train)
    x = np.maximum(x, 0)
  return x, new


def pairs(vectors):
  """Σ_{i<j} ⟨v_i, v_j⟩, pair by pair."""
  fields = vectors.shape[1]
  total = np.zeros(len(vectors))
  for i in range(fields):
    for j in range(i + 1, fields):
      total += np.sum(vectors[:, i] * vectors[:, j], axis=1)
  return total


def cross(x0, params, depth):
  x = x0
  for i in range(depth):
    weight = x @ params[f'kernel_{i}']
    x = x0 * weight + params[f'bias_{i}'] + x
  return x


def cross_v2(x0, params, depth):
  x = x0
  for i in range(depth):
    layer = params[f'layer_{i}']
    x = x0 * (x @ layer['kernel'] + layer['bias']) + x
  return x


def logit(name, vectors, params, stats, train, joined=None):
  """(logit, new running statistics) of the net called `name`, dropout off.

  `joined` are columns that the MLP reads beside the vectors.
  """
  flat, new = vectors.reshape(len(vectors), -1), {}
  if name == 'lr':
    return vectors[:, :, 0].sum(1) + params['bias'], new
  if name == 'fm':
    return vectors[:, :, 0].sum(1) + pairs(vectors[:, :, 1:]) + params['bias'], new
  if name == 'deepfm':
    flat = vectors[:, :, 1:].reshape(len(vectors), -1)
  read = flat if joined is None else np.concatenate([flat, joined], 1)
  deep, new['mlp'] = mlp(read, params['mlp'], stats.get('mlp'), train)
  parts = [deep]
  if name == 'dcn':
    parts = [cross(flat, params['cross'], len(params['cross']) // 2), deep]
  elif name == 'dcnv2':
    parts = [cross_v2(flat, params['cross'], len(params['cross'])), deep]
  output = np.concatenate(parts, 1) @ params['output']['kernel'] + params['output']['bias']
  if name == 'deepfm':
    output[:, 0] += vectors[:, :, 0].sum(1) + pairs(vectors[:, :, 1:])
  return output[:, 0], new
