"""Values below a learned threshold are zero."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ctr_jax.compress.codec import WHOLE, Codec, technique
from ctr_jax.tables import leaf as leaf_lib


@technique
def prune(threshold: str = 'table', start: float = -15.0, decay: float = 1e-5):
  """vector = sign(v) · ReLU(|v| − σ(s)) with v and s learned (PEP, Liu et al., ICLR 2021).

  The loss alone hardly moves s, whose gradient is σ'(s) ≈ 3e-7 at the start. In the published code
  it is Adam's weight decay that raises s towards zero, and with it the threshold towards 1/2; that
  is our reading, and `decay` is this weight: the penalty is decay/2 · mean(s²).

  Training leaves a dense table. Its zeros are of use afterwards: `masked` trains on with them and
  `sparse_rows` stores the rest. `encode` adds σ(start) to every |v| > 0, so that nothing is lost.

  Args:
    threshold: one s for the 'table', for each 'column' (both trained by the net's optimizer) or
      for each 'row'.
    start: where s starts.
    decay: pulls s to zero.
  """
  if threshold not in ('table', 'column', 'row'):
    raise ValueError(f'prune has a threshold per table, column or row, got {threshold!r}.')
  if decay < 0:
    raise ValueError(f'prune: decay pulls thresholds up, so it is ≥ 0, got {decay}.')

  def build(leaf):
    rows, cols = leaf.shape
    shape, axes = {
      'table': ((1,), ('threshold',)),
      'column': ((cols,), ('col',)),
      'row': ((rows,), ('row',)),
    }[threshold]
    s = leaf_lib.Leaf(shape, jnp.float32, axes, leaf_lib.constant(start), decay=False)
    plan = {'table': leaf, 'threshold': s}

    def address(ids):
      return {'table': ids, 'threshold': ids if threshold == 'row' else WHOLE}

    def decode(gathered, **context):
      values, s = gathered['table'], gathered['threshold']
      s = s[..., None] if threshold == 'row' else s.reshape((1,) * (values.ndim - 1) + (-1,))
      return jnp.sign(values) * jax.nn.relu(jnp.abs(values) - jax.nn.sigmoid(s))

    def encode(table):
      raised = table + jnp.sign(table) * jax.nn.sigmoid(jnp.asarray(start, table.dtype))
      return {'table': leaf.stored(raised), 'threshold': jnp.full(shape, start, jnp.float32)}

    def penalty(gathered, **context):
      return decay / 2 * jnp.mean(jnp.square(gathered['threshold']))

    return Codec(plan, encode, address, decode, penalty)

  return build
