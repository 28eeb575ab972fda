"""The rungs of experiments.massive_to_compact, and compact without each technique."""

from __future__ import annotations

from typing import NamedTuple

from absl import flags

from ctr_jax.data import columns
from experiments import pcf, recipes, report

flags.adopt_module_key_flags(recipes)  # So that --help shows them.


class Ladder(NamedTuple):
  """What to train, in order.

  Attributes:
    rungs: from massive to compact, and those beside them.
    beside: names of rows that are no rungs.
    compact: name of the row that the ladder ends with.
    ablation: compact without each technique that costs a training to leave out.
    free: technique → name of the row that is compact without it.
  """

  rungs: list[recipes.Rung]
  beside: list[str]
  compact: str
  ablation: list[recipes.Rung]
  free: dict[str, str]


def ladder(source: columns.Source) -> Ladder:
  """The ladder that the flags ask for."""
  base, techniques = recipes.Base(source), recipes.asked()
  rungs = [base.massive(), *_replaced(base, techniques)]
  smaller = recipes.NAMES['net']
  recipe = base.recipe(techniques, start=smaller if 'net' in techniques else rungs[-1].name)
  stages, beside, free = recipe.rungs(), [], {}
  if 'net' in techniques:
    stages.insert(0, recipe.full())
  rungs = [*rungs, *stages]
  rungs[-1] = rungs[-1].rounded()
  (compact, _), *_ = rungs[-1].links
  free[recipes.kind()] = rungs[-1].name
  if stages:  # What comes before the last one is compact without that, once it is rounded.
    rungs[-2] = rungs[-2].rounded()
    (before, _), *_ = rungs[-2].links
    beside.append(before)
    free[recipes.NAMES[list(techniques)[-1]]] = before
  if base.crosses and report.BESIDE not in [rung.name for rung in rungs]:
    rungs.append(
      recipes.Rung(report.BESIDE, lambda: source, recipes.same(report.BESIDE, **base.shared))
    )
    beside.append(report.BESIDE)
  ablation = [
    _without(base, recipe, name) for name in techniques if recipes.NAMES[name] not in free
  ]
  return Ladder(rungs, beside, compact, ablation, free)


def _replaced(base, techniques):
  """The rungs between massive and full tables of the columns that compact reads."""
  if not base.crosses:
    return []
  options = base.options({name: techniques[name] for name in techniques if name != 'net'})

  def rung(name, source, vectors=lambda: None):
    return recipes.Rung(name, source, recipes.same(name, **options), (), vectors)

  if 'pcf_gnn' not in techniques:
    name = recipes.NAMES['relation'] if 'relation' in techniques else report.BESIDE
    return [rung(name, lambda: base.source)]
  return [
    rung(recipes.NAMES['relation'] if 'relation' in techniques else 'no ids of pairs', base.told),
    rung(recipes.NAMES['pcf_gnn'], base.scored, base.vectors),
    rung(recipes.SMALL, lambda: base.scored(pcf.INT8), lambda: base.vectors(pcf.INT8)),
  ]


def _without(base, recipe, name):
  """The rung of compact without a technique."""
  left = {key: value for key, value in recipe.techniques.items() if key != name}
  prefix = f'without {recipes.NAMES[name]}, '
  other = name in recipes.BEFORE  # Another net, or other columns, to choose features of.
  made = base.recipe(left, f'{prefix}base' if other else recipe.start, prefix)
  return made.compact()._replace(without=recipes.NAMES[name])
