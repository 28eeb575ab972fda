"""Rankings at two batch sizes, beside those of two seeds at one."""

import pytest

from experiments import gate_stability


def _scores(*values):
  return dict(zip('abcd', values, strict=True))


def test_two_seeds_are_compared_at_one_batch_size():
  importance = [
    [_scores(1, 2, 3, 4), _scores(4, 3, 2, 1)],
    [_scores(1, 2, 4, 3), _scores(4, 3, 2, 1)],
    [_scores(1, 2, 3, 4), _scores(4, 3, 2, 1)],
  ]
  # One of six pairs of fields is the other way round: (5 - 1) / 6.
  assert gate_stability.between_seeds(importance, 0) == pytest.approx([4 / 6, 1.0, 4 / 6])
  assert gate_stability.between_seeds(importance, 1) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize('seeds, of_seeds', [(1, '–'), (2, '1.000')])
def test_one_seed_has_none_beside_it(seeds, of_seeds):
  row = {
    'name': 'droprank',
    'seeds': list(range(seeds)),
    'tau': [0.5] * seeds,
    'importance': [[_scores(1, 2, 3, 4), _scores(1, 4, 3, 2)]] * seeds,
    'seconds': [[1.0, 2.0]] * seeds,
  }
  line = gate_stability.render({'batches': [512, 8192], 'rows': [row]}).splitlines()[-1]
  assert [x.strip() for x in line.split('|')][3:5] == [of_seeds] * 2
