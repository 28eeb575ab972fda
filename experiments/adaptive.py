"""Adaptive dimensions (AMTL) on what other techniques store: a search, then what it keeps, packed.

  rules = adaptive.searching(source, hashed(source), price)      # trained as a search
  trial = adaptive.packed('adaptive dims', search, first, price) # and what comes after it

Every chain that leaves tables takes `adaptive_dims`, multi-hash too. There its attribute, the rank,
is that of a bucket, and a bucket's number says nothing of frequency: what is learned is how many
columns buckets can do without, and which of them do is chance. Ids of tables that are not hashed
are ranked by frequency, as the paper wants it. (The other order, `adaptive_dims` and then a hash,
has frequency, but a bucket is as wide as the widest of its ids: next to no byte would fall.)

What a search keeps is stored as ranges of rows with as many columns as were learned. A hashed model
is cut as it is, way by way: its vectors, hashed again, would be fitted anew and differ.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax import compress
from ctr_jax.data import columns
from ctr_jax.tables import gather, leaf
from experiments import trials

# Arrays of a table at most: each is read on its own, and a search leaves dozens of ranges. One more
# has to save such a share of the values of all tables.
_PARTS, _SHARE = 3, 0.01


def searching(source: columns.Source, first: compress.Rules, price: float) -> compress.Rules:
  """Rules of the search: what `first` stores of each table, with a learned cut of every row.

  Args:
    source: whose tables they are.
    first: how tables are stored before that.
    price: `adaptive_dims`' budget: a table's price per share of its values that is kept.
  """
  technique = compress.adaptive_dims(budget=price)
  found = ((t, compress.chain(compress.match(t, first), technique)) for t in source.rows)
  return (*((re.escape(t), chain) for t, chain in found), ('.*', compress.identity()))


def packed(name: str, search: trials.Trial, first: compress.Rules, price: float) -> trials.Trial:
  """The trial that goes on after a search: what it keeps, and no more, trained on in that form."""
  technique = compress.adaptive_dims(budget=price)
  return dataclasses.replace(
    search,
    name=name,
    rules=_kept(first, technique),
    after=search,
    start=_cut(first, technique),
  )


def _kept(first, technique) -> Callable[[trials.Outcome], compress.Rules]:
  def packed_dims(outcome):
    drops = [(pattern, x) for pattern, x in outcome.rules if x.name == 'drop']
    rules, used = [], {}
    for table, parts in _decoded(outcome, first, technique).items():
      # Tables of one shape (the ways of a hash): each row as wide as the widest needs.
      used[table] = sum(np.abs(x) for x in jax.tree.leaves(parts))
    least = _SHARE * sum(_values(compress.packed(x, len(x)), len(x)) for x in used.values())
    for table, vectors in used.items():
      link = _packed(vectors, least)
      rules.append((re.escape(table), compress.chain(compress.match(table, first), link)))
    return (*drops, *rules, ('.*', compress.identity()))

  return packed_dims


def _packed(used, least):
  """The link for a table, in as few arrays as cost at most `least` values beyond the fewest."""
  links = [compress.packed(used, len(used), most=most) for most in range(1, _PARTS + 1)]
  fewest = _values(links[-1], len(used))
  link = next(link for link in links if _values(link, len(used)) <= fewest + least)
  starts, kept = link.arguments['starts'], link.arguments['parts']
  if len(starts) > 1:
    return link
  # One part is that part: no index is stored, and nothing has to be looked up.
  return compress.identity() if kept[0].arguments['dims'] == used.shape[1] else kept[0]


def _values(link, rows):
  """How many a partition stores."""
  starts, parts = link.arguments['starts'], link.arguments['parts']
  sizes = np.diff([*starts, rows])
  return sum(int(n) * part.arguments['dims'] for n, part in zip(sizes, parts, strict=True))


def _cut(first, technique):
  def cut(before, model, rules):
    """Starts from each table as it was found, columns beyond its cuts left out."""
    plans = _plans(before, first)
    links = {table: compress.match(table, rules).arguments['links'][-1] for table in plans}

    def encode(tables):
      return {
        table: jax.tree.map(lambda part, x, t=table: links[t](part).encode(x), plan, tables[table])
        for table, plan in plans.items()
      }

    codec = compress.Codec(model.codec.plan, encode, None, None)
    stored = compress.encode(codec, _decoded(before, first, technique))
    return trials.Outcome(model, rules, {t: {} for t in model.codec.plan} | stored, before.net)

  return cut


def _plans(outcome, first):
  """Table → what `first` stores of it: its leaf, or those of the ways; tables that are kept."""
  model = outcome.model
  return {
    table: compress.match(table, first)(leaf.Leaf((model.rows[table], model.width))).plan
    for table, plan in model.codec.plan.items()
    if leaf.flatten(plan)
  }


def _decoded(outcome: trials.Outcome, first, technique) -> dict[str, Any]:
  """Table → what `first` stores of it, as the search cuts it: arrays laid out as its plan."""

  def one(part, stored):
    codec = technique(part)
    index = codec.address(jnp.arange(part.rows, dtype=jnp.int32))
    return codec.decode(gather.gather(codec.plan, stored, index), train=False)

  plans = _plans(outcome, first)
  read = jax.jit(lambda stored: {t: jax.tree.map(one, plans[t], stored[t]) for t in plans})
  return read({table: outcome.stored[table] for table in plans})
