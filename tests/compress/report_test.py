"""Bytes by table and by axis, against arithmetic and against arrays."""

import jax
import pytest

from ctr_jax import compress
from ctr_jax.compress import report
from ctr_jax.tables import leaf, rowwise
from tests.compress.techniques import TECHNIQUES

FULL = leaf.Leaf((40, 6))

# technique → rows that hold vectors, and all bytes.
BY_HAND = {
  'identity': (40, 40 * 24),
  'hash_trick': (11, 11 * 24),
  'multi_hash_sum': (22, 22 * 24),
  'multi_hash_mean': (21, 21 * 24),
  'multi_hash_concat': (44, 11 * 24),
  'multi_hash_weights': (22, 22 * 24 + 8),
  'multi_hash_shared': (16, 16 * 24),
  'multi_hash_shared_weights': (16, 16 * 24 + 12),
  'quotient_remainder_multiply': (7 + 6, 13 * 24),
  'quotient_remainder_add': (7 + 6, 13 * 24),
  'quotient_remainder_concat': (8 + 5, 13 * 12),
  'cast_float16': (40, 40 * 12),
  'cast_bfloat16': (40, 40 * 12),
  'int_quantize_8': (40, 40 * (6 + 4)),
  'int_quantize_4': (40, 40 * (3 + 4)),
  'int_quantize_2': (40, 40 * (2 + 4)),
}


@pytest.mark.parametrize('name', BY_HAND)
def test_bytes_are_those_of_the_arithmetic_and_of_the_arrays(name):
  rows, nbytes = BY_HAND[name]
  plan = TECHNIQUES[name](FULL).plan
  assert report.by_table({'item': plan}) == {'item': nbytes}
  assert report.by_axis(plan) == {'rows': rows, 'bytes_per_row': pytest.approx(nbytes / rows)}
  arrays = jax.tree.leaves(leaf.init(plan, jax.random.key(0)))
  assert sum(x.nbytes for x in arrays) == nbytes


def test_each_table_has_its_line_and_dropped_ones_have_zero():
  tables = {'item': FULL, 'user': leaf.Leaf((10, 6)), 'age': leaf.Leaf((3, 6))}
  rules = [('item', compress.hash_trick(5)), ('age', compress.drop()), ('.*', compress.identity())]
  codec = compress.bind(tables, rules)
  assert report.by_table(codec.plan) == {'item': 5 * 24, 'user': 10 * 24, 'age': 0}
  assert sum(report.by_table(codec.plan).values()) == leaf.nbytes(codec.plan)
  assert report.by_axis(codec.plan['age']) == {'rows': 0, 'bytes_per_row': 0.0}


@pytest.mark.parametrize(
  'optimizer, state',
  [
    (rowwise.sgd(0.1), 0),
    (rowwise.adagrad(0.1), 40 * 4),
    (rowwise.adagrad(0.1, per='element'), 40 * 24),
    (rowwise.lazy_adam(0.1), 2 * 40 * 24),
  ],
)
def test_training_counts_the_optimizers_state(optimizer, state):
  codec = compress.bind({'item': FULL}, [('.*', compress.identity())])
  slots = {p: optimizer.slots(x) for p, x in leaf.flatten(codec.plan).items()}
  assert report.training(codec, slots) == 40 * 24 + state
