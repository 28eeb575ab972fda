"""Small models of every technique and net that is served, and an encoded data set of raw rows."""

import csv
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax import compress, models, predict
from ctr_jax.data import encode
from ctr_jax.data import schema as schema_lib
from ctr_jax.tables import leaf

TOML = """
name = 'clicks'
label = 'clicked'
ignore = ['request']

[files]
train = 'train.csv'
valid = 'valid.csv'
test = 'test.csv'

[[features]]
name = 'user'
min_count = 2

[[features]]
name = 'item'

[[features]]
name = 'previous'
table = 'item'

[[features]]
name = 'tags'
kind = 'ids'

[[features]]
name = 'short'
kind = 'ids'
column = 'tags'
table = 'tags'
width = 2

[[features]]
name = 'price'
kind = 'numeric'

[[features]]
name = 'age'
kind = 'bucket'

[[features]]
name = 'level'
kind = 'bucket'
column = 'price'
transform = 'boundaries'
boundaries = [0, 1, 2.5]

[[features]]
name = 'hour'
kind = 'bucket'
column = 'time'
transform = 'hour'

[[features]]
name = 'weekday'
kind = 'bucket'
column = 'time'
transform = 'weekday'

[[features]]
name = 'agent'
kind = 'hash'
buckets = 50
"""
COLUMNS = (
  'clicked',
  'request',
  'user',
  'item',
  'previous',
  'tags',
  'price',
  'age',
  'time',
  'agent',
)
DIM = 6


def raw_rows(count: int, seed: int, values: int = 30) -> list[dict[str, str]]:
  """Cells of raw rows, some of them empty; more `values` than train has are unseen ones."""
  draw = np.random.default_rng(seed)

  def cell(text):
    return '' if draw.random() < 0.15 else text

  def word(kind):
    return f'{kind}{min(int(draw.exponential(values / 4)), values - 1)}'

  rows = []
  for i in range(count):
    tags = '|'.join(cell(word('ü')) for _ in range(draw.integers(0, 5)))
    rows.append({
      'clicked': str(draw.integers(0, 2)),
      'request': str(i),
      'user': cell(word('u')),
      'item': cell(str(draw.integers(0, values))),
      'previous': cell(str(draw.integers(0, values))),
      'tags': tags,
      'price': cell(f'{draw.normal(1, 2):.3g}'),
      'age': cell(str(draw.integers(-2, values))),
      'time': cell(f'2410{draw.integers(10, 28)}{draw.integers(0, 24):02d}'),
      'agent': cell(word('Mozilla/5.0 ')),
    })  # fmt: skip
  return rows


def encoded(folder):
  """(encoded data set, raw rows of test), of a schema in TOML."""
  rows = {'train': raw_rows(300, 1), 'valid': raw_rows(20, 2), 'test': raw_rows(90, 3, 45)}
  for split, found in rows.items():
    with (folder / f'{split}.csv').open('w', newline='') as file:
      writer = csv.DictWriter(file, COLUMNS)
      writer.writeheader()
      writer.writerows(found)
  (folder / 'clicks.toml').write_text(TOML)
  schema = schema_lib.Schema.from_toml(folder / 'clicks.toml')
  return encode.encode(schema, folder, folder / 'encoded', progress=False), rows['test']


def by_column(rows: list[dict[str, str]]) -> dict[str, list[str]]:
  return {name: [row[name] for row in rows] for name in COLUMNS}


def model(source, *chains, net='dnn', **options):
  """(model, rules, stored, net's variables), its numbers drawn.

  Args:
    source: encoded data.
    *chains: of the tables user, item and tags, in turns.
    net: in `models.NETS`.
    **options: of the net.
  """
  if net not in ('lr', 'fm', 'fwfm', 'final_mlp'):
    options = {'hidden': (16, 8)} | options
  turns = zip(('user', 'item', 'tags'), itertools.cycle(chains or (HASH,)))
  rules = (*turns, ('.*', compress.identity()))
  made = predict.build(source.schema, source.rows, rules, models.NETS[net](**options), DIM)
  draw = np.random.default_rng(0)
  stored = jax.tree.map(lambda x: _drawn(draw, x), made.codec.plan)
  shapes = jax.eval_shape(lambda: predict.init_net(made, jax.random.key(0)))
  variables = jax.tree.map(lambda x: np.float32(_net(draw, x.shape)), shapes)
  return made, rules, stored, variables


def _drawn(draw, x):
  """What could be stored in a leaf. Which part an id is in (`partition`) is not to be drawn."""
  if x.axes == ('row', 'part'):
    return jnp.eye(x.rows, dtype=x.dtype)
  if x.frozen and np.ptp(first := x.init(jax.random.key(1), x.shape, x.dtype)):
    return first  # Codes of so many vectors, lanes: not any number will do.
  if x.dtype == jnp.uint8:
    return jnp.asarray(draw.integers(0, 256, x.shape), jnp.uint8)
  scale = 0.02 if x.axes == ('row',) else 1.0  # Steps of codes, and their offsets.
  return jnp.asarray(draw.normal(size=x.shape) * scale, jnp.float32).astype(x.dtype)


def _net(draw, shape):
  """Kernels that keep the size of what they multiply; the rest, variances too, near one half."""
  if len(shape) < 2:
    return draw.uniform(0.2, 0.8, shape)
  return draw.normal(size=shape) / np.sqrt(shape[0])


def logits(made, stored, variables, columns) -> np.ndarray:
  """By training's own forward path."""
  scorer = predict.scorer(made)
  arrays = leaf.flatten(stored)
  return np.asarray(scorer.score(arrays, variables, scorer.prepare(columns)))


