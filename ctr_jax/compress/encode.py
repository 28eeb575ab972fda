"""Trained tables into another form, checked: what a codec cannot hold is an error, never a NaN."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ctr_jax.compress import codec as codec_lib
from ctr_jax.tables import leaf as leaf_lib


def encode(codec: codec_lib.Codec, trained: Any) -> Any:
  """`codec.encode` under jit, refusing NaN, infinity and overflow by the name of the array.

  Args:
    codec: of `compress.bind`, or of one table.
    trained: float tables, in the structure that `codec.encode` takes.

  Returns:
    Arrays laid out as `codec.plan`.

  Raises:
    ValueError: a table holds a value that is not finite, or one that the stored type cannot hold.
  """
  _finite(trained, 'is not finite before it is encoded: the training that made it has diverged')
  stored = jax.jit(codec.encode)(trained)
  _finite(
    stored,
    'overflows the type or the room it is stored in: use bfloat16, or clip the table first; '
    'of sparse rows, keep more',
  )
  return stored


def appended(rules: codec_lib.Rules, link: codec_lib.Technique) -> codec_lib.Rules:
  """Rules with one more link at the end of every chain; dropped tables stay dropped."""
  return [(p, t if t.name == 'drop' else codec_lib.chain(t, link)) for p, t in rules]


def extend(plan: Any, stored: Any, link: codec_lib.Technique) -> Any:
  """Stored arrays of a trained model → those of the same model with one more link.

  `chain(a, link).encode` starts from a full table, which a hashed model never had; this starts from
  what `a` stores: every table among the leaves is encoded by `link`, the others stay.

  Args:
    plan: of the trained model.
    stored: its arrays, laid out as `plan`.
    link: the technique to append, for example `int_quantize(8)`.

  Returns:
    Arrays laid out as the plan of `bind(tables, appended(rules, link))`.
  """
  codec = codec_lib.Codec(
    plan,
    lambda tree: jax.tree.map(lambda x, y: link(x).encode(y) if x.is_table else y, plan, tree),
    None,
    None,
  )
  return encode(codec, stored)


def _finite(tree: Any, complaint: str) -> None:
  for path, array in leaf_lib.flatten(tree).items():
    if jnp.issubdtype(array.dtype, jnp.floating):
      bad = int(jnp.sum(~jnp.isfinite(array)))
      if bad:
        raise ValueError(f'{bad} of {array.size} values of {path or "the table"}: {complaint}.')
