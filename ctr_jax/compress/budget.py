"""A byte budget → a technique and a size for every table.

Each table has a list of candidates, from one row that all ids share to the full table. What a
candidate costs in bytes is exact; what it costs in quality is estimated, in bits of the id that the
stored table does not tell. Where the ids of a tail share m rows at random, an id of which the row's
reads hold the share p, others' reads adding (T − p)/m on average, is told by its row up to
log2(1 + (T − p)/(m·p)) bits, T being the tail's share. Summed over the reads

  loss(m) = Σ_id p · c/(c + s) · log2(1 + (T − p)/(m·p))

with c the id's reads: a vector that was read c times knows c/(c + s) of what there is to know, so
that much can be lost. One row for all ids loses the entropy of the table's reads (s = 0), own rows
lose nothing: a table that tells little is cheap to share. The logarithm is concave, so that the
estimate is an upper bound of its mean over hashes. That own rows may overfit is not counted.

Two hashes of m rows each fit no more vectors than one hash of 2m rows, but a net tells ids apart
that share one row and not both: λ · loss(2m) + (1 − λ) · loss(m²), with λ measured. Rounding values
loses a measured part of all bits, and of the bits that sharing has left.

The budget is spent where a byte saves most loss, step by step, until nothing that helps fits any
more (the greedy solution of a multiple-choice knapsack: each step follows the convex hull).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ctr_jax.compress import codec as codec_lib
from ctr_jax.compress.alpt import alpt
from ctr_jax.compress.cast import cast
from ctr_jax.compress.codec import Technique, chain, identity
from ctr_jax.compress.hash_trick import hash_trick
from ctr_jax.compress.int_quantize import int_quantize
from ctr_jax.compress.multi_hash import multi_hash
from ctr_jax.compress.partition import hot_cold
from ctr_jax.tables import leaf as leaf_lib

# What rounding costs, as a part of losing all: of the AUC above one half it took below 3e-6 in
# float16, 1e-5 in int8 and 4e-4 … 9e-4 in int4 from full tables of three data sets
# (experiments/precision.py), and 2e-3 … 5e-3 in int4 from hashed ones, whose rows are added. For
# training an ordering, not a measurement.
SERVING = {
  'float32': (None, 0.0),
  'float16': (cast('float16'), 3e-6),
  'int8': (int_quantize(8, offset=False), 1e-5),
  'int4': (int_quantize(4, offset=False), 2e-3),
}
TRAINING = {
  'float32': (None, 0.0),
  'float16': (cast('float16', 'stochastic'), 1e-4),
  'int8': (alpt(8), 2e-4),
}
_TAIL = [2.0**i for i in range(-3, 2)]  # Rows that other ids share, as a multiple of the own ones.
_READS = 30  # s: after so many reads a vector knows half. Frappe at 100 times: better than 100.
_LIKE_ONE = 0.43  # λ: of what one hash loses in AUC on Frappe; 0.45 and 0.42 at 10 and 100 times.


class Choice(NamedTuple):
  """What one table gets.

  Attributes:
    table: its name.
    technique: how it is stored; for a serving budget with its last link.
    trained: the technique to train with: without the link that is applied after training.
    rows: of the full table.
    full: bytes of the full table in float32.
    nbytes: bytes that count towards the budget.
    loss: bits (estimated), times the table's importance.
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
  kinds: Sequence[str] | None = None,
) -> Budget:
  """Chooses a technique for every table so that all together take at most `limit` bytes.

  Args:
    tables: the full tables.
    counts: table → reads of each row, as `data.statistics.counts` gives them.
    limit: bytes of all stored tables: as they are served, or, with `slots`, as they are trained
      together with their optimizer state.
    importances: table → weight of its bits; one for all if not given, so that a table counts by
      the entropy of its reads.
    slots: `RowOptimizer.slots`; makes it a training budget.
    kinds: how values may be stored, names of SERVING or, with `slots`, of TRAINING; all if not
      given, but float16 for serving: int8 takes half of its bytes, and loses nothing either.

  Raises:
    ValueError: not even the smallest candidates fit, counts do not fit a table, or a kind is not
      known.
  """
  known = SERVING if slots is None else TRAINING
  if wrong := set(kinds or ()) - known.keys():
    raise ValueError(f'A budget knows no {", ".join(sorted(wrong))}; known are {", ".join(known)}.')
  kinds = kinds or [kind for kind in known if known is TRAINING or kind != 'float16']
  options = {}
  for name, leaf in tables.items():
    if len(counts[name]) != leaf.rows:
      raise ValueError(f'Table {name!r} has {leaf.rows} rows and {len(counts[name])} counts.')
    weight = 1.0 if importances is None else importances[name]
    options[name] = _frontier(_candidates(name, leaf, counts[name], weight, slots, kinds))
  chosen = _spend(options, limit)
  rules = [(_exactly(name), choice.trained) for name, choice in chosen.items()]
  served = [(_exactly(name), choice.technique) for name, choice in chosen.items()]
  total = sum(choice.nbytes for choice in chosen.values())
  return Budget(tuple(rules), tuple(served), chosen, total, limit)


