"""Nets of which parts are taken, and what is asked of one: see part_test.py."""

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax.models import part

BATCH, DIM = 16, 3
FIELDS = ('user', 'item', 'hour', 'tags', 'noise')
# The first gone, the last, those between; another order; all but one. (Few sizes: each compiles.)
KEPT = (FIELDS[2:], FIELDS[:3], ('user', 'hour', 'noise'), ('noise', 'item', 'user'), ('tags',))
DEEP = {'hidden': (7, 5), 'dropout': 0.1}
CROSSED = DEEP | {'cross_layers': 3}
FINAL = {'hidden1': (6,), 'hidden2': (4,), 'heads': 2, 'gate': (5,), 'dropout': 0.1}
NETS = {
  'lr': {},
  'fm': {},
  'fwfm': {},
  'dnn': DEEP,
  'deepfm': DEEP,
  'dcn': CROSSED,
  'dcnv2': CROSSED,
  'inner_product': DEEP,
  'relation': DEEP | {'heads': 2},
  'relation_deepfm': DEEP | {'heads': 3},
  'relation_dcn': CROSSED | {'heads': 2},
  'relation_dcnv2': CROSSED | {'heads': 2},
}
MORE = [
  ('fwfm', {'linear': 'field'}),
  ('fwfm', {'linear': 'feature'}),
  ('dnn', {'hidden': ()}),
  ('dcn', {'hidden': (), 'cross_layers': 2}),
  ('dcn', {'hidden': (4,), 'cross_layers': 1, 'batch_norm': False}),
  ('dcn', {'hidden': (4,), 'cross_layers': 0}),
]
CASES = [*NETS.items(), *MORE]
REFUSED = {
  'autoint': (DEEP, 'AutoInt: its softmax'),
  'autoint_plus': (DEEP, 'AutoIntPlus: its softmax'),
  'final_mlp': (FINAL | {'context1': (3,)}, 'A gate of FinalMLP reads the field number 3'),
  'fibinet': ({'reduction': 2}, "FiBiNET: the size of 'squeeze/reduce/kernel'"),
}
# Nets that read every vector by weights of their own, so that new ones change nothing.
WEIGHED = ('dnn', 'dcn', 'dcnv2', 'inner_product', 'relation', 'relation_dcn', 'relation_dcnv2')


def shapes(net, fields, dim=DIM):
  example = jnp.zeros((2, len(fields), net.width(dim)))

  def init(vectors):
    return net.init(jax.random.key(0), vectors, train=False)

  return jax.eval_shape(init, example)


def trained(net, fields=FIELDS, dtype=np.float64, scale=0.5):
  """Variables without a special value, variances and scales positive."""
  rng = np.random.default_rng(1)

  def fill(path, x):
    values = rng.normal(0.0, scale, x.shape)
    return jnp.asarray(np.abs(values) + 0.5 if path[-1].key == 'variance' else values, dtype)

  return jax.tree_util.tree_map_with_path(fill, shapes(net, fields))


def vectors_for(net, fields=FIELDS, dtype=np.float64):
  shape = (BATCH, len(fields), net.width(DIM))
  return np.random.default_rng(2).normal(0.0, 0.5, shape).astype(dtype)


def evaluate(net, variables, vectors):
  return net.apply(variables, vectors, train=False)


def masked(vectors, kept, fields=FIELDS):
  """The vectors of all fields, of `fields` that are not `kept` zero."""
  keep = np.array([field in kept for field in fields])
  return np.where(keep[None, :, None], vectors, vectors.dtype.type(0))


def chosen(vectors, kept, fields=FIELDS):
  return vectors[:, np.array([fields.index(field) for field in kept])]


def described(variables):
  return jax.tree.map(lambda x: (x.shape, x.dtype), variables)


def both(net, variables, kept, vectors):
  """Logits of the part, and of the whole with zeros."""
  small = part.part(net, variables, FIELDS, kept, net.width(DIM))
  found = evaluate(net, small, chosen(vectors, kept))
  return found, evaluate(net, variables, masked(vectors, kept)), small
