"""Ranks, ties, cut-offs, missing and unseen values, on data small enough to see through."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest

from ctr_jax.data import encode, engine, vocabulary
from ctr_jax.data.schema import Feature, Schema


def run(folder, columns, features, heldout=(), **options):
  """Encodes columns given as {name: cells}; `heldout` rows are test."""
  names = list(columns)
  lines = [','.join(cells) for cells in zip(*columns.values(), strict=True)]
  for name, part in (('train', lines), ('test', heldout)):
    text = '\n'.join([','.join(('label', *names)), *(f'1,{line}' for line in part), ''])
    (folder / f'{name}.csv').write_text(text)
  files = {'train': 'train.csv'} | ({'test': 'test.csv'} if heldout else {})
  schema = Schema('s', features, files=files, **options)
  return encode.encode(schema, folder, folder / 'out', progress=False)


def rows_of(source, name, split='train'):
  return source.read(split, [name], 0, source.num_samples(split))[name].tolist()


def test_ranks_ties_and_missing(tmp_path):
  cells = ['b', 'a', 'c', 'c', 'Z', 'ä', '', '10', '9', 'c']
  source = run(tmp_path, {'x': cells}, (Feature('x'),))
  values, counts = source.vocabulary('x')
  # Most frequent first; ties by bytes: digits, capitals, letters, then what is not ASCII.
  assert values == ['c', '10', '9', 'Z', 'a', 'b', 'ä']
  assert counts.tolist() == [3, 1, 1, 1, 1, 1, 1]
  assert rows_of(source, 'x') == [6, 5, 1, 1, 4, 7, 0, 2, 3, 1]
  assert source.rows == {'x': 8}


def test_values_are_text(tmp_path):
  source = run(tmp_path, {'x': ['1', '01', '1.0', ' 1', 'NULL', 'nan', '1']}, (Feature('x'),))
  assert sorted(source.vocabulary('x')[0]) == [' 1', '01', '1', '1.0', 'NULL', 'nan']


def test_min_count_and_unseen(tmp_path):
  cells = ['a', 'a', 'a', 'b', 'b', 'c']
  source = run(tmp_path, {'x': cells}, (Feature('x', min_count=2),), heldout=('b', 'd', ''))
  assert rows_of(source, 'x') == [1, 1, 1, 2, 2, 0]
  assert rows_of(source, 'x', 'test') == [2, 0, 0]
  assert source.manifest['tables']['x'] == {
    'rows': 3,
    'kept': 2,
    'cut': 1,
    'coverage': pytest.approx(5 / 6),
    'kind': 'id',
  }


def test_shared_table_is_counted_together(tmp_path):
  features = (Feature('item'), Feature('previous', table='item'))
  columns = {'item': ['a', 'b', 'c'], 'previous': ['', 'c', 'c']}
  source = run(tmp_path, columns, features)
  assert source.vocabulary('item')[0] == ['c', 'a', 'b']
  assert rows_of(source, 'previous') == [0, 1, 1]
  assert rows_of(source, 'item') == [2, 3, 1]
  assert source.rows == {'item': 4}


def test_id_and_ids_may_share(tmp_path):
  features = (Feature('item', min_count=2), Feature('history', 'ids', table='item', min_count=2))
  columns = {'item': ['a', 'b', 'a'], 'history': ['', 'a|c', 'c|b|a']}
  source = run(tmp_path, columns, features)
  assert source.vocabulary('item')[0] == ['a', 'b', 'c']
  assert rows_of(source, 'history') == [[0, -1, -1], [1, 3, -1], [3, 2, 1]]


def test_ids(tmp_path):
  cells = ['a|b|a', '', '|', 'b||c', 'd']
  feature = Feature('x', 'ids', width=2, min_count=2)
  source = run(tmp_path, {'x': cells}, (feature,), heldout=('e|a|a',))
  # Elements are counted each time; empty ones do not exist; what is beyond the width is cut.
  assert source.vocabulary('x')[0] == ['a', 'b']
  assert rows_of(source, 'x') == [[1, 2], [0, -1], [0, -1], [2, 0], [0, -1]]
  assert rows_of(source, 'x', 'test') == [[0, 1]]


def test_width_is_the_longest_of_train(tmp_path):
  source = run(tmp_path, {'x': ['a', 'a|b|c']}, (Feature('x', 'ids'),), heldout=('a|b|c|a',))
  assert source.width('x') == 3
  assert rows_of(source, 'x', 'test') == [[1, 2, 3]]
  many = '|'.join(map(str, range(100)))
  (tmp_path / 'wide').mkdir()
  assert run(tmp_path / 'wide', {'x': [many]}, (Feature('x', 'ids'),)).width('x') == 64


def test_buckets_are_ranked_like_ids(tmp_path):
  cells = ['100', '101', '3', '0', '', '-7', '102']
  source = run(tmp_path, {'x': cells}, (Feature('x', 'bucket'),), heldout=('99', '1e9', 'nan'))
  bucket = math.floor(math.log(100) ** 2)
  assert source.vocabulary('x')[0] == [str(bucket), '-10', '-3', '1']
  assert rows_of(source, 'x') == [1, 1, 4, 3, 0, 2, 1]
  assert rows_of(source, 'x', 'test') == [1, 0, 0]


def test_shared_buckets(tmp_path):
  features = (Feature('x', 'bucket'), Feature('y', 'bucket', table='x'))
  source = run(tmp_path, {'x': ['0', '1'], 'y': ['1', '']}, features)
  assert rows_of(source, 'x') == [2, 1]
  assert rows_of(source, 'y') == [1, 0]


def test_columns_without_a_single_value(tmp_path):
  features = (
    Feature('a'),
    Feature('b', 'ids'),
    Feature('c', 'bucket'),
    Feature('d', 'numeric'),
    Feature('e', 'hash', buckets=5),
  )
  source = run(tmp_path, {name: ['', ''] for name in 'abcde'}, features, heldout=('x,y,1,2,z',))
  assert source.rows == {'a': 1, 'b': 1, 'c': 1, 'd': 2, 'e': 6}
  assert rows_of(source, 'a') == [0, 0]
  assert rows_of(source, 'b') == [[0], [0]]
  assert rows_of(source, 'c') == [0, 0]
  assert np.isnan(rows_of(source, 'd')).all()
  assert rows_of(source, 'e') == [0, 0]
  assert rows_of(source, 'a', 'test') == [0]
  assert rows_of(source, 'd', 'test') == [2.0]


@pytest.mark.parametrize('sizes', [(25,), (10, 10, 5), (1, 9, 0, 15), (24, 1)])
def test_groups_of_rows_do_not_depend_on_the_engines_batches(monkeypatch, sizes):
  monkeypatch.setattr(engine, 'BATCH', 10)
  ends = np.cumsum((0, *sizes))
  batches = [
    pa.record_batch({'value': pa.array(range(a, b), pa.int64())})
    for a, b in itertools.pairwise(ends)
  ]
  parts = [part.column(0).to_pylist() for part in vocabulary.equal_parts(batches)]
  assert parts == [[*range(10)], [*range(10, 20)], [*range(20, 25)]]
