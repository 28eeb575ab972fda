"""Techniques as words, which of them a search takes, and ladders that climb by some of them."""

import pytest

from ctr_jax import compress, models
from ctr_jax.data import synthetic
from ctr_jax.tables import leaf
from experiments import recipes, rungs, search


def test_words_are_put_in_order_and_filled_up():
  found = recipes.parsed(['dims:0.01', 'relation', 'multi_hash', ''])
  assert list(found.items()) == [
    ('relation', 'pairwise'),
    ('multi_hash', '4'),
    ('dims', '0.01'),
  ]


@pytest.mark.parametrize(
  'word', ['dim', 'dims:wide', 'dims:-1', 'multi_hash:0.5', 'relation:all', 'pcf_gnn:2', 'net:0.5']
)
def test_words_that_mean_nothing_are_refused(word):
  with pytest.raises(ValueError, match='--techniques'):
    recipes.parsed([word])


def row(auc, nbytes):
  return {'valid_best': [auc], 'bytes': nbytes, 'net_parameters': 0}


@pytest.mark.parametrize(
  'auc, nbytes, current, taken',
  [
    (0.7999, 50, row(0.81, 60), True),  # Within what is allowed of massive, and smaller.
    (0.81, 58, row(0.81, 60), False),  # Too little is saved.
    (0.7997, 50, row(0.81, 60), False),  # Too much is lost.
    (0.81, 70, row(0.7999, 60), False),  # Better, but the current one is good enough.
    (0.7990, 70, row(0.7980, 60), True),  # The current one is not.
    (0.7981, 70, row(0.7980, 60), False),  # Not worth its bytes.
  ],
)
def test_a_search_takes_what_saves_and_what_mends(monkeypatch, auc, nbytes, current, taken):
  for name, value in {'_ALLOWED': 2e-4, '_GAIN': 2e-4, '_SAVED': 0.05}.items():
    monkeypatch.setattr(search, name, type('Flag', (), {'value': value}))
  assert search.taken(row(auc, nbytes), current, row(0.8, 1000)) == taken


def test_a_searchs_seconds_are_said_to_be_of_the_last_stage():
  rows = [row(0.8, 1000), row(0.79, 10)]
  named = [x | {'name': n, 'train_seconds': [9.0]} for x, n in zip(rows, 'ab', strict=True)]
  header = search.render({'rows': named}).splitlines()[0]
  assert [x.strip() for x in header.split('|')][-4:-1] == ['fewer', 'last stage', 'taken']


@pytest.fixture
def ladder(monkeypatch):
  source = synthetic.Synthetic(synthetic.small())

  def make(*techniques, crosses=True, bits=8):
    monkeypatch.setattr(recipes.crossed, 'pairs', lambda source: [('user', 'item')])
    flags = {
      'TECHNIQUES': (list(techniques), True),
      '_CROSSES': (crosses, True),
      '_WAYS': (2, False),
      '_BITS': (bits, False),
    }
    for name, (value, present) in flags.items():
      flag = type('Flag', (), {'value': value, 'present': present})
      monkeypatch.setattr(recipes, name, flag)
    monkeypatch.setattr(recipes.sweeps, 'NET', type('Flag', (), {'value': 'dcn'}))
    monkeypatch.setattr(recipes.sweeps, 'CORE_ROWS', type('Flag', (), {'value': 100}))
    monkeypatch.setattr(recipes.settings, 'of', lambda name: recipes.settings.Settings())
    monkeypatch.setattr(recipes.common, 'data_name', lambda: 'synthetic_small')
    monkeypatch.setattr(recipes.common, 'schedule', lambda epochs, batch_size: None)
    return rungs.ladder(source)

  return make


def test_a_ladder_climbs_by_what_is_asked_for(ladder):
  found = ladder('multi_hash', 'dims')
  names = [rung.name for rung in found.rungs]
  assert names == ['massive', 'without crosses', 'multi-hash', 'adaptive dims']
  assert found.compact == 'adaptive dims + int8'
  assert found.beside == ['multi-hash + int8']
  assert found.free == {'int8': 'adaptive dims', 'adaptive dims': 'multi-hash + int8'}
  assert [rung.without for rung in found.ablation] == ['multi-hash']


