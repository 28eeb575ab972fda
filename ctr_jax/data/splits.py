"""Which rows are train, valid and test: by file, by time, or at random."""

import ibis

from ctr_jax.data import engine, ingest
from ctr_jax.data import schema as schema_lib

_MASK = 0xFFFFFFFF


def samples(con, schema: schema_lib.Schema, loaded: ingest.Loaded):
  """The rows that are kept, as a table with `row` (place in the files' order) and `part`.

  `part` is 0 for train, 1 for valid and 2 for test.
  """
  kept = loaded.table.filter(loaded.table.bad == 0)
  if schema.split.by == 'file':
    part = _by_file(kept, loaded.splits)
  elif schema.split.by == 'time':
    part = _by_time(con, kept, schema.split)
  else:
    kept = _mix(con, kept, schema.split.seed)
    part = _at_random(kept.mixed, schema.split.fractions)
  return engine.view(con, 'samples', kept.mutate(part=part.cast('int8')))


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
  times = table.group_by('time').agg(rows=table.count())
  until = times.rows.sum().over(ibis.window(order_by='time', following=0))
  times = engine.view(con, 'times', times.select('time', until=until))
  rows = engine.rows(con, table.agg(rows=table.count()))[0]['rows']
  cuts = []
  for fraction in (fractions[0], fractions[0] + fractions[1]):
    # The time of the row at this place among all rows in the order of their times.
    later = times.filter(times.until > round(rows * fraction))
    cuts.append(engine.rows(con, later.agg(time=later.time.min()))[0]['time'])
  # A fraction that ends at the last row cuts nothing off.
  return [cut for cut in cuts if cut is not None]


def _mix(con, table, seed):
  """Adds `mixed`: MurmurHash3's 32-bit finaliser of row number and seed.

  In signed 64-bit numbers that stay below 2^49, which every engine has and none overflows on.
  """
  low, high = table.row & _literal(_MASK), _shifted(table.row, 32)
  seed = _literal((seed * 0x9E3779B9 + 0x7F4A7C15) & _MASK)
  table = table.mutate(mixed=_product(high, 0x27D4EB2F) ^ low ^ seed)
  for number, (shift, factor) in enumerate(((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1))):
    table = _step(con, table, f'mixed_{number}', _folded(shift))
    table = _step(con, table, f'folded_{number}', lambda x, factor=factor: _product(x, factor))
  return engine.view(con, 'mixed', table)


def _step(con, table, name, function):
  """`mixed` replaced by a function that names it more than once; `name` is for a view."""
  if con.name == 'duckdb':
    x = engine.view(con, name, table)
    return x.mutate(mixed=function(x.mixed))
  # Spark writes a column out again wherever it is named, by a view or not: after six steps more
  # than it can compile. The argument of a lambda it computes once.
  return table.mutate(mixed=ibis.array([table.mixed]).map(function)[0])


def _folded(shift):
  return lambda x: x ^ _shifted(x, shift)


def _shifted(x, bits):
  return (x >> ibis.literal(bits, 'int32')).cast('int64')


def _product(x, factor):
  """The lower 32 bits of a product of 32-bit numbers, from the two halves of one of them."""
  low, high = x & _literal(0xFFFF), _shifted(x, 16)
  upper = high * _literal(factor) & _literal(0xFFFF)
  return (low * _literal(factor) + upper * _literal(0x10000)) & _literal(_MASK)


def _at_random(mixed, fractions):
  first = _literal(round(fractions[0] * 2**32))
  second = _literal(round((fractions[0] + fractions[1]) * 2**32))
  return (mixed >= first).cast('int8') + (mixed >= second).cast('int8')


def _literal(number):
  return ibis.literal(number, 'int64')
