"""The encoding benchmark on a small file."""

import collections

import pytest

from experiments.bench import encode


def test_file_looks_like_criteo(tmp_path):
  encode.make(tmp_path / 'a', 3000)
  encode.make(tmp_path / 'b', 3000)
  text = (tmp_path / 'a').read_text()
  assert text == (tmp_path / 'b').read_text()
  lines = [line.split('\t') for line in text.splitlines()]
  assert len(lines) == 3000
  assert {len(fields) for fields in lines} == {40}
  assert {fields[0] for fields in lines} == {'0', '1'}
  assert all(len(value) in (0, 8) for fields in lines for value in fields[14:])
  # A power law: the most frequent of up to five million values, about one in log(5e6) = 15.
  counts = collections.Counter(fields[16] for fields in lines)
  assert 0.03 < counts.most_common(1)[0][1] / 3000 < 0.1
  assert len(counts) > 1000


@pytest.mark.long
def test_measure(tmp_path):
  found = encode.measure(2000, tmp_path, '1GB')
  assert found['rows'] == 2000
  assert 50 < found['peak_mb'] < 2000
  assert (tmp_path / 'encoded_2000/manifest.json').exists()
