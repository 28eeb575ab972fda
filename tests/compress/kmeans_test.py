"""k-means: what Lloyd's algorithm promises, and scikit-learn from the same start."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.cluster
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax.compress import kmeans


def blobs(n, dims, groups, seed=0, spread=0.3):
  rng = np.random.default_rng(seed)
  centres = rng.normal(size=(groups, dims))
  return (centres[rng.integers(0, groups, n)] + spread * rng.normal(size=(n, dims))).astype(
    np.float32
  )


def inertia(points, codes, centres):
  gaps = np.asarray(points, np.float64) - np.asarray(centres, np.float64)[np.asarray(codes)]
  return float(np.square(gaps).sum())


@pytest.mark.parametrize('seed', range(3))
def test_as_good_as_scikit_learn_from_the_same_start(seed):
  points = blobs(500, 4, 12, seed)
  first = np.asarray(kmeans.start(jnp.asarray(points), 16))
  codes, centres = kmeans.lloyd(jnp.asarray(points), jnp.asarray(first), 20)
  peer = sklearn.cluster.KMeans(16, init=first, n_init=1, max_iter=20, tol=0, algorithm='lloyd')
  with warnings.catch_warnings(action='ignore'):  # When 20 iterations are not enough.
    peer.fit(points)
  assert inertia(points, codes, centres) <= 1.01 * peer.inertia_


def test_starts_are_as_good_as_scikit_learns():
  # Its plain k-means++; by default it takes the best of several draws, several times the work.
  def error(points, centres):
    gaps = points[:, None, :] - np.asarray(centres)[None, :, :]
    return np.square(gaps).sum(axis=-1).min(axis=1).sum()

  def peer(points, seed):
    return sklearn.cluster.kmeans_plusplus(points, 16, n_local_trials=1, random_state=seed)[0]

  ratios = []
  for seed in range(20):
    points = blobs(500, 4, 16, seed)
    want = np.mean([error(points, peer(points, draw)) for draw in range(10)])
    ratios.append(error(points, kmeans.start(jnp.asarray(points), 16)) / want)
  assert np.mean(ratios) < 1.1


@given(
  n=st.sampled_from([1, 5, 60]),
  distinct=st.sampled_from([1, 2, 7, 12]),
  spare=st.sampled_from([0, 2]),
)
def test_as_many_centroids_as_distinct_points_are_exact(n, distinct, spare):
  rng = np.random.default_rng(n * 100 + distinct)
  # Far from zero and close together: where a product in place of differences would cancel.
  points = (100 + rng.normal(size=(distinct, 3)))[rng.integers(0, distinct, n)].astype(np.float32)
  k = len(np.unique(points, axis=0)) + spare
  codes, centres = kmeans.lloyd(jnp.asarray(points), kmeans.start(jnp.asarray(points), k), 5)
  np.testing.assert_allclose(np.asarray(centres)[np.asarray(codes)], points, rtol=1e-6)


def test_the_error_never_grows_and_codes_are_the_nearest():
  points = jnp.asarray(blobs(300, 3, 9))
  first = kmeans.start(points, 9)
  errors = []
  for iterations in range(6):
    codes, centres = kmeans.lloyd(points, first, iterations)
    errors.append(inertia(points, codes, centres))
    gaps = np.asarray(points)[:, None, :] - np.asarray(centres)[None, :, :]
    np.testing.assert_array_equal(codes, np.square(gaps).sum(axis=-1).argmin(axis=1))
  assert all(later <= 1.00001 * before for before, later in itertools.pairwise(errors))


@pytest.mark.parametrize('n', [1, 7, 8, 9, 16, 21])
def test_blocks_make_no_difference(n, monkeypatch):
  points, centres = jnp.asarray(blobs(n, 3, 4)), jnp.asarray(blobs(5, 3, 4, 1))
  want = kmeans.assign(points, centres)
  monkeypatch.setattr(kmeans, '_BLOCK', 8)
  np.testing.assert_array_equal(kmeans.assign(points, centres), want)


def test_a_centre_without_points_stays():
  centres = jnp.asarray([[0.0], [50.0], [2.0]])
  codes = jnp.asarray([0, 2, 2])
  found = kmeans.update(jnp.asarray([[1.0], [3.0], [5.0]]), codes, centres)
  np.testing.assert_array_equal(found, [[1.0], [50.0], [4.0]])


def test_no_array_of_rows_by_centroids_is_made():
  compiled = jax.jit(lambda x, c: kmeans.lloyd(x, c, 2)).lower(
    jax.ShapeDtypeStruct((1_000_000, 4), jnp.float32),
    jax.ShapeDtypeStruct((256, 4), jnp.float32),
  )
  # Codes and one block of distances, against a gigabyte.
  assert compiled.compile().memory_analysis().temp_size_in_bytes < 30e6


def test_padding_the_last_part_keeps_its_columns():
  table = jnp.asarray(blobs(30, 5, 30))
  codes, centres = kmeans.by_part(table, 2, 30, 3)
  assert codes.shape == (30, 2) and codes.dtype == jnp.uint8 and centres.shape == (2, 30, 3)
  np.testing.assert_array_equal(centres[1, :, 2], 0)


def test_no_draw_takes_no_time_at_all():
  # Its hash is the largest of eight million in turn 1: as float32 it once was 1, the time then 0.
  ids, lucky = jnp.arange(8_000_000), 7_988_786
  bits = kmeans.hashing.mix(ids, 1)
  assert int(jnp.argmax(bits)) == lucky
  points = jnp.zeros((8_000_000, 1)).at[6_000_000:].set(1.0).at[lucky].set(1e-6)
  assert float(kmeans.start(points, 2)[:, 0].max()) == 1.0
