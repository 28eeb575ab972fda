"""Address and decode of each technique, without jax: the counterpart of `ctr_jax.compress`.

A chain is read from its description (`compress.describe`); see `codec` for what is made of it.

To serve another technique: a function here or in a file beside, a name in TECHNIQUES, a line in the
test's chains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ctr_jax.serve import codebooks, composed, gates, hashing
from ctr_jax.serve.codec import WHOLE, Codec, Leaf, as_stored, unpacked
from ctr_jax.tables import trees

_INSTEAD = {
  'adaptive_dims': 'by `packed` of its vectors',
  'fake_quantize': 'by `int_quantize` of the same bits',
  'alpt': 'by `int_quantize` of the same bits',
}


def build(description: Mapping[str, Any], leaf: Leaf) -> Codec:
  """The codec of a described technique over a table.

  Args:
    description: {'technique': name, 'arguments': {...}}, as `compress.describe` gives it.
    leaf: the table.

  Raises:
    ValueError: the technique is not served.
  """
  name, arguments = description['technique'], description['arguments']
  if name in _INSTEAD:
    raise ValueError(
      f'{name} is for training, and is not served: store the table {_INSTEAD[name]}.'
    )
  if name not in TECHNIQUES:
    raise ValueError(
      f'{name} has no decode without jax, so it is not served; these are: '
      f'{", ".join(sorted(TECHNIQUES))}. Store the table by one of them (`compress.encode`), or '
      'write its address and decode into ctr_jax/serve/techniques.py.'
    )
  return TECHNIQUES[name](leaf, **arguments)


def _same(leaf):
  return Codec(leaf, lambda ids: ids, as_stored)


def _identity(leaf):
  return _same(leaf)


def _drop(leaf):
  del leaf
  return Codec({}, lambda ids: {}, lambda xp, rows: None)


def _chain(leaf, links):
  codec = _same(leaf)
  for link in links:
    codec = _link(codec, link)
  return codec


def _link(first, link):
  plan = trees.flatten(first.plan)
  parts = {p: build(link, x) if x.is_table else _same(x) for p, x in plan.items()}

  def each(function, tree):
    flat = trees.flatten(tree) if isinstance(tree, Mapping) else {'': tree}
    return trees.unflatten(first.plan, {p: function(p, flat[p]) for p in parts})

  def address(path, index):
    if index is WHOLE:
      return WHOLE
    return _where_read(index != plan[path].shape[0], parts[path].plan, parts[path].address(index))

  def decode(xp, rows):
    made = {p: part.decode(xp, _at(rows, p)) for p, part in parts.items()}
    return first.decode(xp, trees.unflatten(first.plan, made))

  return Codec(
    plan=trees.unflatten(first.plan, {p: part.plan for p, part in parts.items()}),
    address=lambda ids: each(address, first.address(ids)),
    decode=decode,
  )


def _at(tree, path):
  for name in path.split('/') if path else ():
    tree = tree[name]
  return tree


def _where_read(reads, plan, address):
  """`address` where `reads` is true; elsewhere every leaf's number of rows, which reads nothing."""
  if reads.all():
    return address
  leaves, found = trees.flatten(plan), {}
  for path, index in trees.flatten(address).items():
    if index is not WHOLE:
      mask = reads.reshape(reads.shape + (1,) * (index.ndim - reads.ndim))
      index = np.where(mask, index, np.int32(leaves[path].shape[0]))
    found[path] = index
  return trees.unflatten(plan, found)


def _hash_trick(leaf, buckets, seed):
  return _multi_hash(leaf, buckets, 1, 'sum', False, seed)


