"""yelp_implicit: Yelp visits, each with two sampled negatives; a user's last visit is test.

`position` is the visit's index within its user. A visit and its two negatives share it, so it says
nothing about the label; it does say how long the user's history is, so its distribution moves from
train to test. In logarithmic buckets, as here, long histories that train never saw fall into few
unseen buckets, where single positions or raw numbers would extrapolate. Drop it with a rule where
that is not wanted. `previous_item` reads the table of `item`.
"""

from ctr_jax.data.schema import Feature, Schema

SCHEMAS = {
  'yelp_implicit': Schema(
    name='yelp_implicit',
    features=(
      Feature('user'),
      Feature('item'),
      Feature('previous_item', table='item'),
      Feature('attributes', 'ids', separator='|', width=20),
      Feature('position', 'bucket', transform='log2'),
    ),
    group='user',
    files={'train': 'train.csv', 'valid': 'valid.csv', 'test': 'test.csv'},
  )
}
# The visit's index within its user is the only clock there is: histories are rows of smaller index.
CLOCKS = {
  'yelp_implicit': Schema(
    name='yelp_implicit-clock',
    features=(Feature('clock', 'numeric', column='position'),),
    ignore=('user', 'item', 'previous_item', 'attributes'),
    files=SCHEMAS['yelp_implicit'].files,
  )
}
TITLES = {'yelp_implicit': 'yelp_implicit'}
DOWNLOAD = (
  'This very sample has no public download; the visits are from https://business.yelp.com/data/'
  'resources/open-dataset/ (write a schema file of your own for those).'
)
MD5 = {
  '1677f002b53a0cd8d2698c5a77340876': '',
  'b21524d226534c6350f11b403c974de0': '',
  '37435a95a98d2a196e43ba430d9a1726': '',
}
