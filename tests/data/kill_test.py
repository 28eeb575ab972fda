"""Changes killed at random moments leave the old version or the new one, complete."""

import pathlib
import subprocess
import sys

import pytest

# Runs in a process of its own, which imports once and starts no threads: each change, and each look
# at what is left, is in a child of it. A pipe tells when a change has begun.
_TRIALS = """
import collections, os, pathlib, random, shutil, signal, sys, time
from ctr_jax.data import adding, appending, change, columns, encode, engine, storage, versions
from ctr_jax.data.schema import Feature, Schema

folder, wanted = pathlib.Path(sys.argv[1]), int(sys.argv[2])
storage.CHUNK = 64
ROWS = 5000
names = [f'c{i}' for i in range(5)]
features = [Feature(n, 'id' if i < 2 else 'numeric') for i, n in enumerate(names)]
schema = Schema('s', tuple(features), files={'train': 'train.csv'}, ignore=('new',))


def child(work):
  pid = os.fork()
  if pid:
    return pid
  try:
    work()
    os._exit(0)
  except BaseException as e:
    print(repr(e), file=sys.stderr, flush=True)
    os._exit(1)


def done(work):
  assert os.waitpid(child(work), 0)[1] == 0, work


def write(name, rows):
  lines = [','.join(map(str, (i % 2, *((i * 7 + k) % 23 for k in range(6))))) for i in range(rows)]
  (folder / name).write_text('\\n'.join([','.join(['label', *names, 'new']), *lines, '']))


def add(path):
  adding.by_row(path, Feature('new'), {'train': [folder / 'row.csv']}, progress=False)


def append(path):
  appending.append(path, {'train': [folder / 'more.csv']}, progress=False)


def prepared():
  encode.encode(schema, folder, folder / 'encoded', progress=False)
  shutil.copytree(folder / 'encoded', folder / 'many')
  for _ in range(4):
    add(folder / 'many')
    change.drop(folder / 'many', ['new'])


def look(path):
  # Version -> checksum, every file read.
  found = {n: columns.open_columns(path, 'full', n) for n in versions.known(path)}
  for source in found.values():
    source.read('train', [*source.schema.names, 'label'], 0, source.num_samples('train'))
  (folder / 'found').write_text(repr({n: s.checksum for n, s in found.items()}))


def seen(path):
  done(lambda: look(path))
  return eval((folder / 'found').read_text())


def left(path):
  kept = versions.known(path)
  return bool(versions.leftovers(path, kept))


def copied(start, name):
  shutil.rmtree(folder / name, ignore_errors=True)
  return pathlib.Path(shutil.copytree(start, folder / name))


def begun(run, path, pipe):
  def work():
    os.write(pipe, b'x')
    run(path)
  return child(work)


write('train.csv', ROWS)
write('row.csv', ROWS)
write('more.csv', 3000)
done(prepared)
rng = random.Random(1)
reading, writing = os.pipe()
starts = {'add': (add, 'encoded'), 'append': (append, 'encoded'), 'prune': (versions.prune, 'many')}
expected = {}
for name, (run, start) in starts.items():
  path = copied(folder / start, 'whole')
  old, took = seen(path), []
  for _ in range(2):
    path = copied(folder / start, 'whole')
    pid = begun(run, path, writing)
    os.read(reading, 1)
    began = time.monotonic()
    assert os.waitpid(pid, 0)[1] == 0
    took.append(time.monotonic() - began)
  expected[name] = (old, seen(path), min(took))
totals, again = collections.Counter(), set()
killed = 0
for trial in range(4 * wanted):
  name = list(starts)[trial % 3]
  run, start = starts[name]
  old, new, took = expected[name]
  path = copied(folder / start, 'trial')
  pid = begun(run, path, writing)
  os.read(reading, 1)
  time.sleep(0.9 * took * rng.random())
  os.kill(pid, signal.SIGKILL)
  status = os.waitpid(pid, 0)[1]
  found = seen(path)
  if name == 'prune':
    assert old.items() >= found.items() and max(found) == max(old), (old, found)
  else:
    assert found in (old, new), (old, new, found)
  # The newest is new where a change was done; of a prune, where all is gone that should be.
  finished = found == new
  what = 'old' if not finished else 'new'
  what += ', with leftovers' if left(path) else ''
  killed += status != 0
  totals[name, 'killed' if status else 'had ended', what] += 1
  # The change can be made again, and what was left goes. (Made once of each: it takes a while.)
  if found == old and name not in again:
    again.add(name)
    done(lambda: run(path))
    found = seen(path)
    assert found == new
  versions.prune(path)
  pruned = seen(path)
  assert pruned == {max(found): found[max(found)]}, (found, pruned)
  assert not left(path)
  if killed == wanted:
    break
for key, count in sorted(totals.items()):
  print(f'{count:4} {key[0]}: {key[1]}, found {key[2]}')
print('trials', sum(totals.values()), 'killed', killed)
"""


def _run(folder, kills):
  root = pathlib.Path(__file__).parents[2]
  command = [sys.executable, '-c', _TRIALS, str(folder), str(kills)]
  return subprocess.run(command, cwd=root, capture_output=True, text=True)


@pytest.mark.long
def test_sigkill(tmp_path):
  done = _run(tmp_path, 50)
  print(done.stdout)
  assert done.returncode == 0, done.stderr
  # Those that a busy machine let end before they were killed do not count.
  assert done.stdout.split()[-2:] == ['killed', '50']