def _multi_hash(leaf, buckets, ways, combine, shared, seed):
  rows, cols = leaf.shape
  stored = min(buckets, rows) if ways == 1 else buckets
  widths = [cols] * ways
  if combine == 'concat':
    widths = [cols // ways + (way < cols % ways) for way in range(ways)]
  names = ['ways'] if shared else [f'way_{j}' for j in range(ways)]
  plan = {n: leaf._replace(shape=(stored, w)) for n, w in zip(names, widths, strict=False)}
  if combine == 'weights':
    plan['weights'] = Leaf((ways,), 'float32', ('way',))

  def index(ids, way):  # With a bucket for every row the first way needs no hash.
    return ids if way == 0 and stored >= rows else hashing.bucket(ids, seed + way, stored)

  def address(ids):
    found = [index(ids, way) for way in range(ways)]
    found = {'ways': np.stack(found, -1)} if shared else dict(zip(names, found, strict=True))
    return found | ({'weights': WHOLE} if combine == 'weights' else {})

  def decode(xp, rows):
    if shared:
      parts = [xp.take(rows['ways'], way, axis=-2) for way in range(ways)]
    else:
      parts = [rows[name] for name in names]
    if combine == 'concat':
      return xp.concatenate(parts, axis=-1)
    if combine == 'weights':
      parts = [x * xp.take(rows['weights'], [way], axis=0) for way, x in enumerate(parts)]
    total = sum(parts[1:], parts[0])
    return total / ways if combine == 'mean' else total

  return Codec(plan, address, decode)


def _quotient_remainder(leaf, divisor, combine):
  rows, cols = leaf.shape
  cut = cols // 2 if combine == 'concat' else cols
  other = cols - cut if combine == 'concat' else cols
  plan = {
    'quotient': leaf._replace(shape=(math.ceil(rows / divisor), other)),
    'remainder': leaf._replace(shape=(min(divisor, rows), cut)),
  }

  def address(ids):
    return {'quotient': ids // np.int32(divisor), 'remainder': ids % np.int32(divisor)}

  def decode(xp, rows):
    if combine == 'concat':
      return xp.concatenate([rows['remainder'], rows['quotient']], axis=-1)
    if combine == 'add':
      return rows['remainder'] + rows['quotient']
    return rows['remainder'] * rows['quotient']

  return Codec(plan, address, decode)


def _partition(leaf, starts, parts):
  rows, cols = leaf.shape
  used = [start for start in starts if start < rows]
  ends = [*used[1:], rows]
  counts = [end - start for start, end in zip(used, ends, strict=True)]
  codecs = {
    f'part_{i}': build(part, leaf._replace(shape=(n, cols)))
    for i, (part, n) in enumerate(zip(parts, counts, strict=False))
  }
  plan = {name: codec.plan for name, codec in codecs.items()}
  plan['which'] = Leaf((len(used),) * 2, 'uint8', ('row', 'part'))
  bounds = np.asarray(ends, np.int32)

  def address(ids):
    which = np.searchsorted(bounds, ids, side='right').astype(np.int32)
    found = {'which': which}
    for i, (name, codec) in enumerate(codecs.items()):
      inside = which == i
      local = np.where(inside, ids - np.int32(used[i]), np.int32(counts[i]))
      found[name] = _where_read(inside, codec.plan, codec.address(local))
    return found

  def decode(xp, rows):
    which, total = rows['which'] != 0, None
    for i, (name, codec) in enumerate(codecs.items()):
      vectors = codec.decode(xp, rows[name])
      if vectors is not None:
        rest = np.zeros(cols, np.float32) if total is None else total
        total = xp.where(xp.take(which, [i], axis=-1), vectors, rest)
    return total

  if all(not trees.flatten(codec.plan) for codec in codecs.values()):
    raise ValueError('A partition of nothing but drop() is not served: drop the table itself.')
  return Codec(plan, address, decode)


def _hot_cold(leaf, hot, tail):
  return _partition(leaf, (0, hot), (_described('identity'), tail))


def _double_hash_by_frequency(leaf, hot, buckets, combine, seed):
  tail = _described('multi_hash', buckets=buckets, ways=2, combine=combine, shared=False, seed=seed)
  return _hot_cold(leaf, hot, tail)


def _mixed_dims(leaf, starts, dims):
  def part(d):
    return _described('identity') if d == leaf.shape[1] else _described('low_rank', rank=d)

  return _partition(leaf, starts, [part(d) for d in dims])


def _described(name, **arguments):
  return {'technique': name, 'arguments': arguments}


def _keep_dims(leaf, dims):
  rows, cols = leaf.shape

  def decode(xp, kept):
    return xp.pad(kept, [(0, 0)] * (len(kept.shape) - 1) + [(0, cols - dims)])

  return Codec(leaf._replace(shape=(rows, dims)), lambda ids: ids, decode)


def _low_rank(leaf, rank):
  rows, cols = leaf.shape
  plan = {
    'projection': Leaf((rank, cols), 'float32', ('rank', 'col')),
    'table': leaf._replace(shape=(rows, rank)),
  }
  return Codec(
    plan,
    lambda ids: {'projection': WHOLE, 'table': ids},
    lambda xp, rows: rows['table'] @ rows['projection'],
  )


def _cast(leaf, dtype, rounding):
  del rounding
  return _same(leaf._replace(dtype=dtype))


def _int_quantize(leaf, bits, offset):
  rows, cols = leaf.shape
  width = math.ceil(cols * bits / 8)
  plan = {'code': Leaf((rows, width), 'uint8', ('row', 'byte'))}
  for name in ('scale', 'offset') if offset else ('scale',):
    plan[name] = Leaf((rows,), 'float16', ('row',))

  def decode(xp, rows):
    codes = unpacked(xp, rows['code'], bits, cols).astype(np.float32)
    scale = xp.expand_dims(rows['scale'], -1)
    if offset:
      return xp.expand_dims(rows['offset'], -1) + scale * codes
    return scale * (codes - np.float32(2 ** (bits - 1)))

  return Codec(plan, lambda ids: dict.fromkeys(plan, ids), decode)


def _memcom(leaf, buckets, bias):
  rows, cols = leaf.shape
  stored = min(buckets, rows)
  scalars = ('multiplier', 'bias') if bias else ('multiplier',)
  plan = dict.fromkeys(scalars, leaf._replace(shape=(rows,), axes=('row',)))
  plan['shared'] = leaf._replace(shape=(stored, cols))

  def decode(xp, rows):
    vectors = rows['shared'] * xp.expand_dims(rows['multiplier'], -1)
    return vectors + xp.expand_dims(rows['bias'], -1) if bias else vectors

  return Codec(
    plan, lambda ids: dict.fromkeys(scalars, ids) | {'shared': ids % np.int32(stored)}, decode
  )


TECHNIQUES = {
  'chain': _chain,
  'identity': _identity,
  'drop': _drop,
  'hash_trick': _hash_trick,
  'multi_hash': _multi_hash,
  'quotient_remainder': _quotient_remainder,
  'partition': _partition,
  'hot_cold': _hot_cold,
  'mixed_dims': _mixed_dims,
  'keep_dims': _keep_dims,
  'low_rank': _low_rank,
  'cast': _cast,
  'int_quantize': _int_quantize,
  'memcom': _memcom,
  'double_hash_by_frequency': _double_hash_by_frequency,
  **composed.TECHNIQUES,
  **codebooks.TECHNIQUES,
  **gates.TECHNIQUES,
}
"""Name → (table, **arguments of the technique) → codec."""
