"""Every way to store an embedding table, and the contract that they share.

from ctr_jax import compress
core = compress.chain(compress.multi_hash(buckets=1 << 14), compress.int_quantize(8))
codec = compress.bind(tables, [('(user|item)', core), ('.*', compress.identity())])
"""

from ctr_jax.compress.adaptive_dims import adaptive_dims, packed
from ctr_jax.compress.alpt import alpt
from ctr_jax.compress.autofield import autofield
from ctr_jax.compress.binary_code import binary_code
from ctr_jax.compress.budget import Budget, budget
from ctr_jax.compress.cast import cast
from ctr_jax.compress.cce import cce, recluster
from ctr_jax.compress.codec import (
  WHOLE,
  Codec,
  Rules,
  Technique,
  bind,
  chain,
  describe,
  drop,
  identity,
  match,
  restore,
)
from ctr_jax.compress.deep_hash import deep_hash
from ctr_jax.compress.double_hash_by_frequency import double_hash_by_frequency
from ctr_jax.compress.droprank import droprank
from ctr_jax.compress.encode import appended, encode, extend
from ctr_jax.compress.fake_quantize import fake_quantize
from ctr_jax.compress.fscd import fscd, prices
from ctr_jax.compress.gate import strength
from ctr_jax.compress.hash_embedding import hash_embedding
from ctr_jax.compress.hash_trick import hash_trick
from ctr_jax.compress.int_quantize import int_quantize
from ctr_jax.compress.keep_dims import keep_dims
from ctr_jax.compress.low_rank import low_rank
from ctr_jax.compress.lpfs import lpfs
from ctr_jax.compress.masked import masked
from ctr_jax.compress.memcom import memcom
from ctr_jax.compress.mixed_dims import mixed_dims, popular_dims
from ctr_jax.compress.multi_hash import multi_hash
from ctr_jax.compress.optfs import optfs
from ctr_jax.compress.partition import hot_cold, partition
from ctr_jax.compress.product_quantize import product_quantize
from ctr_jax.compress.prune import prune
from ctr_jax.compress.quotient_remainder import quotient_remainder
from ctr_jax.compress.robe import robe
from ctr_jax.compress.selected import selected
from ctr_jax.compress.sparse_rows import nonzeros, sparse_rows
from ctr_jax.compress.tensor_train import tensor_train

_ROWS = (
  hash_trick, multi_hash, hash_embedding, quotient_remainder, binary_code, partition, hot_cold,
  double_hash_by_frequency, memcom, tensor_train, robe, deep_hash, product_quantize, cce,
)  # fmt: skip
_COLUMNS = (keep_dims, low_rank, mixed_dims, adaptive_dims, prune, masked, sparse_rows)
_VALUES = (cast, int_quantize, fake_quantize, alpt)
_GATES = (droprank, fscd, autofield, lpfs, optfs)

_ALL = (identity, drop, *_ROWS, *_COLUMNS, *_VALUES, *_GATES)

TECHNIQUES = {make.__name__: make for make in _ALL}
"""Name → factory, for descriptions read back from files."""

__all__ = [
  'TECHNIQUES', 'WHOLE', 'Budget', 'Codec', 'Rules', 'Technique', 'adaptive_dims', 'alpt',
  'appended', 'autofield', 'binary_code', 'bind', 'budget', 'cast', 'cce', 'chain', 'deep_hash',
  'describe', 'double_hash_by_frequency', 'drop', 'droprank', 'encode', 'extend', 'fake_quantize',
  'fscd', 'hash_embedding', 'hash_trick', 'hot_cold', 'identity', 'int_quantize', 'keep_dims',
  'low_rank', 'lpfs', 'masked', 'match', 'memcom', 'mixed_dims', 'multi_hash', 'nonzeros',
  'optfs', 'packed', 'partition', 'popular_dims', 'prices', 'product_quantize', 'prune',
  'quotient_remainder', 'recluster', 'restore', 'robe', 'selected', 'sparse_rows',
  'strength', 'tensor_train',
]  # fmt: skip
