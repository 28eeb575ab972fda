"""Results that fill up, by rows and by seeds."""

import copy
import json

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import common, crossed, incremental, measure, merging


def test_results_fill_up(tmp_path, monkeypatch):
  flags.FLAGS.mark_as_parsed()
  monkeypatch.setattr(common, 'RESULTS', tmp_path)

  def result(*rows):
    named = [{'name': n, 'seeds': list(range(k)), 'mark': mark} for n, k, mark in rows]
    return {'data_checksum': 'x', 'command': 'c', 'rows': named}

  first = merging.merged(result(('a', 1, 0), ('b', 5, 0)), 'r')
  (tmp_path / 'r.json').write_text(json.dumps(first))
  again = merging.merged(result(('b', 1, 1), ('c', 1, 1), ('a', 2, 1)), 'r')
  # More seeds take the place of fewer, never the other way round; the order stays.
  assert [(x['name'], len(x['seeds']), x['mark']) for x in again['rows']] == [
    ('a', 2, 1), ('b', 5, 0), ('c', 1, 1),
  ]  # fmt: skip
  for other in ({'data_checksum': 'y'}, {'base': 'another net'}):
    other = result(('a', 1, 2)) | other
    assert len(merging.merged(other, 'r')['rows']) == 1
    with flagsaver.flagsaver(save_result=True), pytest.raises(ValueError, match='other data or'):
      merging.merged(other, 'r')


@pytest.mark.parametrize('flag', ['core_rows', crossed.PAIRS.name, incremental._THRESHOLD.name])
def test_rows_of_other_flags_are_not_merged(tmp_path, monkeypatch, flag):
  flags.FLAGS.mark_as_parsed()
  monkeypatch.setattr(common, 'RESULTS', tmp_path)
  path = tmp_path / 'r.json'

  def result(name):
    rows = [{'name': name, 'seeds': [0]}]
    return merging.merged({'data_checksum': 'x', 'command': 'c', 'rows': rows}, 'r')

  with flagsaver.flagsaver(save_result=True):
    path.write_text(json.dumps(result('a')))  # Without a word of flags, as results of old.
    with flagsaver.flagsaver(**{flag: 3}):
      with pytest.raises(ValueError, match=r'other data or settings .flags: by default'):
        result('b')
      path.unlink()
      path.write_text(json.dumps(result('a')))
      assert [row['name'] for row in result('b')['rows']] == ['a', 'b']
    with pytest.raises(ValueError, match=f"flags: .'{flag}': 3"):
      result('b')


def _trained(seed):
  """What is measured of a seed: everything differs from seed to seed that may."""
  return {
    'seed': seed,
    'test': {'auc': 0.5 + seed / 10, 'log_loss': 0.1 * seed},
    'epochs': seed + 1,
    'train_seconds': 1.5 * seed,
    'bytes': 100 + seed // 2,
    'net_parameters': 7,
    'bytes_by_table': {'user': 100},
  }


def _row(*seeds, **more):
  return measure.row('a', [_trained(s) for s in seeds]) | {'command': f'c{seeds[0]}'} | more


@pytest.mark.parametrize(
  ('before', 'again'), [((0, 1), (2, 3, 4)), ((2, 3), (0, 1)), ((0, 1, 2), (2, 3)), ((0,), (1,))]
)
def test_seeds_join_the_row_that_is_there(before, again):
  one, other = _row(*before), _row(*again)
  kept = copy.deepcopy((one, other))
  found = merging.joined(one, other)
  # As if all had been trained by one command.
  whole = _row(*sorted({*before, *again}), command=f'c{before[0]} && c{again[0]}')
  assert found == whole
  assert list(found)[:3] == list(whole)[:3]
  assert (one, other) == kept


def test_a_seed_that_both_have_is_the_last_measured():
  again = _row(1, 2)
  again['test']['auc'] = [0.9, 0.8]
  assert merging.joined(_row(0, 1), again)['test']['auc'] == [0.5, 0.9, 0.8]


