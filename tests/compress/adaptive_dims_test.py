"""Levels of popularity, masks by the paper's formula, the price, and packing without loss."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_jax import compress
from ctr_jax.compress.adaptive_dims import levels
from ctr_jax.tables import gather, leaf

ROWS, COLS = 300, 6
FULL = leaf.Leaf((ROWS, COLS), init=leaf.normal(0.5))
IDS = np.arange(ROWS, dtype=np.int32)
TABLE = jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, COLS)), jnp.float32)


def read(codec, stored, ids=IDS):
  return codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))


def random(codec, seed=0, scale=1.0):
  """A trained state: every net weight drawn at random, so that levels differ in their cut."""
  rng = np.random.default_rng(seed)
  nets = ('hidden', 'output', 'bias')
  drawn = {n: jnp.asarray(scale * rng.normal(size=codec.plan[n].shape), jnp.float32) for n in nets}
  return codec.encode(TABLE) | drawn


def chances(codec, stored, temperature):
  """The paper's twins in float64: softmax over cuts for each level."""
  starts = levels(ROWS)
  frequency = -np.log1p(starts.astype(np.float64))
  frequency = (frequency - frequency.mean()) / frequency.std()
  hidden, output, bias = (np.asarray(stored[n], np.float64) for n in ('hidden', 'output', 'bias'))
  found = []
  for x in frequency:
    high, low = (
      np.maximum(np.asarray([x, 1]) @ hidden[net], 0) @ output[net] + bias[net] for net in (0, 1)
    )
    share = 1 / (1 + np.exp(-x))
    logits = (share * high + (1 - share) * low) / temperature
    found.append(np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum())
  return np.stack(found)


@given(rows=st.integers(1, 100_000))
def test_levels_are_four_to_an_octave(rows):
  starts = levels(rows)
  assert starts[0] == 0
  assert (np.diff(starts) > 0).all()
  assert starts[-1] < rows
  ends = np.append(starts[1:], rows)
  # No level is wider than a quarter of where its octave begins.
  assert (ends - starts <= np.maximum(1, starts / 4)).all()


def test_vectors_are_rows_cut_where_the_twins_say():
  codec = compress.adaptive_dims(temperature=0.7, smallest=2)(FULL)
  stored = random(codec)
  cut = 2 + chances(codec, stored, 0.7).argmax(axis=1)
  assert len(set(cut.tolist())) > 1
  level = np.searchsorted(levels(ROWS), IDS, side='right') - 1
  mask = np.arange(COLS)[None] < cut[level][:, None]
  np.testing.assert_array_equal(read(codec, stored), np.where(mask, TABLE, 0))


def test_gradients_are_those_of_the_soft_masks():
  codec = compress.adaptive_dims(temperature=0.7)(FULL)
  stored = random(codec)
  rows = gather.gather(codec.plan, stored, codec.address(IDS))
  weight = np.random.default_rng(3).normal(size=(ROWS, COLS))

  def hard(bias):
    return jnp.sum(codec.decode(rows | {'bias': bias}) * weight.astype(np.float32))

  def soft(bias):
    chance = chances(codec, stored | {'bias': bias}, 0.7)
    mask = chance @ np.tri(COLS)
    level = np.searchsorted(levels(ROWS), IDS, side='right') - 1
    return np.sum(np.asarray(TABLE, np.float64) * mask[level] * weight)

  found = np.asarray(jax.grad(hard)(stored['bias']))
  bias = np.asarray(stored['bias'], np.float64)
  for at in [(0, 0), (0, 3), (1, 5)]:
    step = np.zeros_like(bias)
    step[at] = 1e-5
    want = (soft(bias + step) - soft(bias - step)) / 2e-5
    np.testing.assert_allclose(found[at], want, rtol=2e-3, atol=1e-3)


def test_the_price_is_the_expected_share_of_values_kept():
  codec = compress.adaptive_dims(budget=0.3, temperature=0.7)(FULL)
  stored = random(codec)
  rows = gather.gather(codec.plan, stored, codec.address(IDS[:5]))  # Of all ids, whoever is read.
  widths = chances(codec, stored, 0.7) @ np.arange(1, COLS + 1)
  counts = np.diff(levels(ROWS), append=ROWS)
  want = 0.3 * np.sum(widths * counts) / (ROWS * COLS)
  np.testing.assert_allclose(float(codec.penalty(rows, step=0)), want, rtol=1e-4)
  assert compress.adaptive_dims()(FULL).penalty is None


def test_training_starts_with_all_columns():
  codec = compress.adaptive_dims()(FULL)
  for seed in range(5):
    stored = leaf.init(codec.plan, jax.random.key(seed))
    np.testing.assert_array_equal(read(codec, stored), stored['table'])


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_packed_stores_what_is_kept_and_gives_the_same_vectors(seed):
  codec = compress.adaptive_dims(temperature=0.7, smallest=1)(FULL)
  vectors = read(codec, random(codec, seed))
  small = compress.packed(vectors, ROWS)(FULL)
  np.testing.assert_array_equal(read(small, small.encode(vectors)), vectors)
  kept = int((vectors != 0).sum()) * 4
  parts = small.plan['which'].nbytes
  assert leaf.nbytes(small.plan) == kept + parts
  assert leaf.nbytes(small.plan) < FULL.nbytes


def test_a_table_that_keeps_nothing_keeps_a_column():
  small = compress.packed(jnp.zeros((ROWS, COLS)), ROWS)(FULL)
  assert leaf.nbytes(small.plan) == ROWS * 4 + 1


@pytest.mark.parametrize('arguments', [{'smallest': 0}, {'temperature': 0.0}, {'budget': -1.0}])
def test_bad_settings(arguments):
  with pytest.raises(ValueError, match='smallest ≥ 1, temperature > 0 and budget ≥ 0'):
    compress.adaptive_dims(**arguments)
  with pytest.raises(ValueError, match='at least 7 of 6 columns'):
    compress.adaptive_dims(smallest=7)(FULL)


def test_a_table_needs_a_part():
  with pytest.raises(ValueError, match='at least one part'):
    compress.packed(TABLE, ROWS, most=0)


@pytest.mark.parametrize('most', [1, 2, 3])
def test_parts_are_joined_where_it_costs_the_fewest_values(most):
  rng = np.random.default_rng(most)
  spans = np.diff([*levels(ROWS), ROWS])
  of_row = np.repeat(rng.integers(1, COLS + 1, len(spans)), spans)
  vectors = np.where(np.arange(COLS) < of_row[:, None], TABLE, 0)
  runs = compress.packed(vectors, ROWS).arguments
  small = compress.packed(vectors, ROWS, most=most)
  np.testing.assert_array_equal(read(small(FULL), small(FULL).encode(vectors)), vectors)
  ends = [*runs['starts'][1:], ROWS]
  rows = [end - start for start, end in zip(runs['starts'], ends, strict=True)]
  widths = [part.arguments['dims'] for part in runs['parts']]

  def values(cuts):
    spans = zip((0, *cuts), (*cuts, len(rows)), strict=True)
    return sum(sum(rows[i:j]) * max(widths[i:j]) for i, j in spans)

  assert len(rows) > 9
  places = itertools.combinations(range(1, len(rows)), most - 1)
  stored = leaf.flatten(small(FULL).plan)
  kept = sum(x.nbytes for path, x in stored.items() if 'which' not in path) // 4
  assert kept == min(values(cuts) for cuts in places)
  assert len(small.arguments['parts']) <= most
