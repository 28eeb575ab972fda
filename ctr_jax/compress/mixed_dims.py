"""Fewer dimensions for less popular ids, each projected to the full width."""

from __future__ import annotations

from collections.abc import Sequence

from ctr_jax.compress.codec import identity, technique
from ctr_jax.compress.low_rank import low_rank
from ctr_jax.compress.partition import partition


@technique
def mixed_dims(starts: tuple[int, ...], dims: tuple[int, ...]):
  """Rows from starts[i] on have dims[i] columns and a projection (Ginart et al., "Mixed Dimension
  Embeddings with Application to Memory-Efficient Recommendation Systems", 2019).

  ≡ partition(starts, low_rank(d) for d in dims), a block of full width being stored as it is. Over
  several tables, give each a `low_rank` of its own: `popular_dims` has the paper's rule for both.

  Args:
    starts: first row of each block, ascending from 0.
    dims: columns of each block.
  """
  starts, dims = tuple(starts), tuple(dims)

  def build(leaf):
    cols = leaf.shape[1]
    parts = tuple(identity() if d == cols else low_rank(d) for d in dims)
    return partition(starts, parts)(leaf)

  return build


def popular_dims(popularity: Sequence[float], cols: int, alpha: float = 0.3) -> tuple[int, ...]:
  """The paper's rule: d_i = cols · (p_i / max p)^alpha, at least one column.

  Args:
    popularity: p_i, reads per row of each block (or table).
    cols: of the most popular.
    alpha: the temperature; 0 gives all the same width.
  """
  top = max(popularity)
  return tuple(max(1, min(cols, round(cols * (p / top) ** alpha))) for p in popularity)
