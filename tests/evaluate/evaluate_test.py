"""What scores are grouped by."""

import numpy as np
import pytest

from ctr_jax.evaluate import evaluate, metrics


def test_groups_of_a_numeric_feature_are_its_values():
  nan, groups = np.nan, np.int32([7, 0, 0, 2])
  assert evaluate._numbered(groups) is groups
  found = evaluate._numbered(np.float32([0.0, nan, -1.5, 0.0, nan, -1.5]))
  np.testing.assert_array_equal(found, [2, 0, 1, 2, 0, 1])
  assert found.dtype == np.int32
  summary = metrics.summary([1, 1, 0, 0, 0, 1], [1.0, 0.0, 0.5, 0.5, 9.0, 0.0], found)
  assert (summary['gauc'], summary['gauc_share']) == (0.5, pytest.approx(4 / 6))
