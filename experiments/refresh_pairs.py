r"""Vectors of pair statistics by day: a sliding window from scratch, and from the last vectors.

  python -m experiments.refresh_pairs --data=synthetic_drift --save_result

On the drifting set, each day's pairs are counted once, and those of the last --refresh_window days
make a graph (`graphs.graph`) whose vectors are trained (`train.pretrain`) from scratch, and from
those of the window before (`train.refresh`). The error is of held-out pairs, the same ones in all
windows. `reaches` is the first look at which the warm start is at least as good as the best of from
scratch. A warm start that keeps whole vectors ended worse than from scratch from the third window
on, by up to 0.006 (--refresh_rate=0.005 --refresh_keep=1): what each window has learned by heart
adds up. --refresh_keep was chosen on the windows that are reported. Measured results are in
experiments/RESULTS.md.
"""

from __future__ import annotations

import dataclasses
import statistics

import numpy as np
from absl import flags

from ctr_jax.data import days as days_lib
from ctr_jax.data import drift, pairs
from ctr_jax.graphs import graph as graph_lib
from ctr_jax.train import pretrain, refresh
from experiments import common, report

flags.adopt_module_key_flags(common)  # So that --help shows them.
_WINDOW = flags.DEFINE_integer('refresh_window', 4, 'Days of a window.')
_METHOD = flags.DEFINE_string('refresh_method', 'gnn', 'Of graphs.pcf_gnn.')
_STEPS = flags.DEFINE_integer('refresh_steps', 200, 'At most.')
_EVERY = flags.DEFINE_integer('refresh_every', 5, 'Steps between two looks at the held-out pairs.')
_RATE = flags.DEFINE_float(
  'refresh_rate', 0.02, 'Learning rate of the warm start; from scratch it is that of the method.'
)
_KEEP = flags.DEFINE_float(
  'refresh_keep', 0.5, "Share of nodes' own vectors that a warm start keeps."
)
_PAIRS = (('user', 'category'), ('page', 'category'), ('campaign', 'slot'))


def graphs(source, window: int):
  """Yields (last day, graph of the window that ends with it), from the first full window on."""
  stream = days_lib.by_column(days_lib.held(source, ('day',)))
  tables = {f.name: f.table for f in source.schema.features}
  parts: list[list[pairs.Pairs]] = [[] for _ in _PAIRS]
  rates = []
  for day in range(stream.days):
    one = stream.window(day, day)
    names = ('label', *{name: None for pair in _PAIRS for name in pair})
    read = one.read('train', names, 0, one.num_samples('train'))
    for part, (a, b) in zip(parts, _PAIRS, strict=True):
      part.append(pairs.counted(a, b, read[a], read[b], read['label']))
    rates.append(float(read['label'].mean()))
    if day + 1 >= window:
      merged = [pairs.merged(part[-window:]) for part in parts]
      prior = float(np.mean(rates[-window:]))
      yield day, graph_lib.build(merged, tables, source.rows, prior)


def measured(source, folder, seed: int) -> list[dict]:
  """For each window: errors, and the steps that they took."""
  config = pretrain.Config(_METHOD.value, steps=_STEPS.value, every=_EVERY.value)
  gently = dataclasses.replace(config, learning_rate=_RATE.value)
  previous, found = None, []
  for day, graph in graphs(source, _WINDOW.value):
    place = folder / f'seed_{seed}' / f'day_{day}'
    cold = pretrain.pretrain(graph, config, place / 'cold', seed, f'day {day + 1}, from scratch')
    warm = cold
    if previous is not None:
      name = f'day {day + 1}, refreshed'
      warm = refresh.refresh(
        previous, graph, gently, place / 'warm', seed, keep=_KEEP.value, name=name
      )
      reaches = (x['step'] for x in warm.history if x['unseen'] <= cold.best['unseen'])
      found.append(
        {
          'day': day + 1,
          'edges': len(graph.graph.senders),
          'cold': cold.best,
          'warm': warm.best,
          'first': warm.history[0],
          'reaches': next(reaches, None),
        }
      )
    previous = warm
  return found


def render(found) -> str:
  """A line for each window; steps and errors are means over seeds."""

  def mean(day, key, what):
    return statistics.fmean(x[day][key][what] for row in found['rows'] for x in [row['windows']])

  rows = []
  for i, one in enumerate(found['rows'][0]['windows']):
    reaches = [row['windows'][i]['reaches'] for row in found['rows']]
    rows.append(
      (
        one['day'],
        f'{one["edges"]:,}',
        f'{mean(i, "cold", "unseen"):.4f}',
        f'{mean(i, "cold", "step"):.0f}',
        f'{mean(i, "first", "unseen"):.4f}',
        'never' if None in reaches else f'{statistics.fmean(reaches):.0f}',
        f'{mean(i, "warm", "unseen"):.4f}',
        f'{mean(i, "warm", "step"):.0f}',
      )
    )
  header = (
    'window ends on day', 'edges', 'from scratch: error', 'at step', 'refreshed: first look',
    'reaches it at step', 'best error', 'at step',
  )  # fmt: skip
  return report.table(header, rows)


def main() -> None:
  source = common.source()
  if not isinstance(source, drift.Drift):
    raise ValueError('--data: this is measured on synthetic_drift, which has days.')
  with common.workdir('refresh_pairs') as folder:
    rows = [
      {'name': f'seed {s}', 'group': '', 'seeds': [s], 'windows': measured(source, folder, s)}
      for s in common.seeds()
    ]
    result = common.result('refresh_pairs', source, rows, picture=False)
    common.save(folder, result, f'refresh_pairs_{common.data_name()}')
    print(f'\n{render(result)}\n\n{report.caption(result)}')


if __name__ == '__main__':
  common.run(main)
