"""Nets and techniques that states are grown with, and what of it can be: see grow_nets_test.py.

python -m tests.train.grow_cases      # Prints the tables of WORKSPACE.md.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctr_jax import compress, models, predict
from ctr_jax.data import schema as schema_lib
from ctr_jax.tables import leaf, rowwise, stack
from ctr_jax.train import state as state_lib
from ctr_jax.train import step as step_lib
from tests.compress import techniques
from tests.models import nets_test

F = schema_lib.Feature
USER, ITEM, TAGS = F('user'), F('item'), F('tags', kind='ids', width=3)
PRICE, SHOP = F('price', kind='numeric'), F('shop')
SOME = (USER, ITEM, PRICE)
ROWS = {'user': 12, 'item': 20, 'price': 2, 'tags': 9, 'shop': 7}
DIM, BATCH = 4, 16
# Techniques (tests/compress/techniques.py) whose rows are others once there are more of them; and
# those of which a zero vector has no gradient, so that a net without weights cannot take them.
CANNOT_ENLARGE = {'binary_code', 'binary_code_skip', 'tensor_train', 'tensor_train_two'}
CANNOT_BE_SILENT = {'prune_table', 'prune_row'}
ALL = (('.*', compress.identity()),)
NETS = {name: {'net': name} | options for name, options in nets_test.SMALL.items()}
NETS |= {
  'relation_dcnv2': NETS['relation_dcnv2'] | {'mode': 'pairwise'},
  'attentive relation': {'net': 'relation', 'mode': 'attentive', 'heads': 1, 'hidden': (5,)},
}
# Features before and after, and tables whose vocabulary doubles.
CHANGES = {
  'a feature comes': (SOME, (USER, ITEM, SHOP, PRICE), ()),
  'one goes': ((*SOME, TAGS), SOME, ()),
  'vocabularies double': (SOME, SOME, ('user', 'item')),
  'a multi-valued one comes': (SOME, (*SOME, TAGS), ()),
}
# Net → the changes that are refused, and words of why.
_SOFTMAX = (('a feature comes', 'one goes', 'a multi-valued one comes'), 'softmax')
REFUSED = {
  'autoint': _SOFTMAX,
  'autoint_plus': _SOFTMAX,
  'attentive relation': _SOFTMAX,
  'fibinet': (('one goes',), "size of 'squeeze/reduce/kernel'"),
}
RECIPE = state_lib.Recipe(optax.adam(1e-2), rowwise.adagrad(0.1))


def model(features, net='dnn', rules=ALL, rows=None, layout=stack.apart, dim=DIM, **options):
  schema = schema_lib.Schema('s', features)
  rows = {f.table: (ROWS | (rows or {}))[f.table] for f in features}
  options = NETS[net] | options
  net = models.NETS[options.pop('net')](**options)
  return predict.build(schema, rows, rules, net, dim, leaf.normal(0.3), layout)


def batch(features, seed=0, rows=ROWS, size=BATCH):
  rng = np.random.default_rng(seed)
  found = {'label': rng.integers(0, 2, size).astype('f')}
  for f in features:
    if f.kind == 'numeric':
      found[f.name] = rng.normal(size=size).astype('f')
    else:
      shape = (size, f.width) if f.kind == 'ids' else (size,)
      found[f.name] = rng.integers(0, rows[f.table], shape).astype(np.int32)
  return found


def logits(built, state, columns):
  scorer = predict.scorer(built)
  return np.asarray(scorer.score(state.tables, state.net, scorer.prepare(columns)))


def changed(name, net):
  """The old model and the new one of a change, and columns that both can read."""
  before, after, doubled = CHANGES[name]
  rows = {table: 2 * ROWS[table] for table in doubled}
  return model(before, net), model(after, net, rows=rows), batch((*SOME, SHOP, TAGS))


def without(state, table):
  """A state in which the vectors of a table are zero."""
  return state._replace(tables=state.tables | {table: jnp.zeros_like(state.tables[table])})


def trained(built, recipe=RECIPE, seed=1):
  """A state without a special value, as if trained. NumPy, so that little compiles."""
  rng = np.random.default_rng(seed)

  def some(path, x):
    if not jnp.issubdtype(x.dtype, jnp.floating):
      return jnp.full(x.shape, 5, x.dtype)
    positive = getattr(path[-1], 'key', '') in ('scale', 'variance') or 'nu' in map(name, path)
    values = rng.uniform(0.2, 0.6, x.shape)
    return jnp.asarray(values if positive else values * rng.choice([-1, 1], x.shape), x.dtype)

  def name(key):
    return getattr(key, 'name', '')

  like = jax.eval_shape(lambda: state_lib.init(built, recipe, 3))
  state = jax.tree_util.tree_map_with_path(some, like)
  fixed = {}
  for path, x in built.layout.leaves.items():
    if x.frozen or not jnp.issubdtype(x.dtype, jnp.floating):
      fixed[path] = x.init(jax.random.key(0), x.shape, x.dtype)
  leaves = stack.unpack(built.layout, state.tables) | fixed
  slots = jax.tree.map(jnp.abs, state.slots)
  return state._replace(
    tables=stack.pack(built.layout, leaves), slots=slots, scale=jnp.float32(0.5)
  )


def stepped(built, state, columns, recipe=RECIPE):
  inputs = step_lib.batch(built, recipe, columns)
  return jax.jit(lambda state: step_lib.step(built, recipe, state, inputs)[0])(state)


def same(found, wanted):
  np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def tables() -> str:
  """What can grow, as Markdown: of the registries above, which the tests hold to be true."""
  lines = [f'| net | silent by | {" | ".join(CHANGES)} |', '|---' * (2 + len(CHANGES)) + '|']
  for net in NETS:
    side = 'weights' if getattr(model(SOME, net).net, 'weighs_all', False) else 'vectors'
    cells = ['refused' if name in REFUSED.get(net, ((),))[0] else 'same' for name in CHANGES]
    lines.append(f'| {net} | {side} | {" | ".join(cells)} |')
  lines += ['', '| technique | vocabulary doubles | new table, zero vectors |', '|---|---|---|']
  for name in techniques.TECHNIQUES:
    first = 'refused; accepted: encoded anew' if name in CANNOT_ENLARGE else 'same'
    lines.append(f'| {name} | {first} | {"refused" if name in CANNOT_BE_SILENT else "learns"} |')
  return '\n'.join(lines)


if __name__ == '__main__':
  print(tables())
