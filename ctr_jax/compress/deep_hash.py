"""No table: hashes of the id are the input of a small net."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ctr_jax.compress import hashing
from ctr_jax.compress.codec import WHOLE, Codec, technique
from ctr_jax.compress.multi_hash import scaled
from ctr_jax.tables import leaf as leaf_lib

# E[mish(z)²] for z ~ N(0, 1).
_MISH_SQUARE = 0.45234

# Of the mean square of a feature: keeps the normal equations solvable.
_RIDGE = 1e-4

# Rows whose features are made at a time by `encode`.
_BLOCK = 1024


@technique
def deep_hash(hashes: int = 1024, hidden: Sequence[int] = (64,), levels: int = 4096, seed: int = 0):
  """An MLP of k hashes of the id (DHE, Kang et al., "Learning to embed categorical features without
  embedding tables", KDD 2021).

  Hash j puts an id at one of `levels` evenly spaced reals in [−1, 1]; layers are x W + b with Mish
  between them and none after the last. Memory does not depend on the table's rows, and all of the
  cost is in the products: hashes · hidden per read. The paper's batch normalisation is left out: a
  vector is a function of its id alone.

  The weights are read whole and trained with the net. They start such that every hidden layer
  gives Mish values of variance one, and vectors have that of the table.

  Args:
    hashes: k.
    hidden: widths of the hidden layers.
    levels: reals that a hash can give; they are a frozen leaf, because addresses are integers.
    seed: hash j uses seed + j.
  """
  if hashes < 1 or levels < 2 or min(hidden, default=1) < 1:
    raise ValueError(
      'deep_hash needs hashes ≥ 1, levels ≥ 2 and hidden layers of at least one unit, got '
      f'{hashes}, {levels} and {hidden}.'
    )

  def build(leaf):
    rows, last = leaf.shape[0], len(hidden)
    plan = _plan(leaf, (hashes, *hidden), levels)

    def address(ids):
      index = hashing.family(ids, seed, hashes, levels)
      return dict.fromkeys(plan, WHOLE) | {'levels': index}

    def features(arrays, inputs):
      for layer in range(last):
        inputs = jax.nn.mish(_dense(arrays, layer, inputs))
      return inputs

    def decode(gathered, **context):
      return _dense(gathered, last, features(gathered, gathered['levels']))

    def encode(table):
      # The hidden layers stay as drawn: random features, of which the last layer is a regression.
      arrays = leaf_lib.init(plan, jax.random.key(seed))

      def read(ids):
        return features(arrays, arrays['levels'][address(ids)['levels']])

      weight, bias = _regress(read, table.astype(jnp.float32), rows)
      return arrays | {f'weight_{last}': weight, f'bias_{last}': bias}

    return Codec(plan, encode, address, decode)

  return build


def _plan(leaf, widths, levels):
  """Leaves of the layers and of the levels. float32: a net's optimizer trains them."""

  def evenly(key, shape, dtype):
    del key
    return jnp.linspace(-1, 1, *shape, dtype=dtype)

  squares = [(levels + 1) / (3 * (levels - 1))] + [_MISH_SQUARE] * (len(widths) - 1)
  plan = {'levels': leaf_lib.Leaf((levels,), jnp.float32, ('row',), evenly, frozen=True)}
  for layer, (n, m) in enumerate(itertools.pairwise((*widths, leaf.shape[1]))):
    init = leaf.init if layer == len(widths) - 1 else leaf_lib.normal(1.0)
    init = scaled(init, 1 / math.sqrt(n * squares[layer]))
    plan[f'weight_{layer}'] = leaf_lib.Leaf((n, m), jnp.float32, ('in', 'out'), init, decay=False)
    plan[f'bias_{layer}'] = leaf_lib.Leaf(
      (m,), jnp.float32, ('out',), leaf_lib.constant(0.0), decay=False
    )
  return plan


def _dense(arrays, layer, inputs):
  outputs = inputs @ arrays[f'weight_{layer}']
  return outputs + jnp.broadcast_to(arrays[f'bias_{layer}'], outputs.shape)


def _regress(read, table, rows):
  """Weight and bias of ridge regression of `table` on read(ids), a block of rows at a time."""
  size = min(_BLOCK, rows)

  def add(total, start):
    ids = start + jnp.arange(size)
    one = (ids < rows).astype(jnp.float32)[:, None]
    inputs = jnp.concatenate([read(ids) * one, one], axis=1)
    wanted = table.at[ids].get(mode='fill', fill_value=0)
    both = jnp.concatenate([inputs, wanted], axis=1)
    return total + jnp.matmul(inputs.T, both, precision='highest'), None

  width = jax.eval_shape(read, jax.ShapeDtypeStruct((1,), jnp.int32)).shape[1] + 1
  zero = jnp.zeros((width, width + table.shape[1]))
  total, _ = jax.lax.scan(add, zero, jnp.arange(0, rows, size))
  gram, product = total[:, :width], total[:, width:]
  ridge = _RIDGE * jnp.trace(gram) / width * jnp.eye(width)
  solved = jnp.linalg.solve(gram + ridge, product)
  return solved[:-1], solved[-1]
