"""Saves deltas, full checkpoints and compactions in processes that are killed, for `kills_test`.

  python -m tests.train.delta_worker FOLDER KILLS SEED

A child goes on from what is in FOLDER, and tells before each save what it is about to do; the
parent kills it at a random moment soon after, KILLS times. Each child compares the state that it
finds with that of a run that nobody killed: of the last step that was saved, or of the one that was
being saved. Children are forked before jax has begun anything, so that none has to import it.
"""

import collections
import hashlib
import json
import os
import pathlib
import random
import select
import signal
import sys
import time

import jax
import numpy as np

from ctr_jax.tables import rowwise, stack
from ctr_jax.train import checkpoint
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib
from tests.train import deltas_test as cases

STEPS = 400


def digest(state):
  found = hashlib.sha256()
  for x in jax.tree.leaves(state):
    found.update(np.asarray(x).tobytes())
  return found.hexdigest()


def made():
  model = cases.build(cases.HASHED, stack.stacked)
  recipe = state_lib.Recipe(cases.ADAM, rowwise.adagrad(0.05, 1e-3))
  return model, step_lib.program(model, recipe)


def reference(path):
  """Writes the digest of the state after every step."""
  _, program = made()
  state, found = program.create(5), {}
  for i, data in enumerate(cases.columns(), 1):
    state, _ = program.step(state, program.batch(data))
    found[i] = digest(state)
    if i == STEPS:
      break
  path.write_text(json.dumps(found))


def child(folder, tell, floor):
  """Checks what is there, and goes on until it is killed; `floor` is a step that was saved."""
  model, program = made()
  want = json.loads((folder / 'reference.json').read_text())
  saved = checkpoint.Checkpoints(folder / 'run', model, {}, deltas=4)
  restored = saved.restore('last', program.like())
  state, position = restored or (program.create(5), {'step': 0})
  step = int(state.step)
  assert position == {'step': step}
  assert step == 0 or digest(state) == want[str(step)], f'another state at step {step}'
  assert step >= floor, f'step {floor} was saved, and {step} is found'
  tell(f'found {step}')
  for i, data in enumerate(cases.columns(step), step + 1):
    batch = program.batch(data)
    state, _ = program.step(state, batch)
    saved.moved(batch)
    if i % 3 == 0:
      tell('begins compact')
      saved.save('last', state, {'step': i})
      saved.compact(program.like())
    else:
      tell('begins save')
      saved.save('last', state, {'step': i})
      if not saved._deltas._count:  # A full one is saved in the background.
        saved.wait()
    tell(f'saved {i}')


def lines(pipe, process):
  """Yields what a child tells, and None when it ends; a line is whole or not told."""
  text = b''
  while True:
    ready, _, _ = select.select([pipe], [], [], 120)
    data = os.read(pipe, 4096) if ready else b''
    if not data:
      os.waitpid(process, 0)
      return
    *whole, text = (text + data).split(b'\n')
    yield from (line.decode() for line in whole)


def fork(run):
  """(process, pipe that it tells through)."""
  reader, writer = os.pipe()
  process = os.fork()
  if process:
    os.close(writer)
    return process, reader
  try:
    run(lambda line: os.write(writer, f'{line}\n'.encode()))
  except BaseException as error:
    os.write(writer, f'error {error}'.replace('\n', ' ').encode() + b'\n')
  os._exit(0)


def main():
  folder, kills, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
  folder.mkdir(parents=True, exist_ok=True)
  if not (folder / 'reference.json').exists():
    process, _ = fork(lambda tell: reference(folder / 'reference.json'))
    os.waitpid(process, 0)
  draw, floor, killed = random.Random(seed), 0, collections.Counter()
  while sum(killed.values()) < kills:
    process, pipe = fork(lambda tell, floor=floor: child(folder, tell, floor))
    saves, doing, ended = draw.randint(1, 5), 'nothing', True
    for line in lines(pipe, process):
      word, _, rest = line.partition(' ')
      if word == 'error':
        sys.exit(f'after {sum(killed.values())} kills: {rest}')
      if word in ('found', 'saved'):
        floor, doing = int(rest), 'nothing'
      if word == 'begins':
        doing = rest
        saves -= 1
      if saves == 0 and doing != 'nothing' and ended:
        # Saves take some 10 ms, compactions some 200: before, within, or just after.
        time.sleep(draw.random() * (0.03 if doing == 'save' else 0.4))
        os.kill(process, signal.SIGKILL)
        killed[doing] += 1
        ended = False  # What it still told before it died is read.
    os.close(pipe)
    if ended:
      sys.exit('a child ended by itself')
    print(f'{sum(killed.values())} kills, step {floor} is saved', file=sys.stderr, flush=True)
  process, pipe = fork(lambda tell: child(folder, tell, floor))
  for line in lines(pipe, process):
    if line.startswith('error'):
      sys.exit(line)
    os.kill(process, signal.SIGKILL)
  print(json.dumps({'killed': killed, 'step': floor}))


if __name__ == '__main__':
  main()
