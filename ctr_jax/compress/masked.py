"""A table of which some values are zero for good."""

from __future__ import annotations

import jax.numpy as jnp

from ctr_jax.compress.codec import Codec, technique
from ctr_jax.compress.int_quantize import pack, unpack
from ctr_jax.tables import leaf as leaf_lib


@technique
def masked():
  """vector = row · mask, a frozen bit for each value: PEP's retraining, after `prune`.

  `encode` of a pruned table masks what is zero, and loses nothing. The paper (as lottery tickets
  do) retrains from the values before pruning: put those in place of 'table', and keep the mask.
  Nothing is masked before `encode`. This form is for training; `sparse_rows` is the small one.
  """

  def build(leaf):
    rows, cols = leaf.shape
    ones = leaf_lib.constant(255)
    bits = leaf_lib.Leaf((rows, -(-cols // 8)), jnp.uint8, ('row', 'mask'), ones, frozen=True)

    def encode(table):
      return {'mask': pack((table != 0).astype(jnp.uint8), 1), 'table': leaf.stored(table)}

    def decode(gathered, **context):
      values = gathered['table']
      return values * unpack(gathered['mask'], 1, cols).astype(values.dtype)

    return Codec({'mask': bits, 'table': leaf}, encode, lambda i: {'mask': i, 'table': i}, decode)

  return build
