"""ml1m_partial: 36% of MovieLens-1M with film attributes; label = rating of 4 or more.

A random split without timestamps, of a part that is no uniform sample: never compare its numbers
with published ones of MovieLens-1M. Harper and Konstan, "The MovieLens Datasets", 2015.
"""

from ctr_jax.data.schema import Feature, Schema

SCHEMAS = {
  'ml1m_partial': Schema(
    name='ml1m_partial',
    features=(
      Feature('user_id'),
      Feature('movie_id'),
      Feature('gender'),
      Feature('age'),
      Feature('occupation'),
      Feature('zip'),
      Feature('year'),
      Feature('genres', 'ids', separator='|'),
      Feature('mpaa'),
      Feature('director', 'ids', separator=', '),
    ),
    group='user_id',
    files={'train': 'train.csv', 'valid': 'valid.csv', 'test': 'test.csv'},
  )
}
TITLES = {'ml1m_partial': 'ml1m_partial'}
DOWNLOAD = (
  'This very sample has no public download; the full ratings are at '
  'https://grouplens.org/datasets/movielens/1m/ (write a schema file of your own for those).'
)
MD5 = {
  'b7fdce6ffd5ade577c2697f8ff5ede6d': '',
  '4c719edfa355eea0b133b73e168467e0': '',
  '78b3f331b5cc220458ebd0d80efc54ac': '',
}
