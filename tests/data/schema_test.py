"""Schemas: TOML, JSON, digests, and the sentences of their errors."""

import dataclasses
import datetime

import pytest

from ctr_jax.data.schema import Feature, Schema, Split

TOML = """
label = 'clicked'
group = 'user'
ignore = ['request']

[files]
train = 'day_0[1-6].csv'
test = ['day_08.csv', 'day_09.csv']

[[features]]
name = 'user'
min_count = 2

[[features]]
name = 'previous'
column = 'last'
table = 'item'

[[features]]
name = 'item'

[[features]]
name = 'age'
kind = 'bucket'
transform = 'boundaries'
boundaries = [18, 30.5]
"""


def test_toml(tmp_path):
  (tmp_path / 'clicks.toml').write_text(TOML)
  schema = Schema.from_toml(tmp_path / 'clicks.toml')
  assert schema == Schema(
    name='clicks',
    features=(
      Feature('user', min_count=2),
      Feature('previous', column='last', table='item'),
      Feature('item'),
      Feature('age', 'bucket', transform='boundaries', boundaries=(18.0, 30.5)),
    ),
    label='clicked',
    group='user',
    ignore=('request',),
    files={'train': ('day_0[1-6].csv',), 'test': ('day_08.csv', 'day_09.csv')},
  )
  assert schema.names == ('user', 'previous', 'item', 'age')
  assert schema.table_of('previous') == 'item'
  assert {t: [f.name for f in fs] for t, fs in schema.tables.items()} == {
    'user': ['user'],
    'item': ['previous', 'item'],
    'age': ['age'],
  }
  assert schema.feature('previous').column == 'last'
  assert schema.feature('item').column == 'item'


def test_json_round_trip():
  schema = Schema(
    'all',
    (
      Feature('a', 'ids', separator=', ', width=3, table='t'),
      Feature('b', 'hash', buckets=10),
      Feature('c', 'bucket', transform='boundaries', boundaries=(1, 2)),
    ),
    files={'all': 'x*.tsv'},
    split=Split('time', column='t', cuts=('2020', '2021'), type='text'),
    quote='',
    header=False,
    columns=('a', 'b', 'c', 'label', 't'),
  )
  again = Schema.from_json(schema.to_json())
  assert again == schema
  assert again.digest == schema.digest


