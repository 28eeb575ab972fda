"""The table of techniques: a newcomer adds one line and is held to all the laws."""

from ctr_jax import compress

# name → (technique, what of it holds). Sizes suit a table of 40 rows and 6 columns.
TECHNIQUES = {
  'identity': compress.identity(),
  'hash_trick': compress.hash_trick(11),
  'multi_hash_sum': compress.multi_hash(11, ways=2),
  'multi_hash_mean': compress.multi_hash(7, ways=3, combine='mean'),
  'multi_hash_concat': compress.multi_hash(11, ways=4, combine='concat'),
  'multi_hash_weights': compress.multi_hash(11, ways=2, combine='weights'),
  'multi_hash_shared': compress.multi_hash(16, ways=2, shared=True),
  'multi_hash_shared_weights': compress.multi_hash(16, ways=3, combine='weights', shared=True),
  'quotient_remainder_multiply': compress.quotient_remainder(7),
  'quotient_remainder_add': compress.quotient_remainder(7, 'add'),
  'quotient_remainder_concat': compress.quotient_remainder(8, 'concat'),
  'cast_float16': compress.cast('float16'),
  'cast_bfloat16': compress.cast('bfloat16'),
  'int_quantize_8': compress.int_quantize(8),
  'int_quantize_4': compress.int_quantize(4),
  'int_quantize_2': compress.int_quantize(2),
}

# Stored as codes: the end of a chain, and not trained.
LAST = {name for name in TECHNIQUES if name.startswith('int_quantize')}

# Corners in which nothing is lost (40 rows, 6 columns): name → (technique, tolerance).
LOSSLESS = {
  'identity': (compress.identity(), 0),
  'hash_trick': (compress.hash_trick(40), 0),
  'multi_hash_sum': (compress.multi_hash(40, ways=2), 1e-7),
  'multi_hash_mean': (compress.multi_hash(64, ways=2, combine='mean'), 1e-6),
  'multi_hash_weights': (compress.multi_hash(40, ways=3, combine='weights'), 1e-7),
  'quotient_remainder_multiply': (compress.quotient_remainder(40), 1e-6),
  'quotient_remainder_add': (compress.quotient_remainder(50, 'add'), 1e-6),
  'cast_float32': (compress.cast('float32'), 0),
}