def test_points_of_curves_are_joined_by_seed():
  def row(*seeds):
    curve = [
      {'k': k, 'auc': [k + s / 10 for s in seeds], 'kept': [[s] * k for s in seeds]} for k in (1, 2)
    ]
    within = [{'cost': 'bytes', 'part': 0.1, 'auc': [s * 1.0 for s in seeds]}]
    shared = {'name': 'a', 'command': 'c', 'seeds': list(seeds), 'pairs': ['u-i', 'i-u']}
    return shared | {'curve': curve, 'within': within, 'aukc': [float(s) for s in seeds]}

  assert merging.joined(row(0, 1), row(2, 3)) == row(0, 1, 2, 3) | {'command': 'c && c'}


def test_seeds_of_another_model_are_refused():
  with pytest.raises(ValueError, match=r"Row 'a' of seeds \[2\].*\[0, 1\]: pairs differ"):
    merging.joined(_row(0, 1, pairs=['x']), _row(2, pairs=['y']))
  with pytest.raises(ValueError, match='limit differ'):
    merging.joined(_row(0, 1), _row(2, limit=3))


def test_results_are_joined_with_those_of_another_machine(tmp_path, monkeypatch):
  flags.FLAGS.mark_as_parsed()
  monkeypatch.setattr(common, 'RESULTS', tmp_path)
  shared = {'data_checksum': 'x', 'command': 'c'}
  (tmp_path / 'r.json').write_text(json.dumps(shared | {'rows': [_row(0, 1)]}))
  (found,) = merging.merged(shared | {'rows': [_row(2)]}, 'r')['rows']
  assert found == _row(0, 1, 2, command='c0 && c2')


@pytest.mark.parametrize('flag', [common.EPOCHS.name, common.BATCH_SIZE.name])
def test_seeds_of_another_schedule_are_not_joined(tmp_path, monkeypatch, flag):
  """Where a result does not say what its rows were trained by, as `bars_frappe`'s."""
  flags.FLAGS.mark_as_parsed()
  monkeypatch.setattr(common, 'RESULTS', tmp_path)
  shared, more = {'data_checksum': 'x', 'command': 'c'}, ('epochs', 'batch_size')
  (tmp_path / 'r.json').write_text(json.dumps(shared | {'rows': [_row(0, 1)]}))
  with flagsaver.flagsaver(save_result=True):
    assert len(merging.merged(shared | {'rows': [_row(2)]}, 'r', more)['rows'][0]['seeds']) == 3
    with flagsaver.flagsaver(**{flag: 3}), pytest.raises(ValueError, match='other data or'):
      merging.merged(shared | {'rows': [_row(2)]}, 'r', more)


def test_a_look_that_is_not_saved_is_not_refused(tmp_path, monkeypatch):
  flags.FLAGS.mark_as_parsed()
  monkeypatch.setattr(common, 'RESULTS', tmp_path)
  shared = {'data_checksum': 'x', 'command': 'c'}
  (tmp_path / 'r.json').write_text(json.dumps(shared | {'rows': [_row(0, 1)]}))
  look = shared | {'rows': [_row(2, limit=3)]}
  assert merging.merged(look, 'r')['rows'] == look['rows']
  with flagsaver.flagsaver(save_result=True), pytest.raises(ValueError, match='limit differ'):
    merging.merged(look, 'r')


def test_columns_that_one_of_two_lacks_are_named():
  less = _row(2)
  del less['bytes']
  with pytest.raises(ValueError, match='bytes differ'):
    merging.joined(_row(0, 1), less)
  more = _row(2)
  more['test']['gauc'] = [0.5]
  for one, other in ((_row(0, 1), more), (more, _row(0, 1))):
    with pytest.raises(ValueError, match='test differ'):
      merging.joined(one, other)
