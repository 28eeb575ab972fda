"""Criteo: a week of display-advertising clicks, 45,840,617 samples; 13 integers I1..I13 and 26
hexadecimal ids C1..C26, tab-separated, no header, many empty cells.

Integers become floor(ln(x)^2), as the challenge's winner did; values seen fewer than 10 times in
train share row 0. Split 8:1:1 at random by row number, like the BARS benchmark's Criteo_x4 in its
proportions and cut-off, not in its very rows. `criteo_sample` is the first rows of the same file.
"""

from ctr_jax.data.schema import Feature, Schema, Split

_INTEGERS = tuple(f'I{i}' for i in range(1, 14))
_IDS = tuple(f'C{i}' for i in range(1, 27))


def schema(name: str = 'criteo', min_count: int = 10) -> Schema:
  """The schema with another cut-off."""
  integers = tuple(Feature(n, 'bucket', transform='log2', min_count=min_count) for n in _INTEGERS)
  return Schema(
    name=name,
    features=integers + tuple(Feature(n, min_count=min_count) for n in _IDS),
    files={'all': 'train.txt'},
    split=Split('random', seed=2018),
    format='tsv',
    header=False,
    columns=('label', *_INTEGERS, *_IDS),
  )


SCHEMAS = {'criteo': schema(), 'criteo_sample': schema('criteo_sample', min_count=2)}
TITLES = {'criteo': 'Criteo', 'criteo_sample': 'Criteo, first rows'}
DOWNLOAD = (
  'Get the display advertising challenge from https://ailab.criteo.com/ressources/ and put its '
  'train.txt (or train.txt.gz) into a folder criteo/.'
)
MD5 = {}
