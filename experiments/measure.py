"""What is measured of a trained model, and rows of several seeds."""

from __future__ import annotations

import statistics
from typing import Any

import jax

from ctr_jax import predict
from ctr_jax.compress import report
from ctr_jax.data import columns, synthetic
from ctr_jax.evaluate import evaluate
from ctr_jax.tables import leaf, stack
from ctr_jax.train import loop
from ctr_jax.train import state as state_lib

VERSION = 2
"""Raised when what is measured changes, or how: what was measured before is then measured anew."""

SIZES = (
  'bytes', 'bytes_training', 'bytes_lookup', 'net_parameters', 'table_parameters', 'bytes_sample',
  'bytes_artifact',
)  # fmt: skip
"""Of a row: a number, the mean of seeds where what a search kept makes them differ."""

PER_SEED = (
  'train_samples_per_second', 'score_samples_per_second', 'train_seconds', 'epochs', 'best_epoch',
  'valid_best', 'latency_p50_ms', 'latency_p99_ms', 'train_seconds_before',
)  # fmt: skip
"""Of a row: a list of a value for each seed."""


def of(outcome, source: columns.Source) -> dict[str, Any]:
  """Metrics on test, samples scored per second, and sizes, of a `trials.Outcome`."""
  model, net = outcome.model, outcome.net
  arrays = stack.pack(model.layout, leaf.flatten(outcome.stored))
  score = predict.scorer(model)
  read = _Test(source, model.columns) if _is_drawn(source) else source
  passes = [evaluate.evaluate(model, score, arrays, net, read, 'test') for _ in range(3)]
  test = {k: v for k, v in passes[0].items() if k != 'samples_per_second'}
  return {
    'test': test,
    'score_samples_per_second': statistics.median(p['samples_per_second'] for p in passes),
    'bytes': leaf.nbytes(model.codec.plan),
    # Of what serving would look up before there is an id or a number: see `data.crosses`.
    **({'bytes_lookup': source.lookup_bytes(model.columns)} if hasattr(source, 'lookups') else {}),
    'bytes_by_table': report.by_table(model.codec.plan),
    'axes_by_table': {t: report.by_axis(part) for t, part in model.codec.plan.items()},
    'net_parameters': sum(x.size for x in jax.tree.leaves(net['params'])),
  }


def _is_drawn(source):
  """Whether some columns are drawn each time that they are read."""
  owner = getattr(source, 'owner', lambda name: source)
  return any(isinstance(owner(f.name), synthetic.Synthetic) for f in source.schema.features)


class _Test:
  """A source whose test is read beforehand, so that no draw is in the clock of scoring."""

  def __init__(self, source, names):
    group = source.schema.group
    names = dict.fromkeys((*names, 'label', *((group,) if group else ())))
    self._test = source.read('test', tuple(names), 0, source.num_samples('test'))
    self.schema, self.rows, self.extras = source.schema, source.rows, source.extras
    self.checksum = source.checksum

  def num_samples(self, split):
    assert split == 'test'
    return len(self._test['label'])

  def read(self, split, names, start, stop):
    assert split == 'test'
    return {name: self._test[name][start:stop] for name in names}


def training(model: predict.Model, optimizer, how: loop.Position) -> dict[str, Any]:
  """How a run went, and the bytes of its tables, their optimizer's state and the net's."""
  recipe = optimizer.recipe(model)
  tables = report.training(model.codec, state_lib.slot_leaves(model, recipe))
  return {
    'epochs': how.epoch,
    'best_epoch': how.best_epoch,
    'valid_best': how.best,
    'train_seconds': how.seconds,
    'train_samples_per_second': how.samples / how.seconds,
    'bytes_training': tables + state_lib.tx_bytes(model, recipe),
  }


def row(name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
  """Per-seed measurements → one row: a list of values per metric, and what all seeds share."""
  metrics = sorted(found[0]['test'])
  return {
    'name': name,
    'seeds': [x['seed'] for x in found],
    'test': {m: [x['test'][m] for x in found] for m in metrics},
    **deployed(found),
  }


def deployed(found: list[dict[str, Any]]) -> dict[str, Any]:
  """Columns of a row that are not metrics, of whatever was measured."""
  of_all = ('bytes_by_table', 'axes_by_table', 'without_artifact')
  return {
    **{k: [x[k] for x in found] for k in PER_SEED if k in found[0]},
    **sizes(found),
    **{k: found[0][k] for k in of_all if k in found[0]},
  }


def sizes(found: list[dict[str, Any]]) -> dict[str, Any]:
  """Sizes per seed → columns of a row."""
  made: dict[str, Any] = {}
  for name in SIZES:
    if values := [x[name] for x in found if name in x]:
      made[name] = values[0]
      if len(set(values)) > 1:
        made |= {name: round(statistics.fmean(values)), f'{name}_by_seed': values}
  return made
