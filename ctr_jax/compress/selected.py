"""From a ranking of features to rules: what is not worth keeping is dropped."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from ctr_jax.compress.codec import FEATURE, Rules, drop, identity

# Costs that are added up in another order differ by less: a budget of all of them keeps all.
_ROUNDING = 1e-12


def selected(
  importance: Mapping[str, float],
  *,
  keep: int | None = None,
  budget: float | None = None,
  max_loss: float | None = None,
  costs: Mapping[str, float] | None = None,
  table_costs: Mapping[str, float] | None = None,
  tables: Mapping[str, str] | None = None,
  rules: Rules | None = None,
) -> Rules:
  """Rules that drop features, by exactly one of `keep`, `budget` and `max_loss`.

  A model of these rules neither reads, stores nor looks at what they drop: its net has fewer
  inputs, its artifact no table, and its columns stay on disk.

  Args:
    importance: feature → importance, of all features of the data; larger is more important. Equals
      are ordered by name.
    keep: so many of the most important stay.
    budget: the most important first, each that still fits into so much of `costs`.
    max_loss: the least important go, as long as the importances of those that go add up to no more.
      Importances then have to be losses, such as those of `importance.permutation`.
    costs: feature → microseconds, or bytes, or what the budget counts.
    table_costs: table → what it costs beside, once, whichever of its features stay: its bytes.
    tables: feature → the table that it reads, where that is not its own name. A table goes with the
      last feature that reads it.
    rules: for the features that stay; none: as they are.

  Raises:
    ValueError: importances that are no numbers, nothing that stays, or not one limit.
  """
  if sum(x is not None for x in (keep, budget, max_loss)) != 1:
    raise ValueError('selected takes exactly one of keep, budget and max_loss.')
  wrong = sorted(name for name, x in importance.items() if not math.isfinite(x))
  if wrong:
    raise ValueError(f'The importance of {", ".join(wrong)} is not a finite number.')
  ranked = sorted(importance, key=lambda name: (-importance[name], name))
  tables = {name: name for name in importance} | dict(tables or {})
  if keep is not None:
    kept = ranked[: max(keep, 0)]
  elif budget is not None:
    kept = _within(ranked, costs, budget, tables, dict(table_costs or {}))
  else:
    kept = _losing(ranked, importance, max_loss)
  if not kept:
    way = 'lower max_loss' if max_loss is not None else 'allow for more'
    raise ValueError(f'No feature is left to learn from: {way}.')
  used = {tables[name] for name in kept}
  gone = [tables[name] for name in ranked if tables[name] not in used]
  patterns = [re.escape(table) for table in dict.fromkeys(gone)]
  # Of a table that stays, the feature alone goes.
  left = [name for name in ranked if name not in kept and tables[name] in used]
  patterns += [FEATURE + re.escape(name) for name in left]
  return (*((pattern, drop()) for pattern in patterns), *(rules or (('.*', identity()),)))


def _within(ranked, costs, budget, tables, table_costs):
  missing = [name for name in ranked if name not in (costs or {})]
  if missing:
    raise ValueError(f'A budget needs the costs of all features; {missing[0]!r} has none.')
  kept, spent = [], 0.0
  for name in ranked:
    more = costs[name] + table_costs.get(tables[name], 0.0)
    if spent + more <= budget * (1 + _ROUNDING):
      kept.append(name)
      spent += more
      table_costs[tables[name]] = 0.0  # It is there now.
  return kept


def _losing(ranked, importance, most):
  lost, kept = 0.0, list(ranked)
  while kept and lost + max(importance[kept[-1]], 0.0) <= most:
    lost += max(importance[kept.pop()], 0.0)  # What seems to do harm buys nothing for others.
  return kept
