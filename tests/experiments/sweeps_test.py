"""Every sweep, shrunk: rows, what they say of themselves, and results that fill up."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from ctr_jax import compress
from ctr_jax.data import synthetic
from ctr_jax.tables import leaf
from ctr_jax.train import loop
from experiments import (
  frontier,
  hash_family,
  report,
  sweeps,
  trials,
)

# Rows of all tables; FM's are 17 wide: 16 and the linear weight.
ROWS = sum(synthetic.Synthetic(synthetic.small()).rows.values())
PROJECT = pathlib.Path(__file__).parent.parent.parent
SMALL = ('--data=synthetic_small', '--epochs=1', '--batch_size=512', '--net=fm')


def run(name, folder, *arguments):
  command = [sys.executable, '-m', f'experiments.{name}', *SMALL, f'--workdir={folder}', *arguments]
  done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert (folder / 'report.png').stat().st_size > 5000
  assert (folder / 'report.md').read_text() in done.stdout
  return {row['name']: row for row in json.loads((folder / 'result.json').read_text())['rows']}


@pytest.mark.long
def test_dimensions_search_then_pack(tmp_path):
  rows = run('dimensions', tmp_path, '--only=AMTL', '--amtl_budgets=1')
  # An epoch is too short to narrow anything; the packed form is there, and adds little.
  assert 0 < rows['AMTL_1']['bytes'] <= 4 * 17 * ROWS + 100


@pytest.mark.long
def test_frontier_stays_within_each_limit(tmp_path):
  rows = run('frontier', tmp_path, '--ratios=20', '--only=budget')
  assert rows['budget 20×, served']['bytes'] <= rows['budget_20×']['limit'] == 4 * 17 * ROWS // 20
  assert 'frontier over all sweeps' in (tmp_path / 'report.md').read_text()


@pytest.mark.long
def test_relation_counts_what_crosses_look_up(tmp_path):
  rows = run('relation', tmp_path, '--pairs=1', '--only=crosses|pairwise')
  ids, hashed = rows['crosses_as_ids'], rows['crosses_hashed']
  assert ids['bytes'] > hashed['bytes'] > 4 * 17 * ROWS
  # 12 bytes for each pair of values, of which each has a row of 17 numbers; row 0 is for the rest.
  assert ids['bytes_lookup'] == 12 * ((ids['bytes'] - 4 * 17 * ROWS) // (4 * 17) - 1)
  assert hashed['bytes_lookup'] == 0
  assert rows['relation_pairwise']['bytes'] == 4 * 16 * ROWS  # A DNN's rows have no linear weight.


@pytest.mark.long
def test_pcf_gnn_scores_take_the_place_of_statistics(tmp_path):
  rows = run('pcf_gnn', tmp_path, '--pairs=1', '--vector_l2=10', '--only=statistic$|score_dot')
  table, vectors, small = (rows[n] for n in ('statistic', 'score_dot', 'score_dot,_int8'))
  assert table['bytes_lookup'] > 0
  assert table['bytes_lookup'] % 16 == 0
  assert small['bytes_lookup'] < vectors['bytes_lookup'] / 2
  assert vectors['unseen'] == small['unseen'] > 0
  assert -1 <= vectors['truth'] <= 1


@pytest.mark.long
def test_precision_of_rows(tmp_path):
  rows = run('precision', tmp_path, '--only=alpt_int8')
  alpt = rows['stored_while_training_alpt_int8']
  assert alpt['bytes'] == ROWS * (17 + 4)
  assert alpt['bytes_training'] == ROWS * (17 + 8)


@pytest.mark.long
def test_hash_family(tmp_path):
  rows = run('hash_family', tmp_path, '--core_rows=200', '--ratios=4', '--only=full|binary_code_4')
  assert rows['binary_code_4×']['bytes'] < 0.4 * rows['full']['bytes']
  assert rows['binary_code_4×']['ids_colliding'] == 0


@pytest.mark.long
def test_cce_goes_on_from_its_clusters(tmp_path):
  source = synthetic.Synthetic(synthetic.small())
  rules = sweeps.on(['noise'], lambda table: compress.cce(40))
  schedule = loop.Schedule(epochs=1, batch_size=512)
  warm = trials.Trial('warm', rules=rules, net='fm', dim=4, schedule=schedule)
  _, before, _ = trials.train(warm, source, tmp_path, 0)
  start = hash_family.reclustered(before, before.model, rules)
  assert not any(np.any(start.stored['noise'][f'helper_{j}']) for j in range(2))
  assert np.any(start.stored['noise']['code'] != before.stored['noise']['code'])
  np.testing.assert_array_equal(start.stored['user'], before.stored['user'])
  again = dataclasses.replace(warm, name='again', after=warm, start=hash_family.reclustered)
  (row,) = trials.run(again, source, tmp_path, [0])
  assert row['bytes'] == leaf.nbytes(before.model.codec.plan)


@pytest.mark.parametrize('rows, cols', [(1000, 11), (50_000, 16)])
@pytest.mark.parametrize('ratio', [2, 10, 100])
def test_families_are_about_as_large_as_asked(rows, cols, ratio):
  values = rows * cols // ratio
  for name, technique in hash_family.families(rows, cols, values).items():
    stored = leaf.nbytes(technique(leaf.Leaf((rows, cols))).plan) / 4
    # Codes of bits and products of cores come in steps; the others fit closely.
    loose = ('binary', 'quotient', 'tensor', 'product', 'cce')
    assert stored <= (2 if name.startswith(loose) else 1.1) * values + 4 * cols, name


def test_collisions_against_a_loop():
  rows, counts = 300, np.arange(300)[::-1]
  for technique in (compress.hash_trick(50), compress.multi_hash(20, 2)):
    address = leaf.flatten(technique(leaf.Leaf((rows, 4))).address(np.arange(rows, dtype=np.int32)))
    keys = list(zip(*(x.tolist() for x in address.values()), strict=True))
    shared = np.asarray([keys.count(key) > 1 for key in keys])
    ids, reads = hash_family.collisions(technique, rows, counts)
    assert ids == pytest.approx(shared.mean())
    assert reads == pytest.approx(counts[shared].sum() / counts.sum())


@pytest.mark.parametrize(
  'rows, buckets', [(1_000_000, 10_000), (2_000_000, 20_000), (4_000_000, 30_000)]
)
def test_collisions_of_two_ways_are_as_predicted(rows, buckets):
  # Pairs of ids with the same two buckets: n(n − 1)/2 of them, each with chance 1/m².
  codec = compress.multi_hash(buckets, 2)(leaf.Leaf((rows, 4)))
  first, second = leaf.flatten(codec.address(np.arange(rows, dtype=np.int32))).values()
  _, size = np.unique(first.astype(np.int64) * buckets + second, return_counts=True)
  pairs = (size * (size - 1) // 2).sum()
  np.testing.assert_allclose(pairs, rows * (rows - 1) / 2 / buckets**2, rtol=0.05)
  # And an id's chance to meet another, n/m² while that is small.
  colliding = size[size > 1].sum() / rows
  np.testing.assert_allclose(colliding, hash_family.predicted(rows, buckets, 2), rtol=0.05)


@pytest.mark.parametrize('name', frontier.UNIFORM)
@pytest.mark.parametrize('part', [0.3, 0.05, 0.01])
def test_uniform_rules_fill_their_limit(name, part):
  tables = {'a.b': leaf.Leaf((5000, 8)), 'c': leaf.Leaf((900, 8)), 'd': leaf.Leaf((3, 8))}
  limit = int(part * sum(x.nbytes for x in tables.values()))
  rules = compress.appended(frontier.uniform(tables, name, limit), compress.int_quantize(8))
  nbytes = leaf.nbytes(compress.bind(tables, rules).plan)
  assert 0.95 * limit - 100 <= nbytes <= limit


def test_the_frontier_is_made_of_rows_that_no_other_beats():
  rng = np.random.default_rng(0)
  rows = [{'bytes': int(b), 'test': {'auc': [a]}} for b, a in rng.random((60, 2)) * [1e6, 1]]
  front = frontier.pareto(rows)
  for row in rows:
    beaten = any(
      x['bytes'] <= row['bytes'] and x['test']['auc'] >= row['test']['auc'] and x is not row
      for x in rows
    )
    assert (row in front) == (not beaten)


def test_differences_are_seed_by_seed():
  full = {'seeds': [0, 1], 'test': {'auc': [0.5, 0.7]}}
  row = {'seeds': [1, 0], 'test': {'auc': [0.7001, 0.5003]}}
  assert report.difference(row, full, 'auc') == '+2.00 ± 1.41'
