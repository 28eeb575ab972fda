"""Counts of reads, against a loop over samples."""

import types

import numpy as np

from ctr_jax.data import schema, statistics, synthetic


def test_counts_are_those_of_a_loop(monkeypatch):
  monkeypatch.setattr(statistics, '_CHUNK', 700)  # So that chunks and a last partial one add up.
  source = synthetic.Synthetic(synthetic.small())
  found = statistics.counts(source, 'valid')
  total = source.num_samples('valid')
  want = {table: np.zeros(rows, np.int64) for table, rows in source.rows.items()}
  for feature in source.schema.features:
    column = source.read('valid', [feature.name], 0, total)[feature.name]
    for cell in column:
      if feature.kind == 'numeric':
        want[feature.table][0 if np.isnan(cell) else 1] += 1
      else:
        for value in np.atleast_1d(cell):
          if value >= 0:
            want[feature.table][value] += 1
  assert found.keys() == want.keys()
  for table, reads in want.items():
    np.testing.assert_array_equal(found[table], reads)


def test_an_empty_list_reads_row_0_as_a_model_does():
  lists = np.int32([[3, 2], [-1, -1], [-1, -1], [3, -1]])
  features = (schema.Feature('tags', 'ids', separator='|', width=2),)
  source = types.SimpleNamespace(
    rows={'tags': 4}, schema=schema.Schema('lists', features),
    num_samples=lambda split: len(lists),
    read=lambda split, names, start, stop: {'tags': lists[start:stop]},
  )  # fmt: skip
  np.testing.assert_array_equal(statistics.counts(source)['tags'], [2, 0, 1, 2])
