"""Embedding dimensions learned by frequency (AMTL), and packed so that bytes really fall."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax.compress.codec import WHOLE, Codec, Technique, technique
from ctr_jax.compress.fake_quantize import straight_through
from ctr_jax.compress.keep_dims import keep_dims
from ctr_jax.compress.partition import partition
from ctr_jax.tables import leaf as leaf_lib

_HIDDEN = 16
_FULL = 3.0  # How much more likely the widest cut is than the narrowest before training, in logits.


def levels(rows: int) -> np.ndarray:
  """First row of each level of popularity, int32: four levels to every octave of rank."""
  starts = list(range(min(rows, 4)))
  octave = 4
  while octave < rows:
    starts += [octave + i * octave // 4 for i in range(4)]
    octave *= 2
  return np.asarray([s for s in starts if s < rows], np.int32)


@technique
def adaptive_dims(budget: float = 0.0, temperature: float = 0.2, smallest: int = 1):
  """Keeps the first k columns of each row, k learned from the row's popularity (Yan et al.,
  "Learning Effective and Efficient Embedding via an Adaptively-Masked Twins-based Layer" (AMTL),
  CIKM 2021).

  Two small nets of the id's frequency, one for frequent and one for rare ids, are mixed by
  α = σ(frequency); their softmax with a temperature is over where to cut. The cut is hard forward
  and soft backward: vector = row ⊙ (onehot · M), M lower triangular. Every table has one attribute
  of frequency for sure, its rank: so ids are grouped in levels of rank, four to an octave, and all
  ids of a level share a cut (the paper reads counts, here log-rank stands for them).

  The paper has no price for size; `budget` adds one: budget × (expected share of values kept).
  `packed` makes of a trained table one that stores the kept columns only.

  Args:
    budget: weight of the price; 0 as in the paper.
    temperature: of the softmax.
    smallest: the fewest columns that may be kept.
  """
  if smallest < 1 or temperature <= 0 or budget < 0:
    raise ValueError(
      'adaptive_dims needs smallest ≥ 1, temperature > 0 and budget ≥ 0, got '
      f'{smallest}, {temperature} and {budget}.'
    )

  def build(leaf):
    rows, cols = leaf.shape
    if smallest > cols:
      raise ValueError(f'adaptive_dims keeps at least {smallest} of {cols} columns.')
    starts = levels(rows)
    counts = np.diff(starts, append=rows)
    # Frequency falls with rank: the attribute is −log rank, standardised over the levels.
    frequency = -np.log1p(starts.astype(np.float64))
    frequency = (frequency - frequency.mean()) / max(frequency.std(), 1e-9)
    attribute = jnp.asarray(np.stack([frequency, np.ones_like(frequency)], axis=1), jnp.float32)
    cuts = np.arange(smallest, cols + 1)
    keeps = jnp.asarray(np.arange(cols)[None] < cuts[:, None], jnp.float32)  # M, [cuts, cols]
    plan = {'table': leaf, **_leaves(len(starts), len(cuts))}

    def chances(gathered):
      """Softmax over cuts for every level, [levels, cuts]."""
      hidden = jnp.einsum('li,nih->nlh', attribute, gathered['hidden'])
      outputs = jnp.einsum('nlh,nhc->nlc', jax.nn.relu(hidden), gathered['output'])
      high, low = outputs + gathered['bias'][:, None]
      share = jax.nn.sigmoid(attribute[:, :1])
      return jax.nn.softmax((share * high + (1 - share) * low) / temperature, axis=-1)

    def address(ids):
      xp = jnp if isinstance(ids, jax.Array) else np
      level = xp.searchsorted(xp.asarray(starts[1:]), ids, side='right').astype(np.int32)
      return {'table': ids, 'level': level, 'hidden': WHOLE, 'output': WHOLE, 'bias': WHOLE}

    def decode(gathered, **context):
      soft = chances(gathered)
      hard = jax.nn.one_hot(jnp.argmax(soft, axis=-1), len(cuts), dtype=jnp.float32)
      mask = straight_through(soft, hard) @ keeps
      return gathered['table'] * mask[gathered['level']]

    def penalty(gathered, **context):
      width = chances(gathered) @ jnp.asarray(cuts, jnp.float32)
      return budget * jnp.sum(width * jnp.asarray(counts / (rows * cols), jnp.float32))

    def encode(table):
      key = jax.random.key(0)
      made = {n: x.init(key, x.shape, x.dtype) for n, x in plan.items() if n != 'table'}
      return made | {'table': leaf.stored(table)}

    return Codec(plan, encode, address, decode, penalty if budget else None)

  return build


def _leaves(levels_, cuts):
  def init_hidden(key, shape, dtype):
    return jax.random.normal(key, shape, dtype)

  def init_bias(key, shape, dtype):
    del key
    rise = jnp.linspace(0, _FULL, shape[1], dtype=dtype) if shape[1] > 1 else jnp.zeros((1,), dtype)
    return jnp.broadcast_to(rise, shape)

  return {
    'level': leaf_lib.Leaf(
      (levels_,), jnp.int32, ('row',), lambda key, shape, dtype: jnp.arange(*shape, dtype=dtype),
      frozen=True,
    ),
    'hidden': leaf_lib.Leaf(
      (2, 2, _HIDDEN), jnp.float32, ('net', 'in', 'out'), init_hidden, decay=False
    ),
    'output': leaf_lib.Leaf(
      (2, _HIDDEN, cuts), jnp.float32, ('net', 'in', 'out'), leaf_lib.constant(0), decay=False
    ),
    'bias': leaf_lib.Leaf((2, cuts), jnp.float32, ('net', 'out'), init_bias, decay=False),
  }  # fmt: skip


def packed(vectors: jax.Array, rows: int, smallest: int = 1, most: int | None = None) -> Technique:
  """The technique that stores what a trained `adaptive_dims` keeps, and nothing else.

  ≡ partition(starts, keep_dims(k) for each run of levels with the same cut k): no index is stored,
  since levels are ranges of row numbers.

  Args:
    vectors: decoded vectors of all ids [rows, cols], columns beyond a row's cut being zero.
    rows: of the table.
    smallest: the fewest columns of a part.
    most: parts at most; each is an array that has to be read. None: as many as there are runs. Runs
      are joined where it costs the fewest values, which are zeros.

  Raises:
    ValueError: no part is allowed.
  """
  if most is not None and most < 1:
    raise ValueError(f'packed(most={most}): a table needs at least one part.')
  starts = levels(rows)
  used = np.asarray(vectors) != 0
  last = used.shape[1] - np.argmax(used[:, ::-1], axis=1)
  widths = np.where(used.any(axis=1), last, 0)
  found = [max(smallest, int(part.max())) for part in np.split(widths, starts[1:])]
  first = [i for i in range(len(found)) if i == 0 or found[i] != found[i - 1]]
  starts, found = [int(starts[i]) for i in first], [found[i] for i in first]
  if most is not None:
    first = _joined(np.diff([*starts, rows]), found, most)
    ends = [*first[1:], len(found)]
    starts = [starts[i] for i in first]
    found = [max(found[i:j]) for i, j in zip(first, ends, strict=True)]
  return partition(tuple(starts), tuple(keep_dims(x) for x in found))


def _joined(rows, widths, most: int) -> list[int]:
  """First run of each part, of at most `most` parts that take the fewest values in all."""
  # best[j]: (values, firsts) of the runs before j in as many parts as were allowed so far.
  best: list[tuple[int, list[int]]] = [(0, [])] + [(2**62, [])] * len(widths)
  for _ in range(most):
    best = [
      min(
        [best[j]]
        + [
          (best[i][0] + int(sum(rows[i:j])) * max(widths[i:j]), [*best[i][1], i]) for i in range(j)
        ]
      )
      for j in range(len(widths) + 1)
    ]
  return best[-1][1]
