"""Data sets with crosses: which pairs, what history, and the columns beside, made once and kept.

Pairs are chosen by what their past tells beyond their two values (`ctr_jax.data.pair_gain`); a
sample's history is what is earlier where there is a clock (Yelp's visits, synthetic days), and out
of fold where there is none.
"""

from __future__ import annotations

import hashlib
import json
import pathlib

from absl import flags

from ctr_jax.data import beside, columns, crosses, datasets, pair_gain
from ctr_jax.data import history as history_lib
from ctr_jax.train import loop
from experiments import common, report

PAIRS = flags.DEFINE_integer(
  'pairs', 6, 'How many pairs of features are crossed: those of most gain.'
)
MIN_COUNT = flags.DEFINE_integer('min_count', 2, 'Pairs of values seen less often have no id.')

# A pair of less gain (nats per sample) is not worth a column.
_LEAST = 1e-4
# Slices of a clock and folds: as many graphs as these are pre-trained.
SLICES, FOLDS = 4, 4


def clocked(source: columns.Source) -> columns.Source:
  """The source with its clock, where its samples have a time."""
  if 'day' in source.extras:
    return source
  name = common.data_name().removesuffix(common.WIDE)
  cache = common.PROJECT / 'workdir' / 'encoded'
  found = datasets.clock(name, common.DATA_DIR.value, cache, engine_name=common.ENGINE.value)
  return source if found is None else beside.join(source, found)


def history(source: columns.Source, *, sliced: bool = False) -> history_lib.History:
  """What a sample of a clocked source may know; in few slices where graphs are made of it."""
  clock = 'day' if 'day' in source.extras else 'clock' * ('clock' in source.schema.names)
  return history_lib.History(clock, slices=SLICES if sliced and clock else 0, folds=FOLDS)


def folder(kind: str, *what):
  """Where what is made of `what` (plain JSON) is kept."""
  digest = hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()
  return common.PROJECT / 'workdir' / 'made' / f'{kind}-{common.data_name()}-{digest[:16]}'


def making(out: pathlib.Path):
  """Held while `out` is made: another run that needs it waits, and finds it."""
  return common.locked(out.with_name(f'{out.name}.making'), wait=True)


def gains(source: columns.Source) -> list[pair_gain.Gain]:
  """Every pair's gain; kept, since it asks all of them."""
  source = clocked(source)
  how = history(source)
  path = folder('gains', source.checksum, repr(how)) / 'gains.json'
  if not path.exists():
    names = [name for name in pair_gain.candidates(source) if name != 'clock']
    found = pair_gain.gains(source, how, names, engine_name=common.ENGINE.value)
    loop.write_json(path, [gain._asdict() for gain in found])
  return [pair_gain.Gain(**gain) for gain in json.loads(path.read_text())]


def pairs(source: columns.Source) -> list[tuple[str, str]]:
  """The --pairs of most gain, none of next to none; says which."""
  chosen = [gain for gain in gains(source)[: PAIRS.value] if gain.nats >= _LEAST]
  if not chosen:
    raise ValueError('No pair of features has a gain: there is nothing to cross.')
  lines = [(gain.first, gain.second, f'{1e4 * gain.nats:.1f}') for gain in chosen]
  print(report.table(('first', 'second', 'gain, nats × 1e4'), lines), '\n', flush=True)
  return [(gain.first, gain.second) for gain in chosen]


def with_crosses(source: columns.Source, chosen, buckets: int = 0) -> columns.Source:
  """The source with an id for each pair of values; hashed into `buckets` rows where given."""
  made = [crosses.Cross(*pair, min_count=MIN_COUNT.value, buckets=buckets) for pair in chosen]
  return beside.join(source, _add(source, made, []))


def with_statistics(source: columns.Source, chosen, *, sliced: bool = False) -> columns.Source:
  """The source with the past click rate of each pair of values, and how often it was seen."""
  made = [crosses.Statistic(*pair) for pair in chosen]
  return beside.join(source, _add(source, [], made, sliced))


def _add(source, made_crosses, made_statistics, sliced=False):
  timed = clocked(source)
  how = history(timed, sliced=sliced)
  out = folder('crosses', timed.checksum, made_crosses, made_statistics, how)
  engine = common.ENGINE.value
  with making(out):
    return crosses.add(timed, out, made_crosses, made_statistics, how, engine_name=engine)
