"""Synthetic clicks: that they are what their spec says, and that the planted truth is the truth."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats

from ctr_jax.data import batches, schema, synthetic
from ctr_jax.evaluate import metrics

DEFAULT = synthetic.Synthetic()
SMALL = synthetic.Synthetic(synthetic.small())
SELECTION = synthetic.Synthetic(synthetic.selection(samples=(60_000, 10, 10)))
EVERYTHING = (*DEFAULT.schema.names, 'label', *DEFAULT.extras)


def everything(source):
  return (*source.schema.names, 'label', *source.extras)


@pytest.fixture(scope='module')
def train():
  return DEFAULT.read('train', EVERYTHING, 0, DEFAULT.num_samples('train'))


@pytest.fixture(scope='module')
def whole():
  return SMALL.read('train', everything(SMALL), 0, SMALL.num_samples('train'))


def test_the_rows_of_a_spec_never_change():
  # A checksum names these rows in published results; another value needs another VERSION.
  found = SMALL.read('valid', ['user', 'category', 'label'], 10, 18)
  assert {k: v.tolist() for k, v in found.items()} == {
    'user': [164, 13, 27, 4, 2, 74, 298, 13],
    'category': [14, 1, 17, 9, 1, 4, 19, 10],
    'label': [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
  }


@hypothesis.given(bounds=st.tuples(st.integers(0, 4000), st.integers(0, 4000)), data=st.data())
def test_any_range_is_a_slice_of_the_whole(whole, bounds, data):
  start, stop = sorted(bounds)
  names = data.draw(st.lists(st.sampled_from(everything(SMALL)), unique=True))
  found = SMALL.read('train', names, start, stop)
  assert [*found] == names
  for name in names:
    assert found[name].dtype == whole[name].dtype
    np.testing.assert_array_equal(found[name], whole[name][start:stop])


@pytest.mark.parametrize('start, stop', [(16_000, 70_001), (65_535, 65_537), (299_999, 300_000)])
def test_ranges_over_the_borders_of_blocks(train, start, stop):
  found = DEFAULT.read('train', EVERYTHING, start, stop)
  for name in EVERYTHING:
    np.testing.assert_array_equal(found[name], train[name][start:stop])


def test_columns_are_what_the_schema_says(train):
  for feature in DEFAULT.schema.features:
    column, rows = train[feature.name], DEFAULT.rows[feature.name]
    if feature.kind == 'numeric':
      assert column.dtype == np.float32
      assert rows == 2
      assert 0.04 < np.isnan(column).mean() < 0.06
      continue
    assert column.dtype == np.int32
    assert column.max() < rows
    if feature.kind == 'ids':
      assert column.shape == (300_000, feature.width)
      assert column[:, 0].min() == 0  # At least one element; row 0 where there is none.
      kept = column >= 0
      assert np.all(kept[:, :-1] >= kept[:, 1:])
      assert np.all(column[~kept] == -1)
      shares = np.bincount(kept.sum(axis=1))[1:] / 300_000
      np.testing.assert_allclose(shares[1:], 0.98 / feature.width, atol=0.005)
    else:
      assert column.ndim == 1
      assert column.min() >= 0
  assert set(np.unique(train['label'])) == {0.0, 1.0}
  assert train['label'].dtype == np.float32
  assert train['probability'].dtype == np.float64
  assert train['probability'].min() > 0
  assert train['probability'].max() < 1


def test_days_ascend_through_the_splits():
  days = np.concatenate(
    [DEFAULT.read(s, ['day'], 0, DEFAULT.num_samples(s))['day'] for s in schema.SPLITS]
  )
  assert np.all(np.diff(days) >= 0)
  assert np.bincount(days).tolist() == [25_000] * 16


@pytest.mark.parametrize('name', ['user', 'item', 'noise', 'hour'])
def test_rows_are_frequency_ranks_of_a_power_law(train, name):
  field = next(f for f in DEFAULT.spec.fields if f.name == name)
  ranks = np.arange(1, field.values + 1, dtype=np.float64)

  def below(x):  # ∫ t^-a dt from 1 to x, by the definition.
    a = field.exponent
    return np.log(x) if a == 1 else (x ** (1 - a) - 1) / (1 - a)

  share = (below(ranks + 1) - below(ranks)) / below(field.values + 1.0) * (1 - field.missing)
  want = np.concatenate([[field.missing], share]) * 300_000
  counts = np.bincount(train[name], minlength=field.values + 1)
  often = want > 50
  assert often.sum() > 20
  rest = counts[~often].sum(), want[~often].sum()
  found, expected = np.append(counts[often], rest[0]), np.append(want[often], rest[1])
  found, expected = found[expected > 0], expected[expected > 0]
  assert scipy.stats.chisquare(found, expected).pvalue > 1e-3
  assert np.all(np.diff(share) < 0)


def test_labels_are_drawn_from_the_probability(train):
  p, y = train['probability'], train['label']
  assert 0.2 < y.mean() < 0.3
  # In each tenth of the predictions; 4 standard errors.
  for rows in np.array_split(np.argsort(p), 10):
    assert abs(p[rows].mean() - y[rows].mean()) < 4 * np.sqrt(
      np.mean(p[rows] * (1 - p[rows])) / len(rows)
    )


def test_the_probability_is_the_sum_of_the_terms(train):
  terms = DEFAULT.terms('train', 5000, 40_000)
  logit = DEFAULT.spec.bias + sum(terms.values())
  np.testing.assert_allclose(
    train['probability'][5000:40_000], 1 / (1 + np.exp(-logit)), rtol=1e-12
  )
  fields = {name for term in terms for name in term[1:]}
  roles = DEFAULT.spec.roles
  assert fields == {n for n, r in roles.items() if not {'noise', 'redundant'} & set(r)}
  for kind in ('main', 'drift', 'pair', 'cross'):
    named = {name for term in terms if term[0] == kind for name in term[1:]}
    assert named == {name for name, role in roles.items() if kind in role}


def test_main_effects_belong_to_values(train):
  term = DEFAULT.terms('train', 0, 50_000)['main', 'user']
  user = train['user'][:50_000]
  _, first, inverse = np.unique(user, return_index=True, return_inverse=True)
  np.testing.assert_array_equal(term, term[first][inverse])
  assert len(np.unique(term)) > 0.95 * len(first)


def test_pairs_have_low_rank_and_crosses_have_not():
  # Effects over the grid of 24 × 24 values: a product of 4-vectors has 4 singular values.
  grid = np.arange(1, 25)
  a, b = (x.ravel() for x in np.meshgrid(grid, grid))
  spec = dataclasses.replace(
    DEFAULT.spec, pairs=(('user', 'page', 1.0),), crosses=(('user', 'page', 1.0),)
  )
  rows = synthetic.Rows(spec, np.arange(len(a), dtype=np.uint64))
  rows._made |= {f.name: np.ones(len(a), np.int32) for f in spec.fields if f.kind == 'id'}
  rows._made |= {'user': a, 'page': b}
  terms = rows.terms()
  pair = np.linalg.svd(terms['pair', 'user', 'page'].reshape(24, 24), compute_uv=False)
  cross = np.linalg.svd(terms['cross', 'user', 'page'].reshape(24, 24), compute_uv=False)
  assert pair[3] > 1
  assert pair[4] < 1e-9
  assert cross[12] > 1


def mutual(x, y):
  """p-value of independence of two columns with few values."""
  return scipy.stats.chi2_contingency(np.histogram2d(x, y, [np.unique(x).size, 2])[0]).pvalue


def test_noise_knows_nothing_of_the_label(train):
  y = train['label']
  assert mutual(train['noise_small'], y) > 1e-3
  assert mutual(np.minimum(train['noise'], 40), y) > 1e-3
  # As a contrast, one that matters.
  assert mutual(train['slot'], y) < 1e-12
  # Nor do the rarer values: their click rates in two halves of train are not related.
  halves = [train['noise'][:150_000], train['noise'][150_000:]]
  rates = []
  for half, clicks in zip(halves, (y[:150_000], y[150_000:]), strict=True):
    n = np.bincount(half, minlength=100_001)[1:300]
    rates.append(np.bincount(half, clicks, 100_001)[1:300] / np.maximum(n, 1))
  assert abs(np.corrcoef(rates)[0, 1]) < 4 / np.sqrt(299)


@pytest.mark.parametrize(
  'child, parent', [('brand', 'item'), ('category', 'item'), ('city', 'user'), ('section', 'page')]
)
def test_grouped_fields_are_functions(train, child, parent):
  pairs = np.unique(np.stack([train[parent], train[child]]), axis=1)
  assert pairs.shape[1] == len(np.unique(train[parent]))
  assert pairs[1, pairs[0] == 0] == 0
  assert len(np.unique(train[child])) > 0.3 * DEFAULT.rows[child]
  # Numbered by frequency, roughly: the more frequent half of the groups has most of the rows.
  assert np.mean(train[child] <= DEFAULT.rows[child] // 2) > 0.7


def test_roles():
  assert DEFAULT.spec.roles['brand'] == DEFAULT.spec.roles['section'] == ('redundant',)
  assert DEFAULT.spec.roles['noise'] == DEFAULT.spec.roles['noise_small'] == ('noise',)
  assert DEFAULT.spec.roles['price'] == ('main',)
  assert set(DEFAULT.spec.roles['campaign']) == {'main', 'drift', 'pair'}
  fields = (synthetic.Field('user'), synthetic.Field('city', of='user'))
  spec = synthetic.Spec(fields=fields, pairs=(), crosses=())
  assert spec.roles == {'user': ('noise',), 'city': ('noise',)}


def test_roles_of_what_others_are_functions_of():
  f = synthetic.Field
  fields = (f('a'), f('b', of='a'), f('c', of='b', main=0.1), f('d', of='c'), f('e', of='a'))
  found = synthetic.Spec(fields=fields, pairs=(), crosses=()).roles
  assert found['a'] == found['b'] == ('source',)
  assert found['c'] == ('main',)
  assert found['d'] == found['e'] == ('redundant',)  # e tells of a, and so of c.


@pytest.fixture(scope='module')
def selection():
  """(all columns, terms of the logit)."""
  n = SELECTION.num_samples('train')
  return SELECTION.read('train', everything(SELECTION), 0, n), SELECTION.terms('train', 0, n)


def expected_auc(p, scores):
  """AUC of scores where the probability of a click is known: no chance of labels in it."""
  p = p[np.argsort(scores)]
  return np.sum(p * (np.cumsum(1 - p) - (1 - p) / 2)) / (p.sum() * (1 - p).sum())


def test_every_useful_field_of_the_selection_is_worth_selecting(selection):
  columns, terms = selection
  p, logit = columns['probability'], sum(terms.values())
  best = expected_auc(p, logit)
  assert 0.75 < best < 0.85
  worth = {term: best - expected_auc(p, logit - effect) for term, effect in terms.items()}
  assert min(worth.values()) > 0.002
  assert max(worth.values()) > 5 * min(worth.values())
  # A redundant field does not stand in for its parent: what it tells is the mean of its group.
  for child, parent in (('brand', 'item'), ('city', 'user')):
    group, effect = columns[child], terms['main', parent]
    known = (np.bincount(group, effect) / np.maximum(np.bincount(group), 1))[group]
    assert best - expected_auc(p, logit - effect + known) > 0.002


def test_roles_of_the_selection(selection):
  _, terms = selection
  roles = SELECTION.spec.roles
  assert roles['brand'] == roles['city'] == ('redundant',)
  assert roles['twin_dear'] == ('source',)
  assert roles['twin_cheap'] == ('main',)
  assert roles['campaign'] == ('pair',)
  noise = {name for name, role in roles.items() if role == ('noise',)}
  assert noise == {name for name in roles if name.startswith('noise')}
  useful = {name for term in terms for name in term[1:]}
  assert useful == roles.keys() - noise - {'brand', 'city', 'twin_dear'}


def test_twins_tell_the_same(selection):
  columns, terms = selection
  dear, cheap, effect = columns['twin_dear'], columns['twin_cheap'], terms['main', 'twin_cheap']
  for twin in (dear, cheap):
    pairs = np.unique(np.stack([twin, effect]), axis=1)
    assert pairs.shape[1] == len(np.unique(twin))
  assert SELECTION.rows['twin_dear'] > 90 * SELECTION.rows['twin_cheap']
  assert len(np.unique(dear)) > 5 * len(np.unique(cheap))


def test_effects_drift_slowly():
  n = DEFAULT.num_samples('train')
  item = DEFAULT.read('train', ['item', 'day'], 0, n)
  drift = DEFAULT.terms('train', 0, n)['drift', 'item']
  effects = np.full((12, 40), np.nan)
  effects[item['day'], np.minimum(item['item'], 39)] = np.where(item['item'] < 39, drift, np.nan)
  effects = effects[:, 1:39]

  def likeness(a, b):
    return np.corrcoef(effects[a], effects[b])[0, 1]

  assert likeness(0, 1) > 0.95
  assert likeness(0, 11) < 0.9
  assert likeness(0, 11) < likeness(0, 5) < likeness(0, 1)


def test_numbers_matter_and_the_missing_do_not(train):
  price, y = train['price'], train['label']
  rates = [y[rows].mean() for rows in np.array_split(np.argsort(price)[:280_000], 10)]
  assert np.all(np.diff(rates) < 0.01)
  assert rates[0] - rates[-1] > 0.1
  present = price[~np.isnan(price)]
  assert abs(present.mean()) < 0.01
  assert abs(present.std() - 1) < 0.01
  term = DEFAULT.terms('train', 0, 300_000)['main', 'price']
  assert np.all(term[np.isnan(price)] == 0)


@pytest.mark.parametrize('split', schema.SPLITS)
def test_best_is_auc_and_log_loss_of_the_truth(split):
  found = synthetic.best(DEFAULT, split)
  columns = DEFAULT.read(split, ['label', 'probability'], 0, DEFAULT.num_samples(split))
  p = columns['probability']
  logit = np.log(p) - np.log1p(-p)
  want = metrics.auc(columns['label'], logit), metrics.log_loss(columns['label'], logit)
  assert (found['auc'], found['log_loss']) == pytest.approx(want, abs=1e-12)
  assert 0.8 < found['auc'] < 0.86


def test_each_kind_of_effect_is_worth_knowing():
  n = DEFAULT.num_samples('test')
  label = DEFAULT.read('test', ['label'], 0, n)['label']
  terms = DEFAULT.terms('test', 0, n)

  def oracle(*kinds):
    return metrics.auc(label, sum(v for k, v in terms.items() if k[0] in kinds))

  main, drift = oracle('main'), oracle('main', 'drift')
  pair = oracle('main', 'drift', 'pair')
  best = oracle('main', 'drift', 'pair', 'cross')
  assert best == pytest.approx(synthetic.best(DEFAULT, 'test')['auc'], abs=1e-6)
  assert main + 0.01 < drift < pair - 0.05
  assert pair + 0.01 < best


def test_a_table_of_values_learned_from_train_helps(train):
  # Click rates per value, shrunk, added up: naive Bayes learns main effects only.
  test = DEFAULT.read('test', EVERYTHING, 0, DEFAULT.num_samples('test'))
  total, base = 0.0, train['label'].mean()
  for name, role in DEFAULT.spec.roles.items():
    if 'main' in role and name not in ('tags', 'price', 'city', 'category'):
      rows = DEFAULT.rows[name]
      n = np.bincount(train[name], minlength=rows)
      rate = (np.bincount(train[name], train['label'], rows) + 20 * base) / (n + 20)
      total = total + (np.log(rate) - np.log1p(-rate))[test[name]]
  assert 0.66 < metrics.auc(test['label'], total) < 0.74


def test_seeds_differ_and_names_not_positions_seed_fields():
  other = synthetic.Synthetic(synthetic.small(seed=1))
  names = everything(SMALL)
  a, b = SMALL.read('train', names, 0, 4000), other.read('train', names, 0, 4000)
  assert SMALL.checksum != other.checksum
  for name in ('user', 'item', 'noise', 'probability'):
    assert np.mean(a[name] == b[name]) < 0.1
  # Without one field, all others stay what they were.
  spec = synthetic.small()
  fewer = dataclasses.replace(spec, fields=tuple(f for f in spec.fields if f.name != 'noise'))
  c = synthetic.Synthetic(fewer).read('train', ['user', 'label', 'tags'], 0, 4000)
  for name in c:
    np.testing.assert_array_equal(a[name], c[name])


def test_checksum_follows_the_spec():
  assert synthetic.Synthetic().checksum == DEFAULT.checksum
  assert (
    synthetic.Synthetic(dataclasses.replace(DEFAULT.spec, bias=-2)).checksum != DEFAULT.checksum
  )


def test_fields_may_have_more_values_than_memory_would_hold():
  spec = synthetic.large_ids(values=2**31 - 2)
  source = synthetic.Synthetic(spec)
  assert source.rows['item'] == 2**31 - 1
  item = source.read('train', ['item', 'label'], 1_900_000, 1_950_000)['item']
  assert item.min() == 0
  assert 10**9 < item.max() <= 2**31 - 2
  assert synthetic.Synthetic(synthetic.large_ids()).rows['item'] > 10_000_000


def test_batches_read_it():
  names = ['user', 'tags', 'price', 'label']
  stream = batches.Batches(SMALL, 'train', names, 256, window=1000, block=128).epoch(0)
  found = list(stream)
  assert len(found) == 15
  assert found[0]['tags'].shape == (256, 3)


def test_errors_say_what_is_wrong():
  with pytest.raises(
    ValueError, match=r"Rows 0\.\.1001 are not in 'valid' of synthetic_small, which has 1000"
  ):
    SMALL.read('valid', ['user'], 0, 1001)
  with pytest.raises(ValueError, match="no split 'dev'; there are train, valid, test"):
    SMALL.num_samples('dev')
  with pytest.raises(KeyError, match="no column 'age'; it has user, item"):
    SMALL.read('valid', ['age'], 0, 10)
  field = synthetic.Field
  with pytest.raises(ValueError, match="function of 'b'; list it after"):
    synthetic.Spec(fields=(field('a', of='b'), field('b')), pairs=(), crosses=())
  with pytest.raises(ValueError, match=r"\['b'\] are used in pairs, crosses or `of`"):
    synthetic.Spec(fields=(field('a'), field('b', 'numeric')), pairs=(('a', 'b', 1.0),), crosses=())
  with pytest.raises(ValueError, match=r'must be in 1\.\.2\^31-2, got 0'):
    synthetic.Spec(fields=(field('a', values=0),), pairs=(), crosses=())
