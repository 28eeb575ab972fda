"""Noise copies: the same values in another order, that say nothing; in tables of their own."""

import json

import numpy as np
import pytest

from ctr_jax import compress, models, predict
from ctr_jax.data import batches, encode, noise, schema, storage, synthetic

F = schema.Feature
SCHEMA = schema.Schema(
  'visits',
  (
    F('user', min_count=2),
    F('friend', min_count=2, table='user'),
    F('past', 'ids', min_count=2, table='user'),
    F('price', 'numeric'),
    F('hour', 'bucket'),
    F('page', 'hash', buckets=50),
  ),
  files={'train': 'train.csv', 'valid': 'valid.csv'},
  group='user',
)
SAMPLES = {'train': 2000, 'valid': 400}
COPIES = 3


def encoded(folder):
  """An encoded set with features of each kind, whose label is whether the user is odd."""
  for number, (split, total) in enumerate(SAMPLES.items()):
    draw = np.random.default_rng(number)
    user, friend, a, b, hour, page = draw.integers(0, 20, (6, total))
    lines = ['label,user,friend,past,price,hour,page']
    for i in range(total):
      past = '|'.join(map(str, (a[i], b[i])[: i % 3]))
      price = '' if i % 7 == 0 else i
      lines.append(f'{user[i] % 2},{user[i]},{friend[i]},{past},{price},{hour[i]},{page[i]}')
    (folder / f'{split}.csv').write_text('\n'.join([*lines, '']))
  return encode.encode(SCHEMA, folder, folder / 'encoded', progress=False)


def made(folder):
  return synthetic.Synthetic(synthetic.small())


@pytest.fixture(scope='module', params=[encoded, made], ids=lambda make: make.__name__)
def sources(request, tmp_path_factory):
  """(a source, the same widened, where the noise is)."""
  folder = tmp_path_factory.mktemp('noise')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(storage, 'CHUNK', 300)
    base = request.param(folder)
    return base, noise.widened(base, folder / 'noise', COPIES), folder / 'noise'


def whole(source, split, name):
  return source.read(split, [name], 0, source.num_samples(split))[name]


def ordered(column):
  """Sorted by sample, so that equal multisets are equal."""
  rows = column if column.ndim == 2 else column[:, None]
  return rows[np.lexsort(rows.T)]


def test_copies_are_the_values_in_other_orders(sources):
  base, wide, _ = sources
  for split in schema.SPLITS:
    assert wide.num_samples(split) == base.num_samples(split)
    for name in base.schema.names:
      original = whole(base, split, name)
      np.testing.assert_array_equal(whole(wide, split, name), original)
      found = [original, *(whole(wide, split, f'{name}.noise_{k}') for k in range(1, COPIES + 1))]
      for number, column in enumerate(found):
        assert (column.dtype, column.shape) == (original.dtype, original.shape)
        np.testing.assert_array_equal(ordered(column), ordered(original))
        for other in found[:number]:
          assert not column.size or np.mean(column == other) < 0.9


def test_each_copy_reads_a_table_of_its_own(sources):
  base, wide, _ = sources
  names = base.schema.names
  assert wide.schema.names[: len(names)] == names
  assert len(wide.schema.names) == (1 + COPIES) * len(names)
  for feature in base.schema.features:
    for k in range(1, COPIES + 1):
      copy = wide.schema.feature(f'{feature.name}.noise_{k}')
      assert copy.table == copy.name
      assert copy.rule == feature.rule
      assert copy.width == feature.width
      assert wide.rows[copy.table] == base.rows[feature.table]
  assert wide.title == f'{base.title}, with 3 noise copies of every feature'
  assert wide.schema.group == base.schema.group


def surprise(values, label):
  """Mean squared error of the values' clicks, in units of what chance alone does; of how many."""
  count, clicks = np.bincount(values), np.bincount(values, label)
  often = count > 20
  error = clicks[often] - label.mean() * count[often]
  return np.mean(error**2 / (label.var() * count[often])), often.sum()


def test_noise_knows_nothing_of_the_label(sources):
  base, wide, _ = sources
  label = whole(wide, 'train', 'label')
  assert surprise(whole(wide, 'train', 'user'), label)[0] > 2
  for name in (f.name for f in base.schema.features if f.kind not in ('numeric', 'ids')):
    for k in range(1, COPIES + 1):
      found, values = surprise(whole(wide, 'train', f'{name}.noise_{k}'), label)
      assert abs(found - 1) < 4 * np.sqrt(2 / values)


def test_noise_knows_nothing_of_other_noise(tmp_path):
  wide = noise.widened(made(tmp_path), tmp_path / 'noise', 1)

  def pairs(*names):
    return np.unique([whole(wide, 'train', name) for name in names], axis=1).shape[1]

  # A category is a function of its item.
  assert pairs('item', 'category') < 210
  assert pairs('item.noise_1', 'category.noise_1') > 1000


def test_made_once_and_the_same_anywhere(sources, tmp_path):
  base, wide, folder = sources
  before = (folder / 'manifest.json').stat().st_mtime_ns
  assert noise.widened(base, folder, COPIES).checksum == wide.checksum
  assert (folder / 'manifest.json').stat().st_mtime_ns == before
  again = noise.widened(base, tmp_path / 'again', COPIES)
  assert again.checksum == wide.checksum
  other = noise.widened(base, tmp_path / 'other', COPIES, seed=1)
  assert np.any(whole(other, 'train', 'user.noise_1') != whole(wide, 'train', 'user.noise_1'))
  assert json.loads((folder / 'manifest.json').read_text())['made_of'] == {'noise': 3, 'seed': 0}
  with pytest.raises(FileExistsError, match='made of another data set or otherwise'):
    noise.widened(base, folder, COPIES, seed=1)


def test_fewer_copies_are_the_first_of_more(sources, tmp_path):
  base, wide, _ = sources
  one = noise.widened(base, tmp_path / 'one', 1)
  np.testing.assert_array_equal(
    whole(one, 'train', 'price.noise_1'), whole(wide, 'train', 'price.noise_1')
  )


def test_a_model_reads_it(sources):
  _, wide, _ = sources
  net = models.NETS['dnn'](hidden=(4,), dropout=0.0)
  model = predict.build(wide.schema, wide.rows, (('.*', compress.identity()),), net, 2)
  assert model.columns == wide.schema.names
  batch = next(iter(batches.Batches(wide, 'train', model.columns, 64).epoch(0)))
  index, _ = predict.inputs(model, batch)
  assert index.keys() == wide.rows.keys()


def test_errors_say_what_is_wrong(sources, tmp_path):
  base, wide, _ = sources
  with pytest.raises(ValueError, match='0 noise copies of every feature: at least one'):
    noise.widened(base, tmp_path / 'none', 0)
  with pytest.raises(ValueError, match='noise_1'):
    noise.widened(wide, tmp_path / 'twice', 1)