@pytest.mark.parametrize('bits', [8, 16])
def test_a_budget_chooses_for_every_table(ladder, bits):
  found = ladder('budget:10', bits=bits)
  assert [rung.name for rung in found.rungs] == ['massive', 'without crosses', 'a budget of bytes']
  kind = {8: 'int8', 16: 'float16'}[bits]
  assert found.compact == f'a budget of bytes + {kind}'
  assert found.free.keys() == {kind, 'a budget of bytes'}
  source = found.rungs[-1].source()
  trial = found.rungs[-1].trial(source, None)
  ((_, link),) = found.rungs[-1].links
  served = compress.appended(trial.rules, link)
  width = models.NETS[trial.net](**trial.net_options).width(trial.dim)
  tables = {t: leaf.Leaf((rows, width)) for t, rows in source.rows.items()}
  full = sum(x.nbytes for x in tables.values())
  assert leaf.nbytes(compress.bind(tables, served).plan) <= full / 10
  assert len({technique.name for _, technique in trial.rules}) > 1
  with pytest.raises(ValueError, match='name one'):
    recipes.parsed(['budget', 'multi_hash'])
  with pytest.raises(ValueError, match='smallest'):  # Before anything is trained.
    ladder('budget:1e9')


def test_what_compact_needs_of_crosses_is_a_rung_and_can_be_left_out(ladder):
  found = ladder('relation:pairwise', 'pcf_gnn', 'features')
  names = [rung.name for rung in found.rungs]
  assert names == [
    'massive',
    'relational network',
    'PCF-GNN',
    'node vectors in int8',
    'selected features',
    'without crosses',
  ]
  assert found.beside == ['node vectors in int8 + int8', 'without crosses']
  assert [rung.without for rung in found.ablation] == ['relational network', 'PCF-GNN']
  assert ladder('relation').rungs[1].name == 'relational network'


def test_nothing_but_rounding_is_a_ladder_too(ladder):
  found = ladder()
  assert [rung.name for rung in found.rungs] == ['massive', 'without crosses']
  assert found.compact == 'without crosses + int8'
  assert found.free == {'int8': 'without crosses'}


def test_a_smaller_net_is_a_rung_before_features_and_rows(ladder):
  found = ladder('multi_hash', 'net:4', 'relation')
  names = ['massive', 'relational network', 'smaller net', 'multi-hash', 'without crosses']
  assert [rung.name for rung in found.rungs] == names
  trials = {r.name: r.trial(r.source(), None) for r in found.rungs if r.name != 'massive'}
  hidden = {name: trial.net_options['hidden'] for name, trial in trials.items()}
  assert hidden == {
    'relational network': (128, 64),
    'smaller net': (32, 16),
    'multi-hash': (32, 16),
    'without crosses': (128, 64),
  }
  assert {trials[name].net for name in ('smaller net', 'multi-hash')} == {'relation_dcn'}
  left_out = {rung.without: rung.trial(rung.source(), None) for rung in found.ablation}
  assert left_out['smaller net'].net_options['hidden'] == (128, 64)
  assert left_out['relational network'].net_options['hidden'] == (32, 16)
  assert found.free.keys() == {'int8', 'multi-hash'}
  assert [rung.name for rung in ladder('net').rungs][1:] == ['without crosses', 'smaller net']


def test_a_net_without_hidden_units_cannot_be_made_smaller(ladder, monkeypatch, capsys):
  made = recipes.settings.Settings()
  monkeypatch.setattr(type(made), 'net_options', lambda self, net: {})
  with pytest.raises(ValueError, match='no one MLP'):
    ladder('net')
  base = recipes.Base(synthetic.Synthetic(synthetic.small()))
  assert search.applicable(['net:2', 'multi_hash:4', 'dims:1'], base) == ['multi_hash:4', 'dims:1']
  assert 'net:2 is left out' in capsys.readouterr().out


def test_without_crosses_nothing_can_replace_them(ladder):
  with pytest.raises(ValueError, match='leave it out'):
    ladder('relation', crosses=False)


def test_the_default_strength_of_the_relational_network_is_the_nets_own(ladder):
  trials = [
    ladder(*words).rungs[1].trial(None, None) for words in (['relation'], ['relation:attentive'])
  ]
  assert trials[0].net_options.get('mode') is None
  assert models.NETS['relation_dcn']().interaction.mode == recipes.STRENGTHS['relation']
  assert trials[1].net_options['mode'] == 'attentive'