def _exactly(name: str) -> str:
  return ''.join(c if c.isalnum() or c == '_' else '\\' + c for c in name)


def _candidates(name, leaf, counts, weight, slots, kinds=None) -> list[Choice]:
  """Every technique that is considered for a table, unsorted."""
  known = SERVING if slots is None else TRAINING
  tails = _tails(counts, _sizes(leaf.rows))
  every = _lost(*tails[0], counts.sum(), 1)  # One row for all.
  found = []
  for base, lost in _by_rows(leaf.rows, tails, counts.sum()):
    for last, error in (known[kind] for kind in (kinds or known)):
      technique = base if last is None else chain(base, last)
      plan = technique(leaf).plan
      nbytes = leaf_lib.nbytes(plan)
      if slots is not None:
        trained = [x for x in leaf_lib.flatten(plan).values() if x.by_row and not x.frozen]
        nbytes += sum(s.nbytes for x in trained for s in slots(x).values())
      loss = weight * (error * every + (1 - error) * lost)
      own = technique if slots is not None else base
      found.append(Choice(name, technique, own, leaf.rows, leaf.nbytes, nbytes, loss))
  return found


def _by_rows(rows, tails, total):
  """(technique, bits that it loses) for every choice of rows."""
  yield identity(), 0.0
  for own, tail in tails.items():
    for shared in {max(1, int(own * part)) for part in _TAIL} if own else _sizes(rows):
      if own + shared < rows:
        technique, lost = _shared(*tail, total, shared)
        yield (hot_cold(own, technique) if own else technique), lost


def _sizes(rows: int) -> list[int]:
  """From 1 in steps of √2 to below `rows`."""
  return sorted({int(2 ** (i / 2)) for i in range(math.ceil(2 * math.log2(rows)))})


def _tails(counts, cuts):
  """{cut: (distinct numbers of reads, how many rows are read so often)} from 0 and each cut on.

  Rows that are read equally often count together, so no candidate costs a pass over the table.
  """
  read, times, found = np.zeros(0, np.int64), np.zeros(0, np.int64), {}
  end = len(counts)
  for cut in sorted({0, *cuts}, reverse=True):
    more, often = np.unique(counts[cut:end], return_counts=True)
    read, at = np.unique(np.concatenate([read, more]), return_inverse=True)
    times = np.bincount(at, np.concatenate([times, often]))
    found[cut], end = (read, times), cut
  return found


def _shared(read, times, total, rows):
  """(technique, bits that it loses) of ids that share `rows` rows: one hash or two."""
  one = hash_trick(rows), _lost(read, times, total, rows)
  half = rows // 2
  if half == 0:
    return one
  alike, apart = (_lost(read, times, total, m) for m in (2 * half, half**2))
  two = multi_hash(half, 2), _LIKE_ONE * alike + (1 - _LIKE_ONE) * apart
  return min(one, two, key=lambda found: found[1])


def _lost(read, times, total, rows) -> float:
  """loss(m) of the docstring above, over distinct numbers of reads."""
  read, times = read[read > 0], times[read > 0]
  share = read / max(1, total)
  others = (np.sum(times * share) - share) / rows
  return float(np.sum(times * share * read / (read + _READS) * np.log2(1 + others / share)))


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
