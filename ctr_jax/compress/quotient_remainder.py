"""Quotient-remainder: two small tables, and a pair of rows that no other id has."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp

from ctr_jax.compress.codec import Codec, technique
from ctr_jax.compress.multi_hash import bucket_mean, scaled
from ctr_jax.tables import leaf as leaf_lib


@technique
def quotient_remainder(divisor: int, combine: str = 'multiply'):
  """Row id div m of one table with row id mod m of another (Shi et al., KDD 2020).

  The pair is unique for every id: id = (id div m) · m + id mod m. ⌈rows/m⌉ + m rows are stored,
  the last quotient row included when m does not divide the rows.

  Args:
    divisor: m. With m ≥ the table's rows there is one quotient row, and 'multiply' and 'add' are
      lossless.
    combine: 'multiply' (quotients start at one, so that training starts as the hashing trick),
      'add' (known to be sensitive to its scale: both start with half of the variance) or 'concat'
      (half of the columns each).
  """
  if combine not in ('multiply', 'add', 'concat'):
    raise ValueError(f'quotient_remainder combines by multiply, add or concat, got {combine!r}.')
  if divisor < 1:
    raise ValueError(f'quotient_remainder needs divisor ≥ 1, got {divisor}.')

  def build(leaf):
    rows, cols = leaf.shape
    remainders, quotients = min(divisor, rows), math.ceil(rows / divisor)
    if combine == 'concat' and cols < 2:
      raise ValueError(
        'quotient_remainder: one column cannot be shared out to two tables by concat.'
      )
    cut = cols // 2 if combine == 'concat' else cols
    init = scaled(leaf.init, math.sqrt(0.5)) if combine == 'add' else leaf.init
    first = leaf_lib.constant(1.0) if combine == 'multiply' else init
    other = cols - cut if combine == 'concat' else cols
    plan = {
      'quotient': dataclasses.replace(
        leaf, shape=(quotients, other), init=first, decay=leaf.decay and combine != 'multiply'
      ),
      'remainder': dataclasses.replace(leaf, shape=(remainders, cut), init=init),
    }

    def address(ids):
      return {'quotient': ids // divisor, 'remainder': ids % divisor}

    def decode(gathered, **context):
      if combine == 'multiply':
        return gathered['remainder'] * gathered['quotient']
      if combine == 'add':
        return gathered['remainder'] + gathered['quotient']
      return jnp.concatenate([gathered['remainder'], gathered['quotient']], axis=-1)

    def encode(table):
      table = table.astype(jnp.float32)
      at = address(jnp.arange(rows))
      remainder = bucket_mean(table[:, :cut], at['remainder'], remainders)
      if combine == 'concat':
        quotient = bucket_mean(table[:, cut:], at['quotient'], quotients)
      elif combine == 'add':
        quotient = bucket_mean(table - remainder[at['remainder']], at['quotient'], quotients)
      else:  # Per column, the factor of least squares; one where the remainder says nothing.
        basis = remainder[at['remainder']]
        product = bucket_mean(table * basis, at['quotient'], quotients)
        square = bucket_mean(basis * basis, at['quotient'], quotients)
        quotient = jnp.where(square > 0, product / jnp.where(square > 0, square, 1), 1)
      arrays = {'quotient': quotient, 'remainder': remainder}
      return {name: plan[name].stored(x) for name, x in arrays.items()}

    return Codec(plan, encode, address, decode)

  return build
