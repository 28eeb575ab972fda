"""What gates share: a number that a field's vectors are multiplied by, learned with them.

A gate is a link like any other, put before the others: chain(droprank(), multi_hash(1 << 14)). It
adds one small leaf, `gate`; larger means more worth keeping, so `strength` ranks fields. Gates say
which fields to drop; `selected` makes rules of that, and what is served has no gates.

Learned alone, the weights at rest, gates want SGD at a rate of their own: one that stays open then
grows with the log of what its field is worth, where Adam moves all of them alike.

Random gates draw once for each sample of a batch, not for each value that the sample reads: all
values of a multi-valued field are kept or dropped together. Evaluated, there is no step: annealed
gates are then as they were at first, which changes no rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax.compress import hashing
from ctr_jax.compress.codec import WHOLE, Codec
from ctr_jax.tables import leaf as leaf_lib


def gated(
  leaf: leaf_lib.Leaf,
  shape: tuple[int, ...],
  start: float,
  factor: Callable[..., jax.Array],
  penalty: Callable[..., jax.Array] | None = None,
  by_row: bool = False,
) -> Codec:
  """The codec: vector = row · factor(gate).

  Args:
    leaf: the table.
    shape: of the gate: (1,) for the field, (cols,) for its columns, (rows,) for each id.
    start: what the gate is at first.
    factor: (gate, rows, train, rng, step, sample) → what `rows` [..., cols] are multiplied by. A
      gate for each id comes gathered, with a last axis of one.
    penalty: (gate, step) → float32 scalar, see `Codec.penalty`.
    by_row: whether there is a gate for each id.
  """
  axes = ('row',) if by_row else ('gate',)
  gate = leaf_lib.Leaf(shape, jnp.float32, axes, leaf_lib.constant(start), decay=False)

  def multiplied(gathered, train=False, rng=None, step=None, sample=None):
    rows, value = gathered['table'], gathered['gate']
    value = value[..., None] if gate.by_row else value.reshape((1,) * (rows.ndim - 1) + (-1,))
    return rows * factor(value, rows, train=train, rng=rng, step=step, sample=sample)

  def encode(table):
    value = jnp.full(shape, start, jnp.float32)
    # Divided by what it will be multiplied by, so that a trained table goes on where it was.
    first = factor(jnp.float32(start), table, train=False, rng=None, step=None, sample=None)
    return {'table': leaf.stored(table.astype(jnp.float32) / first), 'gate': value}

  return Codec(
    plan={'table': leaf, 'gate': gate},
    encode=encode,
    address=lambda ids: {'table': ids, 'gate': ids if gate.by_row else WHOLE},
    decode=multiplied,
    penalty=None if penalty is None else lambda gathered, **how: penalty(gathered['gate'], **how),
  )


def concrete(
  logit: jax.Array, rows: jax.Array, rng: jax.Array, sample: jax.Array | None, temperature: Any
) -> jax.Array:
  """z = σ((logit + log u − log(1 − u)) / temperature), u uniform by sample: a relaxed Bernoulli
  draw that is 1 with probability σ(logit) as the temperature goes to 0 (Maddison et al., 2017).

  Args:
    logit: of keeping; broadcasts against rows, last axis 1 (one draw for all columns) or cols.
    rows: [..., cols], for their shape.
    rng: key.
    sample: int32, which sample each read is of; leading axes of rows. None: each read is its own.
    temperature: float or scalar array.
  """
  reads = rows.shape[:-1]
  if sample is None:
    sample = jnp.arange(int(np.prod(reads)), dtype=jnp.int32).reshape(reads)
  sample = sample.reshape(sample.shape + (1,) * (rows.ndim - sample.ndim))
  seed = jax.random.bits(rng, (), jnp.uint32)
  columns = seed + jnp.arange(logit.shape[-1], dtype=jnp.uint32)
  bits = hashing.mix(sample, columns.reshape((1,) * (rows.ndim - 1) + (-1,))) >> jnp.uint32(9)
  u = (bits.astype(jnp.float32) + 0.5) / (1 << 23)  # Strictly between 0 and 1.
  return jax.nn.sigmoid((logit + jnp.log(u) - jnp.log1p(-u)) / temperature)


def logit(keep: float) -> float:
  """Of a probability of keeping."""
  return math.log(keep / (1 - keep))


def price(weight: float, logits: jax.Array, step: jax.Array | None, anneal: int) -> jax.Array:
  """weight · keep, on average over a field's gates, the weight rising over `anneal` steps."""
  return weight * ramp(step, anneal) * jnp.mean(jax.nn.sigmoid(logits))


def ramp(step: jax.Array | None, steps: int) -> jax.Array:
  """0 → 1 over the first `steps` steps; 1 where there is no step."""
  if step is None or steps <= 0:
    return jnp.float32(1)
  return jnp.minimum(step.astype(jnp.float32) / steps, 1.0)


def strength(stored: Mapping[str, Any], counts: np.ndarray | None = None) -> float:
  """How much a trained gate wants its field: the mean of the gate, by reads if it is one per id.

  Args:
    stored: what a chain with a gate stores of one table.
    counts: reads of each id, [rows], for gates of ids.
  """
  flat = leaf_lib.flatten(stored)
  found = [x for path, x in flat.items() if path.split('/')[-1] == 'gate']
  if len(found) != 1:
    raise ValueError(f'One gate is expected, and {sorted(flat)} has {len(found)}.')
  gate = np.asarray(found[0], np.float64)
  if counts is not None and not np.sum(counts):
    raise ValueError('No id of the table was read: the mean of its gates by reads is not known.')
  return float(gate.mean() if counts is None else np.average(gate, weights=counts))
