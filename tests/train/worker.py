"""A small training run in a process of its own, for tests that kill it.

  python tests/train/worker.py FOLDER MODE OUT

Prints a line per step, so that whoever watches can choose the moment; writes the final arrays to
OUT.
"""

import pathlib
import sys

import jax
import numpy as np

from ctr_jax import compress
from ctr_jax.data import synthetic
from ctr_jax.train import journal, loop
from experiments import optimizers, trials


def tiny() -> synthetic.Synthetic:
  """A few thousand synthetic clicks."""
  return synthetic.Synthetic(synthetic.small())


RULES = (('.*', compress.multi_hash(64, ways=2)),)


def trial(mode: str, rules: compress.Rules = RULES, **schedule) -> trials.Trial:
  if mode == 'deltas':  # Of its checkpoints two of three are deltas.
    mode, schedule = 'rows', {'deltas': 2} | schedule
  chosen = {'epochs': 3, 'batch_size': 256, 'patience': 9, 'checkpoint_steps': 3} | schedule
  return trials.Trial(
    'tiny',
    rules=rules,
    net='dnn',
    net_options={'hidden': (16,), 'dropout': 0.2},
    dim=4,
    optimizer=optimizers.Optimizer(mode=mode),
    schedule=loop.Schedule(**chosen),
  )


def run(folder: pathlib.Path, mode: str, source=None, **changes) -> loop.Trained:
  source = tiny() if source is None else source
  return trials.fit(trial(mode, **changes), source, folder, seed=7)[1]


def main() -> None:
  folder, mode, out = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
  update = journal._Bar.update

  def say(self, loss):
    update(self, loss)
    print('step', flush=True)

  journal._Bar.update = say
  trained = run(folder, mode)
  arrays = [np.asarray(x) for x in jax.tree.leaves(trained.last)]
  with out.open('wb') as file:
    np.savez(file, *arrays, allow_pickle=False)


if __name__ == '__main__':
  main()
