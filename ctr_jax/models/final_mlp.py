"""FinalMLP (Mao et al. 2023): two MLPs, each behind a gate of its own, and a bilinear fusion."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax.models import labels, layers


class Gate(nn.Module):
  """x ⊙ 2σ(MLP(context)): how much of each input a stream sees, by the context fields.

  Attributes:
    hidden: units of the gate's MLP (ReLU, no normalisation).
    context: indices of fields; () for a learned constant in place of a context.
  """

  hidden: Sequence[int]
  context: Sequence[int] = ()

  @nn.compact
  def __call__(self, vectors: jax.Array, contexts: jax.Array) -> jax.Array:
    if self.context:
      context = layers.flatten(contexts[:, np.asarray(self.context)])
    else:
      context = self.param('context', nn.initializers.zeros, (1, contexts.shape[-1]))
    hidden = layers.MLP(self.hidden, 0.0, batch_norm=False, name='mlp')(context, train=False)
    x = layers.flatten(vectors)
    gate = 2.0 * jax.nn.sigmoid(layers.Linear(x.shape[1], name='output')(hidden))
    return x * gate if self.context else x * jnp.broadcast_to(gate, x.shape)


class Fusion(nn.Module):
  """logit = w_x · x + w_y · y + bias + Σ_h x_hᵀ W_h y_h, with x and y cut into `heads` pieces."""

  heads: int

  @nn.compact
  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    pieces = x.shape[1] // self.heads, y.shape[1] // self.heads
    if any(whole.shape[1] % self.heads for whole in (x, y)):
      raise ValueError(
        f'{self.heads} heads have to divide the widths of both streams, {x.shape[1]} and '
        f'{y.shape[1]}: change the last of hidden1 or hidden2, or the heads.'
      )
    # Drawn as the matrix with one output that the published code has, so with its deviation.
    flat = self.param('kernel', layers.xavier_normal, (self.heads * pieces[0] * pieces[1], 1))
    kernel_HxXxY = flat.reshape(self.heads, *pieces)
    x_BxHxX, y_BxHxY = (
      z.reshape(z.shape[0], self.heads, n) for z, n in zip((x, y), pieces, strict=True)
    )
    bilinear = jnp.einsum('bhx,hxy,bhy->b', x_BxHxX, kernel_HxXxY, y_BxHxY)
    return layers.Output(name='linear')(x, y) + bilinear


class FinalMLP(nn.Module):
  """logit = Fusion(MLP_1(gate_1(x)), MLP_2(gate_2(x))) with x = [v_1 ... v_F].

  The gates read the vectors of their context fields that the streams read too. The published code
  gives the gates tables of their own; `shared=False` does so by rows of [v..., c...], of which the
  streams read v and the gates c.

  Attributes:
    hidden1: units of the first stream.
    hidden2: units of the second stream.
    dropout: of both.
    batch_norm: in both.
    heads: of the fusion; 1 is the full bilinear form.
    gate: hidden units of the gates; None leaves the gates out.
    context1: indices of the fields that the first gate reads; () for a learned constant.
    context2: of the second.
    shared: gates and streams read the same vectors.
  """

  hidden1: Sequence[int] = (400,)
  hidden2: Sequence[int] = (100,)
  dropout: float = 0.4
  batch_norm: bool = True
  heads: int = 5
  gate: Sequence[int] | None = (400,)
  context1: Sequence[int] = (0,)
  context2: Sequence[int] = (1,)
  shared: bool = True

  weighs_all = True

  def width(self, dim: int) -> int:
    return dim if self.shared else 2 * dim

  def labels(self, fields: Sequence[str], width: int) -> dict[str, labels.Axes]:
    """Gates know their context by index: `part` refuses where another field would have it."""
    if not (self.hidden1 and self.hidden2):
      raise ValueError(
        'No part can be taken of a FinalMLP with a stream without layers: its fusion cuts the '
        'columns of all fields into heads. Give both streams a layer, or train a net anew.'
      )
    dim = width if self.shared else width // 2
    x, own = labels.columns(fields, dim), {}
    for i, context in ((1, self.context1), (2, self.context2)):
      own[f'mlp{i}/layer_0/kernel'] = (x, None)
      if self.gate is not None:
        own |= self._gate(f'gate{i}', _of(context, fields, dim), x)
    return own

  def _gate(self, name, context, x):
    """Labels of a gate: from its context, or a constant, to the streams' columns."""
    first = {f'{name}/mlp/layer_0/kernel': (context, None)} if self.gate and context else {}
    read = None if self.gate else context or None
    return first | {f'{name}/output/kernel': (read, x), f'{name}/output/bias': (x,)}

  @nn.compact
  def __call__(self, vectors: jax.Array, *, train: bool) -> jax.Array:
    contexts, streams = vectors, []
    if self.gate is not None:
      _refuse_fields_beyond(vectors.shape[1], (*self.context1, *self.context2))
    if not self.shared:
      vectors, contexts = jnp.split(vectors, 2, axis=-1)
    for i, hidden, context in ((1, self.hidden1, self.context1), (2, self.hidden2, self.context2)):
      x = layers.flatten(vectors)
      if self.gate is not None:
        x = Gate(self.gate, context, name=f'gate{i}')(vectors, contexts)
      mlp = layers.MLP(hidden, self.dropout, self.batch_norm, name=f'mlp{i}')
      streams.append(mlp(x, train=train))
    return Fusion(self.heads, name='fusion')(*streams)


def _refuse_fields_beyond(fields, context):
  """jax takes the last field for one that is not there, without a word."""
  if max(context, default=0) >= fields:
    raise ValueError(
      f'A gate of FinalMLP reads the field number {max(context)}, and there are {fields}, numbered '
      'from 0: keep the fields up to it, or train a net anew, with other context1 and context2.'
    )


def _of(context, fields, dim):
  """Labels of what a gate reads."""
  _refuse_fields_beyond(len(fields), context)
  return labels.within('context', labels.columns([fields[i] for i in context], dim))
