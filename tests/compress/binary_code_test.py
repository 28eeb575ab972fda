"""Blocks against explicit bits; two succession blocks are quotient and remainder, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.compress import hashing
from ctr_jax.tables import bit_blocks, gather, leaf


def read(codec, stored, ids):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


@given(
  bits=st.integers(1, 32),
  block=st.integers(1, 12),
  strategy=st.sampled_from(['skip', 'succession']),
)
def test_every_bit_is_in_one_block(bits, block, strategy):
  cut = [own.bits for own in bit_blocks.blocks(2**31 - 1, block, bits, strategy, hashed=True)]
  assert len(cut) == -(-bits // block)
  assert sorted(b for own in cut for b in own) == list(range(bits))
  assert max(map(len, cut)) <= block


@given(
  ids=st.lists(st.integers(0, 9_999), min_size=1, max_size=20),
  block=st.integers(1, 9),
  strategy=st.sampled_from(['skip', 'succession']),
  seed=st.sampled_from([None, 0, 5]),
)
def test_address_is_the_bits_of_the_code(ids, block, strategy, seed):
  ids = np.asarray(ids, np.int32)
  codec = compress.binary_code(block, 14, strategy, seed=seed)(leaf.Leaf((10_000, 16)))
  found = codec.address(ids)
  code = ids.astype(np.uint32) if seed is None else hashing.mix(ids, seed)
  for b, (own, _) in enumerate(bit_blocks.blocks(10_000, block, 14, strategy, seed is not None)):
    for i, c in enumerate(code.tolist()):
      want = sum(((c >> bit) & 1) << place for place, bit in enumerate(own))
      assert found[f'block_{b}'][i] == want
      assert want < codec.plan[f'block_{b}'].rows  # No index leaves its block.


@given(
  rows=st.integers(2, 3000),
  block=st.integers(1, 8),
  strategy=st.sampled_from(['skip', 'succession']),
)
def test_without_a_hash_tuples_are_unique(rows, block, strategy):
  codec = compress.binary_code(block, strategy=strategy)(leaf.Leaf((rows, 16)))
  index = np.stack(list(codec.address(np.arange(rows, dtype=np.int32)).values()))
  assert len(np.unique(index, axis=1).T) == rows


@pytest.mark.parametrize('rows, block', [(4096, 6), (3000, 6), (1025, 8)])
def test_two_succession_blocks_are_quotient_and_remainder(rows, block):
  full = leaf.Leaf((rows, 6), init=leaf.normal(0.5))
  code = compress.binary_code(block)(full)
  pair = compress.quotient_remainder(2**block, 'add')(full)
  assert len(code.plan) == 2
  assert code.plan['block_0'].shape == pair.plan['remainder'].shape
  assert code.plan['block_1'].shape == pair.plan['quotient'].shape
  ids = np.arange(rows, dtype=np.int32)
  a, b = code.address(ids), pair.address(ids)
  np.testing.assert_array_equal(a['block_0'], b['remainder'])
  np.testing.assert_array_equal(a['block_1'], b['quotient'])
  table = jnp.asarray(np.random.default_rng(0).normal(size=(rows, 6)), jnp.float32)
  np.testing.assert_array_equal(
    read(code, code.encode(table), ids), read(pair, pair.encode(table), ids)
  )


def test_rows_at_the_papers_sizes():
  # S = 29 bits in blocks of 15 for 5e8 ids. The paper counts 2 · 2^15 = 65,536 rows, 7,600 times
  # fewer; the second block has 14 bits, of which row numbers below 5e8 use 15,259 values.
  ids = leaf.Leaf((500_000_000, 16))
  assert [x.rows for x in compress.binary_code(15, 29, seed=0)(ids).plan.values()] == [2**15, 2**14]
  assert [x.rows for x in compress.binary_code(15, 29)(ids).plan.values()] == [2**15, 15_259]


def test_variance_of_the_table_at_the_start():
  codec = compress.binary_code(5)(leaf.Leaf((1000, 64), init=leaf.normal(0.3)))
  stored = leaf.init(codec.plan, jax.random.key(0))
  vectors = read(codec, stored, np.arange(1000, dtype=np.int32))
  np.testing.assert_allclose(float(jnp.std(vectors)), 0.3, rtol=0.05)


@pytest.mark.parametrize(
  'arguments, message',
  [
    ({'block': 0}, 'block ≥ 1'),
    ({'block': 4, 'bits': 40}, 'bits in 1..32'),
    ({'block': 4, 'strategy': 'every'}, 'succession or skip'),
    ({'block': 4, 'combine': 'mean'}, 'sum or concat'),
  ],
)
def test_bad_settings(arguments, message):
  with pytest.raises(ValueError, match=message):
    compress.binary_code(**arguments)
  with pytest.raises(ValueError, match='cannot share out 2 columns'):
    compress.binary_code(2, combine='concat')(leaf.Leaf((1000, 2)))
  with pytest.raises(ValueError, match='no small table'):
    compress.binary_code(32, 32, seed=0)(leaf.Leaf((1000, 2)))
