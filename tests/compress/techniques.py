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
  'hash_embedding': compress.hash_embedding(11, ways=2),
  'hash_embedding_few_weights': compress.hash_embedding(11, ways=3, weight_rows=20),
  'binary_code': compress.binary_code(3),
  'binary_code_skip': compress.binary_code(2, strategy='skip', combine='concat'),
  'binary_code_hashed': compress.binary_code(4, bits=8, seed=1),
  'partition': compress.partition(
    (0, 7, 20), (compress.identity(), compress.hash_trick(5), compress.multi_hash(3))
  ),
  'hot_cold': compress.hot_cold(9, compress.quotient_remainder(4)),
  'double_hash_by_frequency': compress.double_hash_by_frequency(9, 5),
  'memcom': compress.memcom(11),
  'memcom_no_bias': compress.memcom(11, bias=False),
  'tensor_train': compress.tensor_train(4),
  'tensor_train_two': compress.tensor_train(3, cores=2),
  'robe': compress.robe(60),
  'robe_blocks': compress.robe(61, block=4),
  'deep_hash': compress.deep_hash(16, (8,), levels=64),
  'deep_hash_deep': compress.deep_hash(8, (12, 8), levels=64, seed=1),
  'fake_quantize_8': compress.fake_quantize(8),
  'fake_quantize_learned': compress.fake_quantize(8, step='learned'),
  'alpt_8': compress.alpt(8),
  'alpt_4': compress.alpt(4),
  'cast_stochastic': compress.cast('float16', rounding='stochastic'),
  'cast_float16': compress.cast('float16'),
  'cast_bfloat16': compress.cast('bfloat16'),
  'mixed_dims': compress.mixed_dims((0, 5, 20), (6, 4, 2)),
  'adaptive_dims': compress.adaptive_dims(budget=0.1, smallest=2),
  'int_quantize_8': compress.int_quantize(8),
  'int_quantize_4': compress.int_quantize(4),
  'int_quantize_2': compress.int_quantize(2),
  'int_quantize_symmetric': compress.int_quantize(8, offset=False),
  'keep_dims': compress.keep_dims(4),
  'low_rank': compress.low_rank(4),
  'product_quantize': compress.product_quantize(centroids=16, parts=2),
  'cce': compress.cce(16, parts=2),
  'prune_table': compress.prune(),
  'prune_row': compress.prune('row', start=-3.0),
  'masked': compress.masked(),
  'sparse_rows': compress.sparse_rows(240),
  'droprank': compress.droprank(),
  'droprank_column': compress.droprank(per='column', anneal=10),
  'fscd': compress.fscd(1e-3),
  'autofield': compress.autofield(),
  'lpfs': compress.lpfs(),
  'optfs': compress.optfs(),
}

_CODES = ('int_quantize', 'alpt', 'product_quantize', 'sparse_rows')

# No table is left after these: the end of a chain.
LAST = {name for name in TECHNIQUES if name.startswith((*_CODES, 'deep_hash'))}

# Rows whose gradient can be compared with that of a dense table: floats, stored as trained.
TRAINED = {name for name in TECHNIQUES if not name.startswith(_CODES)}

# One form of each technique: these are chained with each other.
CHAINED = {technique.name: name for name, technique in reversed(TECHNIQUES.items())}.values()

# Corners in which nothing is lost (40 rows, 6 columns): name → (technique, tolerance).
LOSSLESS = {
  'identity': (compress.identity(), 0),
  'hash_trick': (compress.hash_trick(40), 0),
  'multi_hash_sum': (compress.multi_hash(40, ways=2), 1e-7),
  'multi_hash_mean': (compress.multi_hash(64, ways=2, combine='mean'), 1e-6),
  'multi_hash_weights': (compress.multi_hash(40, ways=3, combine='weights'), 1e-7),
  'quotient_remainder_multiply': (compress.quotient_remainder(40), 1e-6),
  'quotient_remainder_add': (compress.quotient_remainder(50, 'add'), 1e-6),
  'binary_code': (compress.binary_code(6), 1e-7),
  'hash_embedding': (compress.hash_embedding(4000, ways=1), 1e-5),
  'partition': (compress.partition((0, 5), (compress.identity(), compress.hash_trick(35))), 0),
  'hot_cold': (compress.hot_cold(40, compress.drop()), 0),
  'double_hash_by_frequency': (compress.double_hash_by_frequency(10, 30), 1e-7),
  'memcom': (compress.memcom(40), 1e-7),
  'memcom_no_bias': (compress.memcom(50, bias=False), 0),
  'tensor_train': (compress.tensor_train(1000), 1e-6),
  'tensor_train_four': (compress.tensor_train(1000, cores=4), 1e-6),
  'cast_float32': (compress.cast('float32'), 0),
  'keep_dims': (compress.keep_dims(6), 0),
  'low_rank': (compress.low_rank(6), 1e-6),
  'product_quantize': (compress.product_quantize(centroids=40, parts=3), 1e-7),
  'cce': (compress.cce(40, parts=3), 1e-7),
  'prune': (compress.prune('column', start=-2.0), 1e-7),
  'masked': (compress.masked(), 0),
  'sparse_rows': (compress.sparse_rows(240), 0),
  'mixed_dims': (compress.mixed_dims((0, 9), (6, 6)), 0),
  'adaptive_dims': (compress.adaptive_dims(smallest=6), 0),
  'droprank': (compress.droprank(), 1e-7),
  'fscd': (compress.fscd(1e-3), 0),
  'autofield': (compress.autofield(), 0),
  'lpfs': (compress.lpfs(), 1e-7),
  'optfs': (compress.optfs(), 1e-7),
}
