"""An experiment that trains nothing: its rows end at once, wait to be stopped, or fail."""

import json
import os
import pathlib
import re
import signal
import sys
import time

NAMES = ('one_1', 'one_after', 'made_1', 'made_2', 'slow_×2', 'bad')
LABELS = [f'{name.partition("_")[0]}: {name}' for name in NAMES]


def sweep(add, source):
  """Two rows share a stage, two make columns; the others have nothing in common."""
  del source
  first = add('one', '1')
  add('one', 'after', after=first)
  add('made', '1', source=lambda: None)
  add('made', '2', source=lambda: None)
  add('slow', '×2')
  add('bad', '')


def train(root, label):
  name = label.split(': ')[1]
  saved = root / f'{name}.saved'

  def save(*_):
    saved.touch()
    note(root, f'saved {name}')
    sys.exit(143)

  signal.signal(signal.SIGTERM, save)
  note(root, f'begin {name}')
  if name == 'bad' and os.environ.get('FAKE_BAD'):
    print('some lines before\nValueError: it went wrong', flush=True)
    sys.exit(3)
  if name.startswith('slow') and os.environ.get('FAKE_SLOW') and not saved.exists():
    time.sleep(120)
  time.sleep(0.2)
  done = root / name / 'seed_0' / 'result.json'
  done.parent.mkdir(parents=True)
  done.write_text(json.dumps(name))
  note(root, f'end {name}')


def note(root, text):
  with (root / 'notes').open('a') as file:
    file.write(f'{text}\n')


if __name__ == '__main__':
  given = dict(x.removeprefix('--').partition('=')[::2] for x in sys.argv[1:])
  root = pathlib.Path(given['workdir'])
  chosen = [label for label in LABELS if re.search(given.get('only', ''), label)]
  if 'shared_workdir' in given:
    assert len(chosen) == 1, chosen
    train(root, chosen[0])
  else:
    (root / 'report.md').write_text(' '.join(label.split(': ')[1] for label in chosen))
    print('the report')
