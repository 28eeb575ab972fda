"""Encoding in plain Python, for comparison: Counter, math and nothing of the package."""

import collections
import csv
import io
import math
import random

MASK = 2**64 - 1


def make_rows(count, seed=0):
  """Raw rows with every kind of column, gaps, ties, and values that need quotes."""
  rng = random.Random(seed)
  rows = []
  for i in range(count):
    user = f'u{int(40 ** rng.random())}'
    item = f'ítem "{int(60 ** rng.random())}", x' if rng.random() < 0.9 else ''
    tags = [rng.choice(['a', 'bb', 'ccc', 'd d', '']) for _ in range(rng.randrange(6))]
    rows.append(
      {
        'label': str(int(rng.random() < 0.3)),
        'user': user if rng.random() < 0.95 else '',
        'item': item,
        'previous': rows[-1]['item'] if rows else '',
        'tags': '|'.join(tags),
        'price': rng.choice(['', '1.5', '-3', '1e3', '0.1', 'nan']),
        'clicks': rng.choice(['', '-1', '0', '1', '2', '3', '17', '4000', '2.5']),
        'agent': rng.choice(['', 'safari', 'firefox', 'ø', 'a-much-longer-agent/1.0 (x; y)']),
        'time': str(1000 + i // 3),
      }
    )
  return rows


def text(rows, delimiter=',', end='\n', header=True):
  """The rows as a delimited file."""
  out = io.StringIO()
  writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, lineterminator=end)
  if header:
    writer.writeheader()
  writer.writerows(rows)
  return out.getvalue().encode()


def encode(schema, splits):
  """{split: rows} -> ({split: {feature: list}}, {table: number of rows})."""
  tables = {}
  for table, features in schema.tables.items():
    counts = collections.Counter()
    for feature in features:
      for cell, times in collections.Counter(
        row[feature.column] for row in splits['train']
      ).items():
        for token in _tokens(feature, cell):
          counts[token] += times
    # Most frequent first, ties in the order of the UTF-8 bytes.
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0].encode()))
    kept = [value for value, n in ranked if n >= features[0].min_count]
    tables[table] = {value: row for row, value in enumerate(kept, 1)}
  widths = {f.name: _width(f, splits['train']) for f in schema.features if f.kind == 'ids'}
  encoded = {}
  for split, rows in splits.items():
    encoded[split] = {}
    for f in schema.features:
      cells = [row[f.column] for row in rows]
      code = {cell: _cell(f, cell, tables[f.table], widths.get(f.name)) for cell in set(cells)}
      encoded[split][f.name] = [code[cell] for cell in cells]
    encoded[split]['label'] = [float(row[schema.label]) for row in rows]
  sizes = {'numeric': lambda f: 2, 'hash': lambda f: f.buckets + 1}
  rows = {
    table: sizes.get(fs[0].kind, lambda f: len(tables[f.table]) + 1)(fs[0])
    for table, fs in schema.tables.items()
  }
  return encoded, rows


def _tokens(feature, cell):
  """The values that a cell counts for."""
  if feature.kind == 'ids':
    return [element for element in cell.split(feature.separator) if element]
  if feature.kind == 'bucket':
    return [] if cell in ('', 'nan') else [str(bucket(feature, float(cell)))]
  return [cell] if cell and feature.kind == 'id' else []


def _width(feature, train):
  longest = max(len(_tokens(feature, cell)) for cell in {row[feature.column] for row in train})
  return feature.width or max(1, min(longest, 64))


def bucket(feature, x):
  """One number's bucket."""
  if feature.transform == 'log2':
    return math.floor(math.log(x) ** 2) if x > 2 else math.floor(x) - 3
  return sum(1 for boundary in feature.boundaries if boundary <= x)


def _cell(feature, cell, ranks, width):
  tokens = _tokens(feature, cell)
  if feature.kind == 'numeric':
    return float(cell) if cell else math.nan
  if feature.kind == 'hash':
    return 1 + hash64(cell.encode()) % feature.buckets if cell else 0
  if feature.kind != 'ids':
    return ranks.get(tokens[0], 0) if tokens else 0
  found = [ranks.get(token, 0) for token in tokens][:width] or [0]
  return found + [-1] * (width - len(found))


def hash64(data):
  """FNV-1a, then MurmurHash3's finaliser, one byte and one multiplication at a time."""
  h = 0xCBF29CE484222325
  for byte in data:
    h = ((h ^ byte) * 0x100000001B3) & MASK
  return mix64(h)


def mix64(h):
  """MurmurHash3's 64-bit finaliser."""
  h = ((h ^ (h >> 33)) * 0xFF51AFD7ED558CCD) & MASK
  h = ((h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53) & MASK
  return h ^ (h >> 33)


def random_part(seed, row, fractions):
  """0, 1 or 2: the part of a row in a random split."""
  mask = 2**32 - 1
  x = (row & mask) ^ ((seed * 0x9E3779B9 + 0x7F4A7C15) & mask) ^ (((row >> 32) * 0x27D4EB2F) & mask)
  x = ((x ^ (x >> 16)) * 0x85EBCA6B) & mask
  x = ((x ^ (x >> 13)) * 0xC2B2AE35) & mask
  u = (x ^ (x >> 16)) / 2**32
  return int(u >= fractions[0]) + int(u >= fractions[0] + fractions[1])
