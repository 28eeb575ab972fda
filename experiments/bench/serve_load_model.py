"""Two artifacts of a model with vocabularies, and requests for it: what bench.serve_load serves."""

import csv
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax import compress, models, predict
from ctr_jax.data import encode, schema
from ctr_jax.serve import export

_SCHEMA = """
name = 'served'
label = 'clicked'

[files]
train = 'train.csv'
valid = 'valid.csv'
test = 'test.csv'

[[features]]
name = 'user'

[[features]]
name = 'item'

[[features]]
name = 'previous'
table = 'item'

[[features]]
name = 'category'

[[features]]
name = 'tags'
kind = 'ids'

[[features]]
name = 'price'
kind = 'numeric'

[[features]]
name = 'time'
kind = 'bucket'
transform = 'hour'
"""
_ROWS = {'train': 200_000, 'valid': 1000, 'test': 1000}
_DIM, _HIDDEN = 16, (128, 64)


def artifacts(folder: pathlib.Path, versions: int = 2) -> list[pathlib.Path]:
  """Encodes made-up logs and exports DeepFM models over them, which differ in their numbers.

  Large tables are hashed to a quarter and stored in int8. Nothing is trained: a load asks the same
  of any numbers.
  """
  for number, (split, rows) in enumerate(_ROWS.items()):
    _write(folder / f'{split}.csv', raw(rows, number))
  (folder / 'served.toml').write_text(_SCHEMA)
  described = schema.Schema.from_toml(folder / 'served.toml')
  source = encode.encode(described, folder, folder / 'encoded', progress=False)
  return [_export(folder / f'model_{i}', source, i) for i in range(versions)]


def raw(rows: int, seed: int) -> dict[str, list]:
  """Raw values of rows by column, `clicked` aside: ids of power-law frequency, some missing."""
  draw = np.random.default_rng((seed, rows))

  def words(kind, values):
    found = np.floor(values ** draw.random(rows)).astype(int)
    known = draw.random(rows) < 0.98
    return [f'{kind}{x}' if here else None for x, here in zip(found, known, strict=True)]

  tags = [words('t', 500) for _ in range(4)]
  kept = draw.integers(0, 5, rows)
  hours = draw.integers(0, 24, rows)
  return {
    'user': words('user-', 200_000),
    'item': words('item-', 50_000),
    'previous': words('item-', 50_000),
    'category': words('c', 300),
    'tags': [[x[i] for x in tags[: kept[i]] if x[i]] for i in range(rows)],
    'price': draw.gamma(2.0, 10.0, rows).round(2).tolist(),
    'time': [f'261124{hour:02}' for hour in hours],
  }


def _write(path, columns):
  clicked = np.random.default_rng(len(columns['user'])).integers(0, 2, len(columns['user']))
  with path.open('w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['clicked', *columns])
    for label, *cells in zip(clicked, *columns.values(), strict=True):
      writer.writerow([label, *('|'.join(x) if isinstance(x, list) else x for x in cells)])


def _export(folder, source, seed):
  large = compress.chain(compress.multi_hash(4096, 2), compress.int_quantize(8))
  rules = (('user|item', large), ('.*', compress.int_quantize(8)))
  net = models.NETS['deepfm'](hidden=_HIDDEN)
  model = predict.build(source.schema, source.rows, rules, net, _DIM)
  draw = np.random.default_rng(seed)
  tables = {
    name: jnp.asarray(draw.normal(0, 0.1, (rows, model.width)), jnp.float32)
    for name, rows in source.rows.items()
  }
  stored = compress.encode(model.codec, tables)
  return export.write(
    folder, model, rules, stored, predict.init_net(model, jax.random.key(seed)), source
  )
