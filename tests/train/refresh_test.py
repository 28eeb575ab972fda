"""A window that slides: pairs counted once, vectors that go on from the last ones."""

import dataclasses

import jax
import numpy as np
import pytest

from ctr_jax.data import days as days_lib
from ctr_jax.data import drift, pairs
from ctr_jax.graphs import graph, pcf_gnn
from ctr_jax.train import pretrain, refresh

SOURCE = drift.Drift(drift.small(day=600))
STREAM = days_lib.by_column(SOURCE)
TABLES = {name: name for name in SOURCE.schema.names}
CONFIG = pretrain.Config('gnn', dim=3, layers=1, steps=40, every=5, l2=3.0)


def of(first, last):
  parts = []
  for day in range(first, last + 1):
    read = STREAM.window(day, day).read('train', ('user', 'category', 'label'), 0, 600)
    parts.append(pairs.counted('user', 'category', read['user'], read['category'], read['label']))
  return parts


def graph_of(first, last, rows=SOURCE.rows):
  return graph.build([pairs.merged(of(first, last))], TABLES, rows, 0.3)


def test_days_counted_once_are_the_window_counted_at_once():
  read = STREAM.window(1, 3).read('train', ('user', 'category', 'label'), 0, 1800)
  want = {}
  for u, v, y in zip(*(read[n].tolist() for n in ('user', 'category', 'label')), strict=True):
    if u and v:
      clicks, count = want.get((u, v), (0, 0))
      want[u, v] = clicks + int(y), count + 1
  found = pairs.merged(of(1, 3))
  keys = list(zip(found.u.tolist(), found.v.tolist(), strict=True))
  assert keys == sorted(want)
  assert [want[k] for k in keys] == list(
    zip(found.clicks.tolist(), found.count.tolist(), strict=True)
  )
  assert found.u.dtype == np.int32 and found.count.dtype == np.int64
  with pytest.raises(ValueError, match='same two features'):
    pairs.merged([found, found._replace(first='item')])
  with pytest.raises(ValueError, match='at least one part'):
    pairs.merged([])


@pytest.fixture(scope='module')
def before(tmp_path_factory):
  return pretrain.pretrain(graph_of(0, 2), CONFIG, tmp_path_factory.mktemp('before'), 0)


def test_a_refreshed_window_starts_from_what_was_learned(before, tmp_path):
  now = graph_of(1, 3)
  start = refresh.carried(before, now, CONFIG, 0)
  learned = {'encoder': before.encoder, 'cross': before.cross}
  jax.tree.map(np.testing.assert_array_equal, start, learned)
  warm = refresh.refresh(before, now, CONFIG, tmp_path / 'warm', 0)
  cold = pretrain.pretrain(now, CONFIG, tmp_path / 'cold', 0)
  # It is at once better on held-out pairs than what starts from nothing is by then.
  assert warm.history[0]['unseen'] < cold.history[0]['unseen']
  assert warm.best['unseen'] <= cold.best['unseen'] + 0.01
  again = refresh.refresh(before, now, CONFIG, tmp_path / 'warm', 0)  # Opened, not trained.
  np.testing.assert_array_equal(again.vectors, warm.vectors)
  jax.tree.map(np.testing.assert_array_equal, again.encoder, warm.encoder)
  with pytest.raises(ValueError, match='another graph or method'):
    pretrain.pretrain(now, CONFIG, tmp_path / 'warm', 0)


def test_nodes_are_matched_by_value(before):
  rows = {**SOURCE.rows, 'user': SOURCE.rows['user'] + 5}
  now, old = graph_of(1, 3, rows), SOURCE.rows['user']
  moved = np.full(rows['user'], -1, np.int32)
  moved[[0, 7, old + 2]] = [0, 3, 7]  # Value of row 3 is now in row 7, and that in a new one.
  start = refresh.carried(before, now, CONFIG, 0, {'user': moved})
  fresh = pcf_gnn.init(pcf_gnn.model('gnn', now.nodes, 1, 3, 1), jax.random.key(0))
  for name in ('bias', 'embedding'):
    was, found = before.encoder[name], start['encoder'][name]
    at, then = now.offsets['user'], before.graph.offsets['user']
    for row, from_row in ((0, 0), (7, 3), (old + 2, 7)):
      np.testing.assert_array_equal(found[at + row], was[then + from_row])
    np.testing.assert_array_equal(found[at + 3], np.asarray(fresh['encoder'][name])[at + 3])
    at, then = now.offsets['category'], before.graph.offsets['category']
    np.testing.assert_array_equal(found[at : at + 11], was[then : then + 11])
  half = refresh.carried(before, now, CONFIG, 0, {'user': moved}, keep=0.5)['encoder']['embedding']
  fresh, full = fresh['encoder']['embedding'], start['encoder']['embedding']
  np.testing.assert_allclose(half, (np.asarray(fresh) + full) / 2, rtol=1e-6)


@pytest.mark.parametrize('order', ['in place', 'moved'])
def test_pairs_stay_held_out_where_tables_grow_and_rows_move(before, order, tmp_path, monkeypatch):
  old, (counted,) = SOURCE.rows['user'], of(0, 0)
  row = np.arange(old) if order == 'in place' else (np.arange(old) * 7 + 3) % (old + 5)
  moved = np.full(old + 5, -1)  # The rows of category are other nodes then.
  moved[row] = np.arange(old)
  assert len(set(row.tolist())) == old
  counted = counted._replace(u=row[counted.u].astype(np.int32))
  now = graph.build([counted], TABLES, {**SOURCE.rows, 'user': old + 5}, 0.3)
  want = graph.held_out(graph_of(0, 0), 0.3, 0)
  assert 0 < want.sum() < len(want)

  def untrained(given, *rest):
    np.testing.assert_array_equal(graph.held_out(given, 0.3, 0), want)
    encoder = pcf_gnn.init(pcf_gnn.model('gnn', given.nodes, 1, 3, 1), jax.random.key(0))['encoder']
    return before._replace(graph=given._replace(graph=None), encoder=encoder)

  monkeypatch.setattr(pretrain, 'pretrain', untrained)
  one = refresh.refresh(before, now, CONFIG, tmp_path, 0, moved={'user': moved})
  refresh.refresh(one, now, CONFIG, tmp_path, 0)  # And so from there.


def test_what_cannot_go_on_is_refused(before):
  now = graph_of(1, 3)
  with pytest.raises(ValueError, match='same pairs in the same order'):
    refresh.carried(before, now._replace(relations=(('item', 'category'),)), CONFIG, 0)
  with pytest.raises(ValueError, match='width and the layers'):
    refresh.carried(before, now, dataclasses.replace(CONFIG, dim=4), 0)
  with pytest.raises(ValueError, match='not made by'):
    refresh.carried(before, now, dataclasses.replace(CONFIG, method='dot'), 0)
  with pytest.raises(ValueError, match='one old row in'):
    refresh.carried(before, now, CONFIG, 0, {'user': np.array([0])})
  with pytest.raises(ValueError, match='an old row twice'):  # 0 for new values, not -1.
    refresh.carried(before, now, CONFIG, 0, {'user': np.zeros(SOURCE.rows['user'], int)})
  with pytest.raises(ValueError, match='which is no table'):
    refresh.carried(before, now, CONFIG, 0, {'page': np.array([0])})
  with pytest.raises(ValueError, match='was not kept'):
    refresh.carried(before._replace(encoder=None), now, CONFIG, 0)
