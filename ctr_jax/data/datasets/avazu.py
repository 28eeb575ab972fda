"""Avazu: ten days of mobile-advertising clicks, 40,428,967 samples; 21 categorical fields and the
hour (YYMMDDHH), from which hour of day, weekday and weekend are made.

Values seen once in train share row 0, and the split is 8:1:1 at random by row number, like the
BARS benchmark's Avazu_x4_001 in proportions and cut-off, not in its very rows. The sample's own
number `id` is dropped. `avazu_sample` is the first rows of the same file (one hour).
"""

from ctr_jax.data.schema import Feature, Schema, Split

FIELDS = (
  'C1',
  'banner_pos',
  'site_id',
  'site_domain',
  'site_category',
  'app_id',
  'app_domain',
  'app_category',
  'device_id',
  'device_ip',
  'device_model',
  'device_type',
  'device_conn_type',
  *(f'C{i}' for i in range(14, 22)),
)


def schema(name: str = 'avazu', min_count: int = 2) -> Schema:
  """The schema with another cut-off."""
  clock = tuple(
    Feature(n, 'bucket', column='hour', transform=n) for n in ('hour', 'weekday', 'weekend')
  )
  return Schema(
    name=name,
    features=clock + tuple(Feature(n, min_count=min_count) for n in FIELDS),
    label='click',
    ignore=('id',),
    files={'all': ('train', 'train.csv')},
    split=Split('random', seed=2018),
    format='csv',
  )


SCHEMAS = {'avazu': schema(), 'avazu_sample': schema('avazu_sample')}
TITLES = {'avazu': 'Avazu', 'avazu_sample': 'Avazu, first rows'}
DOWNLOAD = (
  'Get train.gz from https://www.kaggle.com/c/avazu-ctr-prediction/data and put it into a folder '
  'avazu/.'
)
MD5 = {}