def test_digest_ignores_defaults_and_sees_everything_else():
  schema = Schema('s', (Feature('a'), Feature('b')), files={'train': 't.csv'})
  assert (
    schema.digest
    == Schema(
      's', (Feature('a', 'id', 'a', 'a', 1), Feature('b')), files={'train': ('t.csv',)}
    ).digest
  )
  # Digests name cached data sets, so they must not change between versions.
  assert schema.to_json() == (
    '{"features":[{"name":"a"},{"name":"b"}],"files":{"train":["t.csv"]},"name":"s"}'
  )
  changed = [
    dataclasses.replace(schema, label='y'),
    dataclasses.replace(schema, features=schema.features[::-1]),
    dataclasses.replace(schema, features=(Feature('a', min_count=2), Feature('b'))),
    dataclasses.replace(schema, group='a'),
    dataclasses.replace(schema, delimiter=';'),
  ]
  assert len({schema.digest, *(s.digest for s in changed)}) == 6


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: Schema('s', (Feature('a'), Feature('b'), Feature('a'))), "two features named 'a'"),
    (lambda: Feature('a', 'text'), "kind is 'text'; it must be one of 'id', 'ids'"),
    (lambda: Feature('a b'), "Feature name 'a b': use letters"),
    (lambda: Feature('../a'), 'it names a folder'),
    (lambda: Feature('label'), "'label' is used by batches; give it another name"),
    (lambda: Feature('a', 'hash'), '\'a\': kind "hash" needs buckets'),
    (lambda: Feature('a', min_count=0), "'a': min_count is at least 1"),
    (lambda: Feature('a', 'ids', separator=''), 'needs a separator'),
    (lambda: Feature('a', 'bucket', transform='log10'), "transform is 'log10'"),
    (
      lambda: Feature('a', 'bucket', transform='boundaries', boundaries=(2, 1)),
      'boundaries must be ascending',
    ),
    (
      lambda: Schema('s', (Feature('a'), Feature('b', table='a', min_count=2))),
      "'a' and 'b' share table 'a' but turn values into rows differently",
    ),
    (lambda: Schema('s', (Feature('a'),), group='b'), "group 'b' is not a feature"),
    (
      lambda: Schema('s', (Feature('a', 'ids', separator='|', width=2),), group='a'),
      "samples have several values of 'a'",
    ),
    (lambda: Schema('s', ()), 'has no features'),
    (lambda: Schema('s', (Feature('a'),), files={'all': 'x'}), "'train' is needed"),
    (
      lambda: Schema('s', (Feature('a'),), files={'train': 'x'}, split=Split('random')),
      "'all' is needed",
    ),
    (lambda: Split('time'), 'needs the column that holds the time'),
    (lambda: Split('random', fractions=(0.5, 0.1, 0.1)), 'that add to 1'),
    (lambda: Split('time', column='t', cuts=(2, 1)), 'two times in order'),
    (
      lambda: Split('time', 't', 'text', (datetime.date(2026, 1, 2), datetime.date(2026, 1, 3))),
      "cut 2026-01-02 is not a text: put it in quotes, spelt as in column 't'",
    ),
    (lambda: Split('time', 't', 'text', (20260102, 20260103)), 'cut 20260102 is not a text'),
    (lambda: Split('time', 't', cuts=('2026-01-02', '2026-01-03')), 'want type = "text"'),
    (lambda: Split('time', 't', cuts=(datetime.date(2026, 1, 2), 3)), 'is not a number'),
    (lambda: Schema('s', (Feature('a'),)).feature('c'), "no feature 'c'; it has a"),
    (lambda: Schema.from_dict({'features': [{'name': 'a', 'mincount': 3}]}), 'mincount'),
    (lambda: Schema.from_dict({'features': [{'kind': 'id'}]}), 'needs a name'),
  ],
)
def test_errors(make, message):
  with pytest.raises((ValueError, KeyError)) as error:
    make()
  assert message in error.value.args[0]


def test_toml_errors_name_the_file(tmp_path):
  path = tmp_path / 'bad.toml'
  path.write_text('features = [')
  with pytest.raises(ValueError, match=r'bad\.toml is not valid TOML'):
    Schema.from_toml(path)
  path.write_text("[[features]]\nname = 'a'\nkind = 'x'")
  with pytest.raises(ValueError, match=r"bad\.toml: Feature 'a': kind"):
    Schema.from_toml(path)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ("[features]\nname = 'a'", 'write [[features]], with two brackets'),
    ("features = ['a']", "A Feature is a table of its fields, not 'a'"),
    ("split = 'time'", "A Split is a table of its fields, not 'time'"),
    ("files = 'a.csv'", "Schema 'bad': files is 'a.csv'; it is a table of its own, as [files]"),
    ('label = 1', "Schema 'bad': label is 1; 1 is not a text"),
    ("[[features]]\nname = 'a'\nmin_count = '2'", "Feature 'a': min_count is '2'; '2' is not"),
    ("[[features]]\nname = 'a'\nwidth = 2.5", "Feature 'a': width is 2.5; 2.5 is not a whole"),
    ("[[features]]\nname = 'a'\nboundaries = 3", "Feature 'a': boundaries is 3; it must be a list"),
    ("[split]\nfractions = ['x', 0, 0]", "Split: fractions is ['x', 0, 0]; 'x' is not a number"),
  ],
)
def test_types_in_a_file(tmp_path, text, message):
  (tmp_path / 'bad.toml').write_text(text)
  with pytest.raises(ValueError) as error:
    Schema.from_toml(tmp_path / 'bad.toml')
  assert message in str(error.value)


def test_one_column_to_ignore_may_stand_alone():
  assert Schema('s', (Feature('a'),), ignore='request_id').ignore == ('request_id',)
