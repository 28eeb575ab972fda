"""Deep & Cross Network (Wang et al. 2017): a cross network with weight vectors beside an MLP."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from ctr_jax.models import labels, layers

# Columns that stand for a constant are at most so large: float32 rounds them by 1e-6.
_LARGEST = 30.0


class Cross(nn.Module):
  """x_{l+1} = x_0 · (w_l · x_l) + b_l + x_l."""

  depth: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x0 = x
    for i in range(self.depth):
      kernel = self.param(f'kernel_{i}', layers.xavier_normal, (x.shape[1], 1))
      bias = self.param(f'bias_{i}', nn.initializers.zeros, (x.shape[1],))
      x = x0 * (x @ kernel) + bias[None] + x
    return x


class DCN(nn.Module):
  """logit = w · [Cross(x), MLP(x)] + bias with x = [v_1 ... v_F]."""

  hidden: Sequence[int] = (400, 400, 400)
  dropout: float = 0.2
  batch_norm: bool = True
  cross_layers: int = 3
  interaction: nn.Module | None = None

  weighs_all = True

  def width(self, dim: int) -> int:
    return dim

  def labels(self, fields: Sequence[str], width: int) -> dict[str, labels.Axes]:
    own, deep = labels.mlp(self.hidden, labels.joined(self.interaction, fields, width))
    x = labels.columns(fields, width)
    for i in range(self.cross_layers):
      own |= {f'cross/kernel_{i}': (x, None), f'cross/bias_{i}': (x,)}
    return own | {'output/kernel': (labels.within('cross', x) + deep, None)}

  def settled(
    self, params: Mapping[str, Any], fields: Sequence[str], gone: Collection[str], width: int
  ) -> dict[str, np.ndarray]:
    """Moves the constants that zero vectors leave to what the other fields keep.

    Where x_0 is zero, x_l is still the sum B_l of the biases before it. Of this, w_l · B_l enters
    layer l's product, and the output's w · B_L the logit. The latter goes to the output's bias.
    In place of the former, c_l, the columns that stay get D_l = w_l c_l / |w_l|², the least that
    the product cannot tell from it: b_l grows by D_{l+1} - D_l. D_L is zero, so that the output
    sees nothing of it; D_0 is, since B_0 is.

    Args:
      params: path → array, over `fields`.
      fields: names, in order.
      gone: those whose vectors are zero.
      width: columns of a vector.

    Returns:
      The parameters that change, by path. Columns that go have no bias any more.

    Raises:
      ValueError: the columns that stay have no weights that could hold the constant.
    """
    if not self.cross_layers:
      return {}

    def of(path):
      return np.asarray(params[path], np.float64)

    layers_L = range(self.cross_layers)
    goes_C = np.array([x.fields[0] in gone for x in labels.columns(fields, width)])
    kernels_LxC = np.stack([of(f'cross/kernel_{i}')[:, 0] for i in layers_L])
    biases_LxC = np.stack([of(f'cross/bias_{i}') for i in layers_L])
    sums_LxC = np.cumsum(np.where(goes_C, biases_LxC, 0.0), axis=0)
    constants = np.sum(kernels_LxC[1:] * sums_LxC[:-1], axis=1)
    moved_LxC = np.zeros((self.cross_layers + 1, goes_C.size))
    moved_LxC[1:-1] = _held(np.where(goes_C, 0.0, kernels_LxC[1:]), constants)
    biases_LxC = np.where(goes_C, 0.0, biases_LxC + np.diff(moved_LxC, axis=0))
    rest = of('output/kernel')[: goes_C.size, 0] @ sums_LxC[-1]
    settled = {f'cross/bias_{i}': biases_LxC[i] for i in layers_L}
    settled['output/bias'] = of('output/bias') + rest
    return {path: x.astype(params[path].dtype) for path, x in settled.items()}

  @nn.compact
  def __call__(self, vectors: jax.Array, *, train: bool) -> jax.Array:
    x = layers.flatten(vectors)
    cross = Cross(self.cross_layers, name='cross')(x)
    mlp = layers.MLP(self.hidden, self.dropout, self.batch_norm, name='mlp')
    deep = mlp(layers.joined(x, self.interaction, vectors), train=train)
    return layers.Output(name='output')(cross, deep)


def _held(kernels, constants):
  """The least columns x_l with w_l · x_l = c_l, for each row of [layers, columns] and [layers]."""
  squares = np.sum(np.square(kernels), axis=1)
  if np.any(np.square(constants) > _LARGEST**2 * squares):
    raise ValueError(
      'DCN cannot take this part: biases of the fields that go leave a constant in the product of '
      'a cross layer whose weights for the fields that stay are (almost) zero, so nothing of it '
      'could hold the constant. Keep one more field, or train a net anew.'
    )
  scales = np.divide(constants, squares, out=np.zeros_like(squares), where=squares > 0)
  return kernels * scales[:, None]
