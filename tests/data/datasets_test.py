"""Known data sets: found, named, encoded once."""

import csv
import gzip
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from ctr_jax.data import datasets, encode, files, schema

ROOT = pathlib.Path(__file__).parents[2]


def there(name):
  """Skips a test where the raw files are not."""
  folder = datasets._PROJECT.parent / 'shared' / 'data' / name
  return pytest.mark.skipif(not folder.is_dir(), reason=f'no {name}')


@pytest.fixture
def fake(tmp_path):
  """A folder with a tiny frappe_x1."""
  (tmp_path / 'data/frappe_x1').mkdir(parents=True)
  names = ','.join(datasets.frappe.FIELDS)
  for split, n in (('train', 4), ('valid', 3), ('test', 2)):
    rows = '\n'.join(','.join(['1', *[str(i * j) for j in range(10)]]) for i in range(n))
    (tmp_path / f'data/frappe_x1/{split}.csv').write_text(f'label,{names}\n{rows}\n')
  return tmp_path / 'data'


def test_every_module_keeps_the_promise():
  names = {'frappe_x1', 'ml1m_partial', 'yelp_implicit', 'criteo', 'criteo_sample', 'avazu'}
  assert names | {'avazu_sample'} == set(datasets.KNOWN)
  for name, module in datasets.KNOWN.items():
    assert isinstance(module.SCHEMAS[name], schema.Schema)
    assert module.SCHEMAS[name].name == name
    assert module.TITLES[name]
    assert 'https://' in module.DOWNLOAD
    assert all(len(md5) == 32 for md5 in module.MD5)


def test_find_looks_where_it_is_told(fake, tmp_path, monkeypatch):
  monkeypatch.delenv('CTR_JAX_DATA', raising=False)
  monkeypatch.setattr(datasets, '_PROJECT', tmp_path / 'nowhere/project')
  assert datasets.find('frappe_x1', fake) == fake / 'frappe_x1'
  with pytest.raises(FileNotFoundError) as caught:
    datasets.find('frappe_x1')
  message = str(caught.value)
  assert f'Looked for {tmp_path}/nowhere/shared/data/frappe_x1' in message
  assert 'https://huggingface.co/datasets/reczoo/Frappe_x1' in message
  assert '--data_dir' in message
  monkeypatch.setenv('CTR_JAX_DATA', str(fake))
  assert datasets.find('frappe_x1') == fake / 'frappe_x1'
  # A folder that was named is the only one.
  with pytest.raises(FileNotFoundError, match=r'other/frappe_x1\. Get train\.csv'):
    datasets.find('frappe_x1', tmp_path / 'other')
  with pytest.raises(ValueError, match="no data set 'frapp'; known are frappe_x1, ml1m_partial"):
    datasets.find('frapp')


def test_encoded_once(fake, tmp_path, monkeypatch):
  first = datasets.open_or_encode('frappe_x1', fake, tmp_path / 'cache', progress=False)
  assert first.num_samples('train') == 4
  assert [p.name for p in (tmp_path / 'cache').iterdir()] == [pathlib.Path(first.path).name]
  whole = encode._fill
  monkeypatch.setattr(encode, '_fill', None)
  again = datasets.open_or_encode('frappe_x1', fake, tmp_path / 'cache', progress=False)
  assert again.checksum == first.checksum
  # Other raw files are encoded anew, beside the others.
  monkeypatch.setattr(encode, '_fill', whole)
  path = fake / 'frappe_x1/train.csv'
  path.write_text(path.read_text() + '0,1,2,3,4,5,6,7,8,9,10\n')
  other = datasets.open_or_encode('frappe_x1', fake, tmp_path / 'cache', progress=False)
  assert other.num_samples('train') == 5
  assert len(list((tmp_path / 'cache').iterdir())) == 2


def test_title_says_which_files(fake, tmp_path, monkeypatch):
  known, folder = datasets.resolve('frappe_x1', fake)
  assert datasets.title(known, folder).startswith('Frappe_x1, train file of unknown md5 ')
  md5 = files.md5(fake / 'frappe_x1/train.csv')
  others = {files.md5(fake / f'frappe_x1/{split}.csv'): '' for split in ('valid', 'test')}
  monkeypatch.setattr(datasets.frappe, 'MD5', {md5: '', **others})
  assert datasets.title(known, folder) == 'Frappe_x1'
  monkeypatch.setattr(datasets.frappe, 'MD5', {md5: 'rebuilt train', **others})
  source = datasets.open_or_encode('frappe_x1', fake, tmp_path / 'cache', progress=False)
  assert source.title == 'Frappe_x1, rebuilt train'


