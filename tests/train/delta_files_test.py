"""Deltas on disk: whole, in order, or refused by name; an interrupted one is not there."""

import re
import shutil

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax.train import delta_files
from tests.train import snapshots

BASE = delta_files.full(10, delta_files.mark_of({'net': np.arange(3)}))


def rows_of(draw, count=4):
  rows = np.sort(draw.choice(50, count, replace=False)).astype(np.int32)
  return delta_files.Rows(
    rows,
    draw.normal(size=(count, 3)).astype(ml_dtypes.bfloat16),
    {'sum': draw.normal(size=count).astype(np.float32)},
  )


def content(step):
  draw = np.random.default_rng(step)
  parts = [(f'item/way_{j}', rows_of(draw, j + step % 3 + 1)) for j in range(2)]
  whole = {'step': np.int32(step), 'net/bias': draw.normal(size=5), 'net/empty': np.zeros((0, 3))}
  return parts, {name: np.asarray(x) for name, x in whole.items()}


def append(folder, before, step):
  parts, whole = content(step)
  return delta_files.write(folder, step, before, {'step': step}, parts, whole)


def written(folder, steps=(13, 20, 21, 30)):
  before = BASE
  for step in steps:
    before = append(folder, before, step)
  return before


def check(delta):
  parts, whole = content(delta.manifest['to'])
  assert delta.manifest['position'] == {'step': delta.manifest['to']}
  for (path, found), (name, want) in zip(delta_files.rows(delta), parts, strict=True):
    assert path == name
    alike(found.rows, want.rows)
    alike(found.values, want.values)
    assert found.slots.keys() == want.slots.keys()
    alike(found.slots['sum'], want.slots['sum'])
  found = delta_files.whole(delta)
  assert found.keys() == whole.keys()
  for name in whole:
    alike(found[name], whole[name])


def alike(x, y):
  assert x.dtype == y.dtype
  assert x.shape == y.shape
  assert x.tobytes() == y.tobytes()


@pytest.fixture
def folder(tmp_path):
  written(tmp_path / 'deltas')
  return tmp_path / 'deltas'


def refused(folder, *words, base=BASE):
  with pytest.raises((ValueError, FileNotFoundError)) as error:
    delta_files.chain(folder, base)
  for word in words:
    assert str(word) in str(error.value), error.value
  assert f'remove all of {folder}:' in str(error.value)


def test_a_chain_is_read_as_it_was_written(folder):
  deltas = delta_files.chain(folder, BASE)
  assert [d.folder.name for d in deltas] == [
    'delta-10-13', 'delta-13-20', 'delta-20-21', 'delta-21-30'
  ]  # fmt: skip
  for delta in deltas:
    check(delta)
  assert delta_files.newest_step(folder) == 30
  moved = delta_files.moved(deltas[1:])
  for path, rows in moved.items():
    found = [dict(content(step)[0])[path].rows for step in (20, 21, 30)]
    alike(rows, np.array(sorted(set(np.concatenate(found).tolist())), np.int32))
  assert sorted(moved) == ['item/way_0', 'item/way_1']


def test_every_file_truncated_flipped_removed_or_exchanged_is_named(folder):
  paths = sorted(p for p in folder.rglob('*') if p.is_file())
  assert len(paths) == 4 * 4 + 1
  for number, path in enumerate(paths):
    data = path.read_bytes()
    named = path.parent if path.name == 'newest.json' else path
    path.write_bytes(data[:-1])
    refused(folder, path)
    place = number * 7919 % len(data)
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    refused(folder, named)
    if path.name != 'newest.json':
      path.unlink()
      refused(folder, path)
      path.write_bytes(b'')
      refused(folder, path)
    path.write_bytes(data)
    other = folder / ('delta-20-21' if 'delta-13-20' in str(path) else 'delta-13-20')
    other = other / path.name if path.parent.name != 'item' else other / 'rows/item' / path.name
    if other.exists() and other.read_bytes() != data:
      path.write_bytes(other.read_bytes())
      refused(folder, path if path.name != 'manifest.json' else path.parent)
      path.write_bytes(data)
  extra = folder / 'delta-13-20' / 'rows' / 'extra.bin'
  extra.write_bytes(b'')
  refused(folder, extra)
  extra.unlink()
  assert len(delta_files.chain(folder, BASE)) == 4


