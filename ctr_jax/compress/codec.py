"""The contract: a technique maps a leaf to a codec; `chain` and `bind` compose them.

A technique is a function from the description of a table (`leaf.Leaf`) to a `Codec`, which says how
that table is stored and how its vectors are read back. Everything here is a description until
`encode` or `decode` is called, so trillion-parameter plans cost nothing to build.

Invariants (held for every technique by tests/compress/laws_test.py), for codec = technique(leaf):
  plan ≡ eval_shape(encode)                       what is described is what is stored
  structure(address(ids)) = structure(plan)       each leaf has an index, or WHOLE without rows
  0 ≤ address(ids) ≤ leaf.rows                    for every id in [0, rows]; leaf.rows reads nothing
  shape(decode(gather(stored, address(ids)))) = ids.shape + (cols,), dtype = leaf.dtype
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax.tables import leaf as leaf_lib

WHOLE = ...
"""The address of a leaf that is read in full: a gate, a codebook, the weights of the ways."""


class Codec(NamedTuple):
  """How one table (or a dict of tables) is stored and read.

  Attributes:
    plan: tree of `Leaf`, what is stored.
    encode: table [rows, cols] → arrays laid out as `plan`.
    address: ids (int32, any shape) → an index for each leaf of `plan`. Integers only, and the
      same bits from NumPy as from JAX. An address may add axes: `k` ways into one leaf give
      ids.shape + (k,). An address of leaf.rows reads nothing and writes nothing: what is gathered
      there is some row, which `decode` has to mask.
    decode: gathered leaves → vectors, ids.shape + (cols,). Takes the keywords `train`, `rng` and
      `step`, for techniques that are random or annealed while training, and `sample` (int32,
      ids.shape: which sample of the batch each read is of), for those that draw once for a
      sample. A dropped table: None.
    penalty: gathered leaves → float32 scalar that training adds to the loss, with the keyword
      `step`; None for none.
  """

  plan: Any
  encode: Callable[[Any], Any]
  address: Callable[[Any], Any]
  decode: Callable[..., Any]
  penalty: Callable[..., Any] | None = None


@dataclasses.dataclass(frozen=True)
class Technique:
  """A named way to store a table: call it with a leaf and get the codec.

  The name and arguments are kept so that a checkpoint or an artifact can say how it was made.
  """

  name: str
  arguments: Mapping[str, Any]
  build: Callable[[leaf_lib.Leaf], Codec]

  def __call__(self, leaf: leaf_lib.Leaf) -> Codec:
    if not leaf.is_table:
      raise ValueError(f'{self} takes a table with axes {leaf_lib.TABLE}, got {leaf.axes}.')
    return self.build(leaf)

  def __str__(self) -> str:
    if self.name == 'chain':
      return ' → '.join(map(str, self.arguments['links']))
    inside = ', '.join(f'{k}={_text(v)}' for k, v in self.arguments.items())
    return f'{self.name}({inside})'


def _text(value: Any) -> str:
  if isinstance(value, (tuple, list)):  # `str` of a tuple shows its techniques by `repr`.
    return f'({", ".join(map(_text, value))})'
  return str(value)


def technique(factory: Callable[..., Callable[[leaf_lib.Leaf], Codec]]):
  """Decorates a function of settings that returns `leaf → codec`; its calls give a `Technique`."""
  signature = inspect.signature(factory)

  @functools.wraps(factory)
  def make(*args, **kwargs) -> Technique:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return Technique(factory.__name__, dict(bound.arguments), factory(*args, **kwargs))

  return make


def describe(value: Any) -> Any:
  """A technique (or settings that hold some) as plain JSON."""
  if isinstance(value, Technique):
    return {'technique': value.name, 'arguments': describe(dict(value.arguments))}
  if isinstance(value, Mapping):
    return {name: describe(item) for name, item in value.items()}
  if isinstance(value, (tuple, list)):
    return [describe(item) for item in value]
  return value


def restore(description: Any, techniques: Mapping[str, Callable[..., Technique]]) -> Any:
  """The inverse of `describe`: `techniques` maps names to factories (`compress.TECHNIQUES`)."""
  if isinstance(description, list):
    return tuple(restore(item, techniques) for item in description)
  if not isinstance(description, Mapping):
    return description
  if 'technique' not in description:
    return {name: restore(item, techniques) for name, item in description.items()}
  name, arguments = description['technique'], restore(description['arguments'], techniques)
  if name == 'chain':
    return chain(*arguments['links'])
  if name not in techniques:
    raise ValueError(f'Unknown technique {name!r}; known are {", ".join(sorted(techniques))}.')
  return techniques[name](**arguments)


@technique
def identity() -> Callable[[leaf_lib.Leaf], Codec]:
  """The table as it is. The unit of `chain`."""

  def build(leaf):
    return Codec(
      plan=leaf,
      encode=lambda table: table.astype(leaf.dtype),
      address=lambda ids: ids,
      decode=lambda rows, **context: rows,
    )

  return build


@technique
def drop() -> Callable[[leaf_lib.Leaf], Codec]:
  """No table at all: the empty plan, zero bytes. Removing a feature is a rule, not an edit."""
  return lambda leaf: Codec(
    plan={}, encode=lambda table: {}, address=lambda ids: {}, decode=lambda rows, **context: None
  )


def chain(*links: Technique) -> Technique:
  """`chain(a, b)`: every table that `a` leaves is handed to `b`; other leaves pass through.

  Associative, with `identity()` as unit. A link that finds no table left is refused when the codec
  is built.
  """

  def build(leaf):
    codec = identity()(leaf)
    for i, link in enumerate(links):
      if i and link.name == 'drop':
        raise ValueError(
          f'drop() cannot follow {chain(*links[:i])}: it leaves nothing of a table, so it stands '
          'alone. Use drop() in place of the whole chain.'
        )
      if not any(x.is_table for x in leaf_lib.flatten(codec.plan).values()):
        before = chain(*links[:i])
        raise ValueError(
          f'{link} cannot follow {before}: no table is left for it to work on. '
          'Put it earlier in the chain, or leave it out.'
        )
      codec = _link(codec, link)
    return codec

  return Technique('chain', {'links': links}, build)


def _link(first: Codec, link: Technique) -> Codec:
  unit = identity().build  # Leaves that are no tables pass through as they are.
  parts = jax.tree.map(lambda x: link(x) if x.is_table else unit(x), first.plan)

  def each(function, *trees):
    return jax.tree.map(function, parts, *trees, is_leaf=lambda x: isinstance(x, Codec))

  flat = leaf_lib.flatten(parts)
  _refuse_prices_of_rows(first, link, flat.values())

  def penalty(rows, **context):
    own = leaf_lib.flatten(rows)
    terms = [
      part.penalty(leaf_lib.unflatten(part.plan, own, path), **context)
      for path, part in flat.items()
      if part.penalty
    ]
    if first.penalty:
      before = each(lambda part, x: part.decode(x, train=True, **context), rows)
      terms.append(first.penalty(before, **context))
    return sum(terms[1:], terms[0])

  def address(part, leaf, index):
    if index is WHOLE:
      return WHOLE
    return where_read(index != leaf.rows, part.plan, part.address(index))

  return Codec(
    plan=each(lambda part: part.plan),
    encode=lambda table: each(lambda part, x: part.encode(x), first.encode(table)),
    address=lambda ids: each(address, first.plan, first.address(ids)),
    decode=lambda rows, **context: first.decode(
      each(lambda part, x: part.decode(x, **context), rows), **context
    ),
    penalty=penalty if first.penalty or any(x.penalty for x in flat.values()) else None,
  )


def _refuse_prices_of_rows(first, link, parts):
  """Of a table in parts most reads are none, and a price of the rows that are read counts them."""
  in_parts = any(path.split('/')[-1] == 'which' for path in leaf_lib.flatten(first.plan))
  if in_parts and any(part.penalty and prices_rows(part.plan) for part in parts):
    raise ValueError(
      f'{link} cannot follow a partition: it prices the rows that are read, and most reads of a '
      'part are none. Put it before the partition, or use a threshold per table or per column.'
    )


def prices_rows(plan: Any) -> bool:
  """Whether a trained number of each row is among the leaves."""
  return any(x.axes == ('row',) and not x.frozen for x in leaf_lib.flatten(plan).values())


def where_read(reads: Any, plan: Any, address: Any) -> Any:
  """`address` where `reads` (bool, of the ids' shape) is true; elsewhere no leaf reads anything."""
  xp = jnp if isinstance(reads, jax.Array) else np
  if xp is np and reads.all():
    return address
  leaves, found = leaf_lib.flatten(plan), {}
  for path, index in leaf_lib.flatten(address).items():
    if index is not WHOLE:
      mask = reads.reshape(reads.shape + (1,) * (index.ndim - reads.ndim))
      index = xp.where(mask, index, np.int32(leaves[path].rows))
    found[path] = index
  return leaf_lib.unflatten(plan, found)


Rules = Sequence[tuple[str, Technique]]


def match(name: str, rules: Rules) -> Technique:
  """The technique of the first rule whose whole pattern matches `name`."""
  for pattern, chosen in rules:
    if re.fullmatch(pattern, name):
      return chosen
  patterns = ', '.join(repr(pattern) for pattern, _ in rules)
  raise ValueError(
    f"No rule covers the table {name!r} (rules: {patterns}). End the rules with ('.*', identity())."
  )


FEATURE = 'feature:'
"""How the pattern of a rule begins that is about a feature, not a table. Such a rule drops."""


def drops(feature: str, rules: Rules) -> bool:
  """Whether a rule `('feature:...', drop())` leaves this feature out.

  Raises:
    ValueError: a rule about features does anything but drop.
  """
  own = [(pattern, chosen) for pattern, chosen in rules if pattern.startswith(FEATURE)]
  for pattern, chosen in own:
    if chosen.name != 'drop':
      raise ValueError(
        f'The rule {pattern!r} is about a feature, which can only be dropped, not stored by '
        f'{chosen}: name the table that it reads.'
      )
  return any(re.fullmatch(pattern.removeprefix(FEATURE), feature) for pattern, _ in own)


def bind(tables: Mapping[str, leaf_lib.Leaf], rules: Rules) -> Codec:
  """A codec over `{table: ...}`: for each table the first rule that matches its name.

  Args:
    tables: the full tables, by name.
    rules: ordered (regular expression, technique) pairs; a pattern has to match the whole name, and
      every table has to be covered.

  Returns:
    A `Codec` whose plan, stored arrays, addresses and vectors are dicts by table name. `address`
    and `decode` take any subset of the tables. A dropped table decodes to None.
  """
  codecs = {}
  for name, leaf in tables.items():
    chosen = match(name, rules)
    try:
      codecs[name] = chosen(leaf)
    except ValueError as error:
      raise ValueError(f'Table {name!r}: {error}') from None

  def decode(rows, *, rng=None, sample=None, **context):
    def one(name, x):
      key = None if rng is None else leaf_lib.path_key(rng, name)
      read = None if sample is None else sample[name]
      return codecs[name].decode(x, rng=key, sample=read, **context)

    return {name: one(name, x) for name, x in rows.items()}

  penalised = [name for name, codec in codecs.items() if codec.penalty]

  def penalty(rows, **context):
    return sum(codecs[name].penalty(rows[name], **context) for name in penalised if name in rows)

  return Codec(
    plan={name: codec.plan for name, codec in codecs.items()},
    encode=lambda trained: {name: codecs[name].encode(x) for name, x in trained.items()},
    address=lambda ids: {name: codecs[name].address(x) for name, x in ids.items()},
    decode=decode,
    penalty=penalty if penalised else None,
  )
