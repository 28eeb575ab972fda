"""The random split's hash, on row numbers that no test file has."""

import ibis
import numpy as np
import pyarrow as pa
import pytest

from ctr_jax.data import engine, splits
from tests.data import reference


@pytest.mark.parametrize('seed', [0, 2018, 2**40 + 1])
def test_hash_is_the_same_in_the_engine_and_in_python(tmp_path, seed):
  fractions = (0.8, 0.1, 0.1)
  rows = [*range(3000), 2**31 + 5, 2**32 - 1, 2**32, 2**40 + 12345, 2**45]
  con = engine.connect(tmp_path, '1GB')
  with engine.quiet():
    con.create_table('rows', ibis.memtable(pa.table({'row': rows})))
    mixed = splits._mix(con, con.table('rows'), seed)
    part = splits._at_random(mixed.mixed, fractions)
    found = [
      row['part'] for row in engine.rows(con, mixed.select('row', part=part).order_by('row'))
    ]
  con.con.close()
  assert found == [reference.random_part(seed, row, fractions) for row in rows]


def test_parts_are_independent_of_the_order():
  parts = np.array([reference.random_part(1, row, (0.8, 0.1, 0.1)) for row in range(50_000)])
  train = (parts == 0).astype(float)
  np.testing.assert_allclose(np.bincount(parts) / parts.size, (0.8, 0.1, 0.1), atol=0.006)
  for lag in (1, 2, 3, 7, 64, 1000):
    # Standard deviation 1 / sqrt(50,000) = 0.0045.
    assert abs(np.corrcoef(train[lag:], train[:-lag])[0, 1]) < 0.02, lag
  other = np.array([reference.random_part(2, row, (0.8, 0.1, 0.1)) for row in range(50_000)])
  assert abs(np.corrcoef(train, other == 0)[0, 1]) < 0.02
