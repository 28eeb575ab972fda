"""Frappe_x1: which mobile app is used in which context; the BARS benchmark's 7:2:1 split.

96,203 uses by 957 users of 4,082 apps, each with two sampled negatives; ten categorical fields,
288,609 samples. Baltrunas et al., "Frappe: Understanding the Usage and Perception of Mobile App
Recommendations In-The-Wild", 2015; split by Cheng et al. (AFN), AAAI 2020.
"""

from ctr_jax.data.schema import Feature, Schema

FIELDS = (
  'user',
  'item',
  'daytime',
  'weekday',
  'isweekend',
  'homework',
  'cost',
  'weather',
  'country',
  'city',
)
SCHEMAS = {
  'frappe_x1': Schema(
    name='frappe_x1',
    features=tuple(Feature(name) for name in FIELDS),
    group='user',
    files={'train': 'train.csv', 'valid': 'valid.csv', 'test': 'test.csv'},
  )
}
TITLES = {'frappe_x1': 'Frappe_x1'}
DOWNLOAD = (
  'Get train.csv, valid.csv and test.csv from https://huggingface.co/datasets/reczoo/Frappe_x1 '
  'and put them into a folder frappe_x1/.'
)
MD5 = {
  'ba7306e6c4fc19dd2cd84f2f0596d158': '',
  '88d51bf2173505436d3a8f78f2a59da8': '',
  '3470f6d32713dc5f7715f198ca7c612a': '',
  # Items of the train negatives drawn again; everything else is the benchmark's.
  '01631dbeb558351b19145e2c9ce2a79b': 'rebuilt train',
}
