"""Which rows are train, valid and test: by file, by time, or at random."""

import ibis

from ctr_jax.data import engine, ingest
from ctr_jax.data import schema as schema_lib

_MASK = 0xFFFFFFFF


def samples(con, schema: schema_lib.Schema, loaded: ingest.Loaded):
  """The rows that are kept, as a table with `row` (place in the files' order) and `part`.

  `part` is 0 for train, 1 for valid and 2 for test.
  """
  raw = loaded.raw
  kept = raw.mutate(row=raw.rowid()).filter(raw.bad == 0)
  if schema.split.by == 'file':
    part = _by_file(kept, loaded.splits)
  elif schema.split.by == 'time':
    part = _by_time(con, kept, schema.split)
  else:
    kept = _mix(con, kept, schema.split.seed)
    part = _at_random(kept.mixed, schema.split.fractions)
  return _view(con, 'samples', kept.mutate(part=part.cast('int8')))


def _view(con, name, expression):
  """Names an expression, so that Ibis does not write it out again wherever it is used."""
  con.con.execute(f'CREATE VIEW "{name}" AS {con.compile(expression)}')
  return con.table(name)


def count(con, table) -> dict[str, int]:
  """Split -> samples."""
  found = engine.rows(con, table.group_by('part').agg(rows=table.count()))
  rows = {entry['part']: entry['rows'] for entry in found}
  return {split: rows.get(part, 0) for part, split in enumerate(schema_lib.SPLITS)}


def _by_file(table, splits):
  cases = [
    (table.file.between(start, stop - 1), schema_lib.SPLITS.index(split))
    for split, (start, stop) in splits.items()
  ]
  return ibis.cases(*cases, else_=0)


def _by_time(con, table, split):
  cuts = split.cuts or _cuts(con, table, split.fractions)
  if split.type == 'number':
    cuts = [float(cut) for cut in cuts]
  return sum(((table.time >= cut).cast('int8') for cut in cuts), start=ibis.literal(0, 'int8'))


def _cuts(con, table, fractions):
  """Times at which the fractions are reached; rows of one time stay together, in the later part."""
  rows = engine.rows(con, table.agg(rows=table.count()))[0]['rows']
  times = table.order_by('time').select('time')
  cuts = []
  for fraction in (fractions[0], fractions[0] + fractions[1]):
    # A fraction that ends at the last row cuts nothing off.
    found = engine.rows(con, times.limit(1, offset=round(rows * fraction)))
    cuts += [entry['time'] for entry in found]
  return cuts


def _mix(con, table, seed):
  """Adds `mixed`: MurmurHash3's 32-bit finaliser of row number and seed.

  In 64-bit products of 32-bit numbers, which no engine overflows on; one view per step, since
  each step names its argument twice.
  """
  low, high = table.row.cast('uint64') & _literal(_MASK), table.row.cast('uint64') >> 32
  seed = _literal((seed * 0x9E3779B9 + 0x7F4A7C15) & _MASK)
  table = table.mutate(mixed=low ^ seed ^ (high * _literal(0x27D4EB2F) & _literal(_MASK)))
  for step, (shift, factor) in enumerate(((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1))):
    x = _view(con, f'mixed_{step}', table)
    table = x.mutate(mixed=(x.mixed ^ (x.mixed >> shift)) * _literal(factor) & _literal(_MASK))
  return _view(con, 'mixed', table)


def _at_random(mixed, fractions):
  first = _literal(round(fractions[0] * 2**32))
  second = _literal(round((fractions[0] + fractions[1]) * 2**32))
  return (mixed >= first).cast('int8') + (mixed >= second).cast('int8')


def _literal(number):
  return ibis.literal(number, 'uint64')
