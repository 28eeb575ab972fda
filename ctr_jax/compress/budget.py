"""A byte budget → a technique and a size for every table.

Each table has a list of candidates, from one row that all ids share to the full table. What a
candidate costs in bytes is exact; what it costs in quality is estimated by the reads that come back
as something else than the id's own vector:

  loss = importance · Σ_id share(id) · (value error + (1 − value error) · shared(id))

with share(id) the id's part of the table's reads and shared(id) the part of its row's reads that
are other ids'. The budget is spent where a byte saves most loss, step by step, until nothing that
helps fits any more (the greedy solution of a multiple-choice knapsack).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ctr_jax.compress import codec as codec_lib
from ctr_jax.compress.alpt import alpt
from ctr_jax.compress.cast import cast
from ctr_jax.compress.codec import Technique, chain, identity
from ctr_jax.compress.hash_trick import hash_trick
from ctr_jax.compress.int_quantize import int_quantize
from ctr_jax.compress.partition import hot_cold
from ctr_jax.tables import leaf as leaf_lib

# What rounding costs, as a part of losing the vector: an ordering more than a measurement, set so
# that a table is quantised long before ids share rows (experiments/precision.py measures it).
SERVING = {'float32': (None, 0.0), 'int8': (int_quantize(8), 2e-3), 'int4': (int_quantize(4), 2e-2)}
TRAINING = {
  'float32': (None, 0.0),
  'float16': (cast('float16', 'stochastic'), 1e-3),
  'int8': (alpt(8), 4e-3),
}
_OWN = [2.0**-i for i in range(13)]  # Parts of the rows that may be ids' own.
_TAIL = (0.1, 0.5)  # Rows that the other ids share, as a part of the own ones.


class Choice(NamedTuple):
  """What one table gets.

  Attributes:
    table: its name.
    technique: how it is stored; for a serving budget with its last link.
    trained: the technique to train with: without the link that is applied after training.
    rows: of the full table.
    full: bytes of the full table in float32.
    nbytes: bytes that count towards the budget.
    loss: estimated, times the table's importance.
  """

  table: str
  technique: Technique
  trained: Technique
  rows: int
  full: int
  nbytes: int
  loss: float


class Budget(NamedTuple):
  """A choice for every table.

  Attributes:
    rules: what to train with.
    served: what to serve with; the same as `rules` for a training budget.
    choices: table → Choice.
    nbytes: of all tables; never above `limit`.
    limit: the budget.
  """

  rules: codec_lib.Rules
  served: codec_lib.Rules
  choices: dict[str, Choice]
  nbytes: int
  limit: int


def budget(
  tables: Mapping[str, leaf_lib.Leaf],
  counts: Mapping[str, np.ndarray],
  limit: int,
  *,
  importances: Mapping[str, float] | None = None,
  slots: Callable[[leaf_lib.Leaf], Mapping[str, leaf_lib.Leaf]] | None = None,
) -> Budget:
  """Chooses a technique for every table so that all together take at most `limit` bytes.

  Args:
    tables: the full tables.
    counts: table → reads of each row, as `data.statistics.counts` gives them.
    limit: bytes of all stored tables: as they are served, or, with `slots`, as they are trained
      together with their optimizer state.
    importances: table → weight of its loss; one for all if not given.
    slots: `RowOptimizer.slots`; makes it a training budget.

  Raises:
    ValueError: not even the smallest candidates fit, or counts do not fit a table.
  """
  options = {}
  for name, leaf in tables.items():
    if len(counts[name]) != leaf.rows:
      raise ValueError(f'Table {name!r} has {leaf.rows} rows and {len(counts[name])} counts.')
    weight = 1.0 if importances is None else importances[name]
    options[name] = _frontier(_candidates(name, leaf, counts[name], weight, slots))
  chosen = _spend(options, limit)
  rules = [(_exactly(name), choice.trained) for name, choice in chosen.items()]
  served = [(_exactly(name), choice.technique) for name, choice in chosen.items()]
  total = sum(choice.nbytes for choice in chosen.values())
  return Budget(tuple(rules), tuple(served), chosen, total, limit)


def _exactly(name: str) -> str:
  return ''.join(c if c.isalnum() or c == '_' else '\\' + c for c in name)


def _candidates(name, leaf, counts, weight, slots) -> list[Choice]:
  """Every technique that is considered for a table, unsorted."""
  share = counts / max(1, counts.sum())
  kinds = SERVING if slots is None else TRAINING
  found = []
  for base, shared in _by_rows(leaf.rows, share):
    for last, error in kinds.values():
      technique = base if last is None else chain(base, last)
      plan = technique(leaf).plan
      nbytes = leaf_lib.nbytes(plan)
      if slots is not None:
        trained = [x for x in leaf_lib.flatten(plan).values() if x.by_row and not x.frozen]
        nbytes += sum(s.nbytes for x in trained for s in slots(x).values())
      loss = weight * (error + (1 - error) * shared)
      own = technique if slots is not None else base
      found.append(Choice(name, technique, own, leaf.rows, leaf.nbytes, nbytes, loss))
  return found


def _by_rows(rows, share):
  """(technique, part of the reads that come back as a mixture) for every choice of rows."""
  yield identity(), 0.0
  total = np.concatenate([[0.0], np.cumsum(share)])
  squares = np.concatenate([[0.0], np.cumsum(share**2)])
  for own in sorted({int(rows * part) for part in _OWN} - {0, rows}):
    for buckets in sorted({max(1, int(own * part)) for part in _TAIL}):
      if own + buckets < rows:
        yield hot_cold(own, hash_trick(buckets)), _mixed(total, squares, own, buckets)
  for buckets in sorted({max(1, int(rows * part)) for part in _OWN} - {rows}):
    yield hash_trick(buckets), _mixed(total, squares, 0, buckets)


def _mixed(total, squares, own, buckets):
  """Reads of ids from `own` on that come back as others', when they share `buckets` rows at random.

  A row is read by the id itself with p and by others with T/m on average: p·(T/m)/(p + T/m), summed
  with the mean p of the tail weighed by reads.
  """
  tail = total[-1] - total[own]
  if tail <= 0:
    return 0.0
  typical = (squares[-1] - squares[own]) / tail
  others = tail / buckets
  return tail * others / (typical + others)


def _frontier(candidates: list[Choice]) -> list[Choice]:
  """Those that no other beats in both bytes and loss, by ascending bytes."""
  best = []
  for choice in sorted(candidates, key=lambda c: (c.nbytes, c.loss)):
    if not best or choice.loss < best[-1].loss:
      best.append(choice)
  return best


def _spend(options: Mapping[str, list[Choice]], limit: int) -> dict[str, Choice]:
  chosen = {name: choices[0] for name, choices in options.items()}
  spent = sum(choice.nbytes for choice in chosen.values())
  if spent > limit:
    raise ValueError(
      f'A budget of {limit:,} bytes cannot be met: the smallest form of all {len(chosen)} tables '
      f'takes {spent:,} bytes. Drop features, or raise the budget.'
    )
  while True:
    best, gain = None, 0.0
    for name, choices in options.items():
      now = chosen[name]
      for choice in choices:
        more = choice.nbytes - now.nbytes
        if 0 < more <= limit - spent and (now.loss - choice.loss) / more > gain:
          best, gain = choice, (now.loss - choice.loss) / more
    if best is None:
      return chosen
    spent += best.nbytes - chosen[best.table].nbytes
    chosen[best.table] = best
