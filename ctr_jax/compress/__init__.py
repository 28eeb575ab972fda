"""Every way to store an embedding table, and the contract that they share.

from ctr_jax import compress
core = compress.chain(compress.multi_hash(buckets=1 << 14), compress.int_quantize(8))
codec = compress.bind(tables, [('(user|item)', core), ('.*', compress.identity())])
"""

from ctr_jax.compress.cast import cast
from ctr_jax.compress.codec import (
  WHOLE,
  Codec,
  Technique,
  bind,
  chain,
  describe,
  drop,
  identity,
  restore,
)
from ctr_jax.compress.encode import appended, encode, extend
from ctr_jax.compress.hash_trick import hash_trick
from ctr_jax.compress.int_quantize import int_quantize
from ctr_jax.compress.multi_hash import multi_hash
from ctr_jax.compress.quotient_remainder import quotient_remainder

TECHNIQUES = {
  make.__name__: make
  for make in (identity, drop, hash_trick, multi_hash, quotient_remainder, cast, int_quantize)
}
"""Name → factory, for descriptions read back from files."""

__all__ = [
  'TECHNIQUES', 'WHOLE', 'Codec', 'Technique', 'appended', 'bind', 'cast', 'chain', 'describe',
  'drop', 'encode', 'extend', 'hash_trick', 'identity', 'int_quantize', 'multi_hash',
  'quotient_remainder', 'restore',
]  # fmt: skip