def test_schema_file(fake, tmp_path):
  (fake / 'mine.toml').write_text(
    "files = { train = 'frappe_x1/train.csv' }\n"
    f'ignore = {list(datasets.frappe.FIELDS[1:])}\nfeatures = [{{ name = "user" }}]'
  )
  source = datasets.open_or_encode(str(fake / 'mine.toml'), None, tmp_path, progress=False)
  assert source.title == 'mine'
  assert source.num_samples('train') == 4
  with pytest.raises(FileNotFoundError, match='neither a schema file nor a known data set'):
    datasets.open_or_encode('no.toml')


def test_only_encoding_needs_the_database(fake, tmp_path):
  source = datasets.open_or_encode('frappe_x1', fake, tmp_path / 'cache', progress=False)
  program = (
    'import sys; from ctr_jax.data import datasets\n'
    f'source = datasets.open_or_encode("frappe_x1", {str(fake)!r}, {str(tmp_path / "cache")!r})\n'
    f'assert source.checksum == {source.checksum!r}\n'
    'assert not {"ibis", "duckdb", "jax", "pyarrow"} & set(sys.modules), sorted(sys.modules)'
  )
  subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True)


@there('frappe_x1')
def test_frappe(tmp_path):
  source = datasets.open_or_encode('frappe_x1', cache_dir=tmp_path, progress=False)
  assert source.title == 'Frappe_x1, rebuilt train'
  samples = [source.num_samples(split) for split in ('train', 'valid', 'test')]
  assert samples == [202_027, 57_722, 28_860]
  assert source.rows['item'] == 4083
  label = source.read('valid', ['label'], 0, 57_722)['label']
  assert round(float(label.mean()), 3) == 0.330
  assert len(source.schema.features) == 10
  assert source.schema.group == 'user'


@there('criteo_sample')
def test_criteo_sample(tmp_path):
  source = datasets.open_or_encode('criteo_sample', cache_dir=tmp_path, progress=False)
  samples = {split: source.num_samples(split) for split in ('train', 'valid', 'test')}
  assert sum(samples.values()) == 8184
  np.testing.assert_allclose([n / 8184 for n in samples.values()], [0.8, 0.1, 0.1], atol=0.015)
  labels = [source.read(split, ['label'], 0, n)['label'] for split, n in samples.items()]
  assert round(float(np.concatenate(labels).mean()), 3) == 0.217
  assert len(source.schema.features) == 39
  # I12 is empty in most rows, and never negative ones are unknown: row 0 is the missing.
  assert (source.read('train', ['I12'], 0, samples['train'])['I12'] == 0).mean() > 0.7


@there('avazu_sample')
def test_avazu_sample(tmp_path):
  source = datasets.open_or_encode('avazu_sample', cache_dir=tmp_path, progress=False)
  assert sum(source.num_samples(split) for split in ('train', 'valid', 'test')) == 8999
  # One hour of Tuesday, 21 October 2014.
  assert source.vocabulary('hour')[0] == ['0']
  assert source.vocabulary('weekday')[0] == ['1']
  assert source.vocabulary('weekend')[0] == ['0']
  assert len(source.schema.features) == 24


def test_avazu_clock():
  clock = datasets.avazu.SCHEMAS['avazu'].features[:3]
  assert [(f.name, f.column, f.transform) for f in clock] == [
    ('hour', 'hour', 'hour'),
    ('weekday', 'hour', 'weekday'),
    ('weekend', 'hour', 'weekend'),
  ]


@there('yelp_implicit')
def test_clock_is_the_position_of_the_visit(tmp_path):
  found = datasets.clock('yelp_implicit', cache_dir=tmp_path)
  with gzip.open(datasets.find('yelp_implicit') / 'test.csv.gz', 'rt') as file:
    rows = list(csv.DictReader(file))
  clock = found.read('test', ('clock',), 0, len(rows))['clock']
  np.testing.assert_array_equal(clock, [float(row['position']) for row in rows])
  assert datasets.clock('frappe_x1', cache_dir=tmp_path) is None
  assert datasets.clock('no_such_set', cache_dir=tmp_path) is None
