"""The journal of a run that was cut off."""

import json

from ctr_jax.train import journal


def test_a_line_that_was_cut_off_is_written_again(tmp_path):
  for _ in range(2):
    log = journal.Journal(tmp_path)
    for step in (1, 2, 3):
      log.write({'step': step, 'loss': 0.5})
    log.close()
    path = tmp_path / 'metrics.jsonl'
    assert [json.loads(line)['step'] for line in path.read_text().splitlines()] == [1, 2, 3]
    path.write_bytes(path.read_bytes()[:-7])
