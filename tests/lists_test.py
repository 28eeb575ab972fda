"""Lists without padding: the same means, in arrays whose sizes settle."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_jax import lists, predict
from tests import predict_test


def column(lengths, width, seed=0):
  """Lists of these lengths; row numbers from 0."""
  ids = np.random.default_rng(seed).integers(0, 7, (len(lengths), width), np.int32)
  return np.where(np.arange(width) < np.asarray(lengths)[:, None], ids, -1)


def means(table, padded):
  """By the book."""
  return np.stack([np.mean([table[i] for i in row if i >= 0] or [table[0]], 0) for row in padded])


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.lists(st.integers(0, 6), min_size=1, max_size=20), st.integers(0, 99))
def test_means_are_those_of_padded_lists(width, lengths, seed):
  padded = column(np.minimum(lengths, width), width, seed)
  table = np.random.default_rng(seed).normal(size=(7, 3)).astype(np.float32)
  before = padded.copy()
  found = lists.Flat()('tags', padded)
  np.testing.assert_array_equal(padded, before)
  full = np.maximum((padded >= 0).sum(axis=1), 1).sum()
  assert (found is None) == (2 * full > padded.size)
  if found:
    ids, where = found
    assert ids.dtype == where.sample.dtype == np.int32
    assert (np.diff(where.sample) >= 0).all()
    pooled = lists.pool(table[ids], where)
    np.testing.assert_allclose(pooled, means(table, padded), rtol=1e-5, atol=1e-6)


def test_sizes_have_room_and_never_shrink():
  flat = lists.Flat()

  def reads(extra):
    return flat('tags', column([1 + (i < extra) for i in range(64)], 8))[0].size

  assert reads(0) == 80  # Steps of 16, and at least 4 to spare.
  assert [reads(n) for n in (16, 17, 0, 40)] == [80, 96, 96, 112]
  assert flat('tags', column([8] * 64, 8))[0].size == 64 * 8  # All that there can be.
  assert flat('other', column([8] * 64, 8)) is None
  assert flat('other', column([1] * 64, 8)) is None  # As it was in the first batch.


def test_a_net_sees_the_same_vectors():
  model, full, data = predict_test.build(), predict_test.tables(), predict_test.batch()
  data['history'] = np.int32([[8, -1, -1], [3, -1, -1], [-1, -1, -1]])

  def vectors(flat):
    index, values = predict.inputs(model, data, flat=flat)
    assert isinstance(values['history'], lists.Lists) == (flat is not None)
    return predict.vectors(model, predict.gather_all(model, full, index), values)

  np.testing.assert_allclose(vectors(lists.Flat()), vectors(None), rtol=1e-6)
  assert jax.default_backend() == 'cpu'
  assert isinstance(predict.scorer(model).prepare(data).values['history'], lists.Lists)


@pytest.mark.parametrize('id_', [-2, 9])
def test_an_id_out_of_range_is_an_error_in_words(id_):
  data = predict_test.batch() | {'history': np.int32([[8, -1, -1], [3, -1, -1], [id_, -1, -1]])}
  with pytest.raises(ValueError, match=f"'history': id {id_} is outside its table 'item'"):
    predict.inputs(predict_test.build(), data, flat=lists.Flat())
