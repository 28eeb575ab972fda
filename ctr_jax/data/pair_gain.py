"""Which pairs of features are worth a cross: what the pair tells beyond its two values.

For each sample of train, from its history alone,

  p = σ(logit(rate) + a·lift(u) + b·lift(v) + c)   what the two values tell, each by itself
  q = (clicks(u, v) + s·p) / (count(u, v) + s)     what is known of the pair, smoothed to that

with a, b, c fitted (of two values of which one follows from the other, one tells nothing more), and
the gain of the pair is the log loss of p less that of q, in nats per sample. It is positive where
the pair has an effect of its own and enough samples to know it by; in-sample measures, such as
mutual information, would favour pairs of which each is seen once.
"""

import itertools
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ctr_jax.data import columns, engine, pair_queries, pairs
from ctr_jax.data import history as history_lib


class Gain(NamedTuple):
  """What a pair of features is worth.

  Attributes:
    first: feature.
    second: feature.
    nats: log loss per sample of train that knowing the pair's past saves.
  """

  first: str
  second: str
  nats: float


def candidates(source: columns.Source) -> tuple[str, ...]:
  """The features that can be crossed: one id to a sample."""
  return tuple(f.name for f in source.schema.features if f.kind in ('id', 'bucket', 'hash'))


def gains(
  source: columns.Source,
  history: history_lib.History,
  features: Sequence[str] = (),
  *,
  strength: float = 20.0,
  engine_name: str = 'duckdb',
  memory: str = '1GB',
) -> list[Gain]:
  """The gain of every pair of features, the largest first.

  Args:
    source: of the samples.
    history: what a sample may know.
    features: to pair; all that can be crossed if none are given.
    strength: s, samples that what was known before counts for.
    engine_name: 'duckdb' or 'spark'.
    memory: limit of DuckDB.
  """
  names = tuple(dict.fromkeys(features)) or candidates(source)
  total = source.num_samples('train')
  found = []
  with (
    tempfile.TemporaryDirectory() as folder,
    engine.quiet(),
    engine.opened(engine_name, folder, memory) as con,
  ):
    periods = history_lib.Periods(source, history)
    samples = pair_queries.load(con, source, names, periods, folder)
    click = source.read('train', ('label',), 0, total)['label'] == 1
    rates = pair_queries.rates(samples)[:total]

    def counted(*of):
      made = [np.concatenate(x) for x in zip(*pair_queries.statistics(samples, of), strict=True)]
      return made[1][:total], made[2][:total]

    lifts = {name: pairs.lift(*counted(name), rates, strength) for name in names}
    for first, second in itertools.combinations(names, 2):
      alone = _fitted(np.log(rates / (1 - rates)), (lifts[first], lifts[second]), click)
      clicks, count = counted(first, second)
      together = (clicks + strength * alone) / (count + strength)
      nats = float(np.mean(_log_loss(alone, click) - _log_loss(together, click)))
      found.append(Gain(first, second, nats))
  return sorted(found, key=lambda gain: -gain.nats)


def _fitted(offset, columns_, click, steps: int = 8):
  """Probabilities of a logistic regression on a few columns, by Newton's method; float64."""
  x = np.stack([*columns_, np.ones_like(offset)], axis=1).astype(np.float64)
  weights = np.r_[np.ones(len(columns_)), 0.0]
  for _ in range(steps):
    p = 1 / (1 + np.exp(-(offset + x @ weights)))
    # A column without any variation (nothing was ever seen) has no weight to find.
    hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(x.shape[1])
    weights = weights + np.linalg.solve(hessian, x.T @ (click - p))
  return 1 / (1 + np.exp(-(offset + x @ weights)))


def _log_loss(p, click):
  return -np.log(np.where(click, p, 1 - p))