Q, C = compress.int_quantize, compress.chain
HASH = compress.multi_hash(11)
CHAINS = {
  'identity': compress.identity(),
  'hash_trick': compress.hash_trick(7),
  'hash_trick_lossless': compress.hash_trick(1000),
  'multi_hash': HASH,
  'multi_hash_mean': compress.multi_hash(11, 3, 'mean', seed=5),
  'multi_hash_concat': compress.multi_hash(11, 4, 'concat'),
  'multi_hash_weights': compress.multi_hash(11, 2, 'weights'),
  'multi_hash_shared': compress.multi_hash(13, 2, shared=True),
  'multi_hash_shared_weights': compress.multi_hash(13, 3, 'weights', shared=True),
  'quotient_remainder': compress.quotient_remainder(5),
  'quotient_remainder_add': compress.quotient_remainder(5, 'add'),
  'quotient_remainder_concat': compress.quotient_remainder(5, 'concat'),
  'partition': compress.partition((0, 4, 9), (compress.identity(), compress.drop(), HASH)),
  'partition_drop_first': compress.partition((0, 4), (compress.drop(), compress.identity())),
  'hot_cold': compress.hot_cold(6, C(compress.quotient_remainder(4), Q(4))),
  'mixed_dims': compress.mixed_dims((0, 5, 12), (6, 4, 2)),
  'keep_dims': compress.keep_dims(4),
  'low_rank': compress.low_rank(3),
  'adaptive_dims_packed': compress.partition(
    (0, 2, 8), (compress.keep_dims(6), compress.keep_dims(3), compress.keep_dims(1))
  ),
  'float16': compress.cast('float16'),
  'bfloat16': compress.cast('bfloat16'),
  'int8': Q(8),
  'int4': Q(4),
  'int2': Q(2),
  'int8_symmetric': Q(8, offset=False),
  'int4_symmetric': Q(4, offset=False),
  'memcom': compress.memcom(9),
  'memcom_float16': C(compress.memcom(9, bias=False), compress.cast('float16')),
  'droprank': C(compress.droprank(), HASH),
  'droprank_column': compress.droprank(per='column'),
  'fscd': C(compress.fscd(1e-3), Q(8)),
  'double_hash_by_frequency': compress.double_hash_by_frequency(5, 7, 'concat', seed=3),
  'hash_embedding': compress.hash_embedding(9, 3),
  'hash_embedding_float16': C(compress.hash_embedding(9, weight_rows=5), compress.cast('float16')),
  'robe': compress.robe(50, 4),
  'robe_int8': C(compress.robe(50), Q(8)),
  'tensor_train': compress.tensor_train(2),
  'tensor_train_float16': C(compress.tensor_train(3, 2), compress.cast('float16')),
  'binary_code': compress.binary_code(3),
  'binary_code_skip': compress.binary_code(2, 6, 'skip', 'concat', seed=4),
  'deep_hash': compress.deep_hash(16, (5, 4), 30),
  'deep_hash_linear': compress.deep_hash(3, (), 2),
  'product_quantize': compress.product_quantize(7, 3),
  'cce': compress.cce(6, 2, seed=2),
  'autofield': C(compress.autofield(), compress.quotient_remainder(5)),
  'lpfs': compress.lpfs(),
  'optfs': C(compress.optfs(), HASH),
  'prune': compress.prune(),
  'prune_column': compress.prune('column'),
  'prune_row': C(HASH, compress.prune('row')),
  'masked': compress.masked(),
  'masked_float16': C(compress.masked(), compress.cast('float16')),
  'multi_hash_int8': C(HASH, Q(8)),
  'multi_hash_weights_low_rank_int4': C(
    compress.multi_hash(11, 2, 'weights'), compress.low_rank(3), Q(4)
  ),
  'shared_keep_dims_float16': C(
    compress.multi_hash(13, 2, shared=True), compress.keep_dims(5), compress.cast('float16')
  ),
  'hot_cold_int8': C(compress.hot_cold(6, HASH), Q(8)),
  'adaptive_dims_packed_int2': C(
    compress.partition((0, 8), (compress.keep_dims(6), compress.keep_dims(3))), Q(2)
  ),
}  # fmt: skip
NETS = {
  'lr': {},
  'fm': {},
  'dnn': {},
  'dnn_plain': {'net': 'dnn', 'batch_norm': False},
  'deepfm': {},
  'dcn': {},
  'dcnv2': {'cross_layers': 2},
  'relation': {},
  'relation_attentive': {'net': 'relation', 'mode': 'attentive'},
  'relation_dcn': {'heads': 2},
  'inner_product': {},
  'fwfm': {},
  'fwfm_field': {'net': 'fwfm', 'linear': 'field'},
  'fwfm_feature': {'net': 'fwfm', 'linear': 'feature'},
  'fibinet': {},
  'fibinet_each': {'net': 'fibinet', 'bilinear': 'each', 'reduction': 2},
  'fibinet_all': {'net': 'fibinet', 'bilinear': 'all', 'batch_norm': False},
  'autoint': {'hidden': (), 'attention_layers': 2, 'attention_units': 8},
  'autoint_plus': {'attention_units': DIM, 'heads': 2},
  'final_mlp': {'hidden1': (20,), 'hidden2': (10, 5), 'gate': (7,)},
  'final_mlp_apart': {
    'net': 'final_mlp', 'shared': False, 'hidden1': (8,), 'hidden2': (6,), 'heads': 2, 'gate': (),
    'context1': (), 'context2': (3, 1),
  },
  'final_mlp_no_gates': {
    'net': 'final_mlp', 'gate': None, 'heads': 1, 'hidden1': (), 'hidden2': (6,),
    'batch_norm': False,
  },
}  # fmt: skip
"""Name of a case → options of the net of that name, or of `net`."""
