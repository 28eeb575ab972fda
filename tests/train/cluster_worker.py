"""One of several processes that train a small model together, for tests that compare or kill them.

  python -m tests.train.cluster_worker MODE OUT FOLDER PORT COUNT NUMBER

MODE `steps` takes 50 steps on the batches that one process would see, `slim` the same of a smaller
model; `fit` is a whole run in FOLDER, with checkpoints, and prints a line per step. The first
process writes the final arrays to OUT.
"""

import os
import pathlib
import sys

import jax
import numpy as np
import optax
from absl import flags

from ctr_jax import compress, models, predict
from ctr_jax.data import batches
from ctr_jax.tables import leaf, placement, rowwise, stack
from ctr_jax.train import journal, mesh, processes
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib
from tests.train import worker

STEPS, BATCH = 50, 64
# A full table, and three chains: one of each family that reads several rows for an id.
RULES = (
  ('item', compress.chain(compress.multi_hash(40, ways=2), compress.keep_dims(3))),
  ('noise', compress.chain(compress.hot_cold(100, compress.hash_trick(50)), compress.low_rank(2))),
  ('tags', compress.chain(compress.quotient_remainder(8), compress.cast('float32'))),
  ('user|category', compress.identity()),
  ('.*', compress.drop()),
)
# Enough of it where placements are compared, not techniques: programs compile in half the time.
SLIM = (('user|item|category', compress.identity()), ('.*', compress.drop()))
SPLIT = (('.*', placement.rows(least=30)),)
RECIPE = state_lib.Recipe(optax.adam(1e-3), rowwise.adagrad(0.05, 1e-3))


def build(layout, rules=RULES) -> predict.Model:
  source = worker.tiny()
  net = models.NETS['dnn'](hidden=(16,), dropout=0.2)
  return predict.build(source.schema, source.rows, rules, net, 4, leaf.normal(0.1), layout)


def steps(program: step_lib.Program, count: int = STEPS, seed: int = 3):
  """`count` steps on the batches of one process, each of several taking its part; and metrics."""
  source, state, metrics = worker.tiny(), program.create(seed), []
  reader = batches.Batches(source, 'train', (*source.schema.names, 'label'), BATCH)
  part = slice(program.host * BATCH // program.hosts, (program.host + 1) * BATCH // program.hosts)
  for epoch in range(99):
    for columns in reader.epoch(epoch):
      state, found = program.step(state, program.batch({n: x[part] for n, x in columns.items()}))
      metrics.append({n: float(x) for n, x in found.items()})
      if len(metrics) == count:
        return state, metrics


def arrays_of(model, state):
  """Tables and slots in order, and all else, by name."""
  tables = stack.unpack(model.layout, mesh.fetched(state.tables))
  slots = {n: x['sum'] for n, x in mesh.fetched(state.slots).items()}
  found = {'tables': tables, 'slots': stack.unpack(model.layout, slots), 'net': state.net}
  flat = jax.tree_util.tree_leaves_with_path(found)
  return {jax.tree_util.keystr(path): np.asarray(x) for path, x in flat}


def main() -> None:
  mode, out, folder, port, count, number = sys.argv[1:]
  processes.start(f'localhost:{port}', int(count), int(number))
  devices = jax.device_count()
  if mode in ('steps', 'slim'):
    cluster = mesh.Cluster(mesh.make(1, devices), SPLIT, lanes=16)
    model = build(cluster.layout, RULES if mode == 'steps' else SLIM)
    arrays = arrays_of(model, steps(mesh.program(cluster, model, RECIPE))[0])
  else:
    flags.FLAGS(['worker', f'--mesh=1x{devices}', '--placement=.*=rows'])
    update = journal._Bar.update

    def say(self, loss):
      update(self, loss)
      print('step', os.getpid(), flush=True)

    journal._Bar.update = say
    last = worker.run(pathlib.Path(folder), 'rows', rules=SLIM, epochs=2).last
    arrays = {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(mesh.fetched(last)))}
  if processes.is_first():
    with open(out, 'wb') as file:
      np.savez(file, **arrays, allow_pickle=False)


if __name__ == '__main__':
  with processes.one_for_all():
    main()