@pytest.mark.parametrize('name', ['delta-10-13', 'delta-13-20', 'delta-20-21', 'delta-21-30'])
def test_a_delta_that_is_missing_is_named(folder, name):
  shutil.rmtree(folder / name)
  refused(folder, f'{folder / name} is missing')


def test_deltas_that_were_exchanged_are_named(folder):
  (folder / 'delta-13-20').rename(folder / 'kept')
  (folder / 'delta-20-21').rename(folder / 'delta-13-20')
  (folder / 'kept').rename(folder / 'delta-20-21')
  refused(folder, folder / 'delta-13-20', 'it holds delta-20-21')


def test_a_delta_of_another_run_is_named(folder, tmp_path):
  other = tmp_path / 'other'
  before = delta_files.full(10, 'of another run')
  append(other, append(other, before, 13), 20)
  refused(folder, folder / 'delta-10-13', 'follows another full-10', base=before)
  shutil.rmtree(folder / 'delta-13-20')
  shutil.copytree(other / 'delta-13-20', folder / 'delta-13-20')
  refused(folder, folder / 'delta-13-20', 'follows another delta-10-13')
  late = delta_files.full(12, BASE.mark)
  refused(folder, folder / 'delta-10-13', 'follows full-10', base=late)


def test_what_a_full_checkpoint_has_made_superfluous_goes(folder):
  assert [d.folder.name for d in delta_files.chain(folder, delta_files.full(30, 'any'))] == []
  (folder / '.delta-30-40.partial-x').mkdir()
  delta_files.drop(folder, 13)
  assert sorted(p.name for p in folder.iterdir()) == [
    'delta-13-20', 'delta-20-21', 'delta-21-30', 'newest.json'
  ]  # fmt: skip
  delta_files.drop(folder, 30)
  assert not folder.exists()
  assert delta_files.newest_step(folder) == -1


def test_interrupted_at_every_write_a_delta_is_whole_or_not_there(tmp_path, monkeypatch):
  folder = tmp_path / 'deltas'
  before = written(folder, [13])
  with snapshots.taken(folder, tmp_path / 'copies', monkeypatch) as copies:
    append(folder, before, 40)
  copies.append(folder)
  counts = []
  for copy in copies:
    deltas = delta_files.chain(copy, BASE)
    counts.append(len(deltas))
    check(deltas[-1])
    if len(deltas) == 1:  # What is left of it is in nobody's way.
      append(copy, before, 40)
      check(delta_files.chain(copy, BASE)[-1])
  assert counts == sorted(counts)
  assert counts.count(1) > 15
  assert counts.count(2) >= 3
  delta_files.drop(copies[3], 40)
  assert not copies[3].exists()


def test_interrupted_at_every_removal_what_is_left_is_in_nobodys_way(tmp_path, monkeypatch):
  folder = tmp_path / 'deltas'
  written(folder, [13, 30])
  with snapshots.taken(folder, tmp_path / 'copies', monkeypatch) as copies:
    delta_files.drop(folder, 30)
  assert len(copies) > 10
  for copy in copies:
    base = delta_files.full(30, 'new')
    assert delta_files.chain(copy, base) == []
    append(copy, base, 31)
    assert re.findall(r'\d+', delta_files.chain(copy, base)[0].folder.name) == ['30', '31']
    delta_files.drop(copy, 31)
    assert not copy.exists()


@given(st.data())
def test_rows_of_deltas_in_order_are_the_table(tmp_path_factory, data):
  folder = tmp_path_factory.mktemp('chain') / 'deltas'
  draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
  table, restored = np.zeros((50, 3), ml_dtypes.bfloat16), np.zeros((50, 3), ml_dtypes.bfloat16)
  before = BASE
  for step in range(11, 11 + data.draw(st.integers(1, 5))):
    found = rows_of(draw, data.draw(st.integers(1, 50)))
    table[found.rows] = found.values
    before = delta_files.write(folder, step, before, {}, [('t', found)], {})
  for delta in delta_files.chain(folder, BASE):
    for _, found in delta_files.rows(delta):
      restored[found.rows] = found.values
  alike(restored, table)
