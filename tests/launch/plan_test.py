"""launch.plan: its bytes are the arrays', its moves the program's, its refusals sentences."""

import dataclasses
import pathlib
import re

import jax
import numpy as np
import pytest

from ctr_jax import compress, models
from ctr_jax.data import schema
from ctr_jax.tables import placement
from ctr_jax.train import mesh as mesh_lib
from experiments import optimizers
from launch import ahead, choosing, costs, devices, layouts, plan, plan_report, planning, techniques

PROJECT = pathlib.Path(__file__).parent.parent.parent
SCHEMA = schema.Schema(
  'small',
  (
    schema.Feature('user'),
    schema.Feature('item'),
    schema.Feature('tags', kind='ids', width=3),
    schema.Feature('price', kind='numeric'),
  ),
)
ROWS = {'user': 5000, 'item': 301, 'tags': 40, 'price': 2}
CHAINED = (
  ('user', compress.chain(compress.multi_hash(700, ways=2), compress.alpt(8))),
  ('item', compress.partition((0, 100), (compress.identity(), compress.hash_trick(50)))),
  ('tags', compress.low_rank(2)),
  ('.*', compress.cast('bfloat16', 'stochastic')),
)
FULL = (('.*', compress.identity()),)
HALF = (
  ('user|item/part_1', placement.rows(('data', 'model'), least=1)),
  ('item', placement.rows()),
)


@pytest.fixture(autouse=True, scope='module')
def _cached_again():
  # A mesh of CPUs takes no programs from the compilation cache; the tests after it may.
  yield
  jax.config.update('jax_enable_compilation_cache', True)
  mesh_lib.compilation_cache.reset_cache()


def small(**changes):
  net = models.NETS['dcnv2'](hidden=(8,), dropout=0.2, cross_layers=1)
  recipe = optimizers.Optimizer(rows=changes.pop('rows_by', 'adagrad')).recipe()
  cpu = devices.DEVICES['cpu']
  task = planning.Task(
    SCHEMA, ROWS, net, 8, recipe, 256, {'data': 2, 'model': 4}, cpu, 1 << 30, 1 << 30, FULL
  )
  return task._replace(**changes)


def program(found):
  mesh = mesh_lib.make(found.task.mesh['data'], found.task.mesh['model'])
  cluster = planning.cluster(found, mesh)
  return cluster, mesh_lib.program(cluster, found.model, found.task.recipe)


def on_each(tree):
  """Bytes of a tree on each device."""
  found = {}
  for x in jax.tree.leaves(tree):
    for shard in x.addressable_shards if isinstance(x, jax.Array) else ():
      found[shard.device] = found.get(shard.device, 0) + shard.data.nbytes
  return set(found.values())


@pytest.mark.parametrize(
  'changes',
  [
    {'rules': CHAINED, 'rows_by': 'adagrad_element'},
    {'mesh': {'data': 1, 'model': 8}, 'rows_by': 'lazy_adam'},
    {'mesh': {'data': 8, 'model': 1}, 'placements': HALF, 'rules': CHAINED},
    {'placements': (('user', placement.columns()),), 'rows_by': 'sgd'},
  ],
)
def test_bytes_are_those_of_the_arrays_on_every_device(changes):
  found = choosing.plan(small(**changes))
  state = program(found)[1].create(0)
  assert on_each(state.tables) == {found.tables}
  assert on_each(state.slots) == ({found.slots} if found.slots else set())
  assert on_each(state.net) == {found.net.params}
  assert on_each(state.opt) == {found.net.opt}
  assert found.padding == 0 and found.total <= found.task.limit


def test_rows_travel_as_the_plan_says():
  rules = (('tags|price', compress.drop()), *FULL)
  found = choosing.plan(small(rules=rules, placements=(('.*', placement.rows(least=1)),)))
  cluster, made = program(found)
  inputs = mesh_lib.batch_like(
    cluster, found.model, found.task.recipe, planning.columns(found.task, 256 // 8)
  )
  seen = ahead.collectives(made.step.lower(made.like(), inputs).compile().as_text())
  moves = [move for _, move in found.moves()]
  for kind in ('all-to-all', 'all-gather'):
    own = [move for move in moves if move.kind == kind]
    assert seen.get(kind, (0, 0)) == (sum(x.times for x in own), sum(x.nbytes for x in own))


def test_batches_are_shaped_as_those_that_are_read():
  found = choosing.plan(small())
  cluster, made = program(found)
  like = mesh_lib.batch_like(
    cluster, found.model, found.task.recipe, planning.columns(found.task, 256 // 8)
  )
  real = made.batch(planning.columns(found.task, 256))
  assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), like) == jax.tree.map(
    lambda x: (x.shape, x.dtype, x.sharding), real
  )


def test_what_finds_no_room_keeps_its_hottest_rows_on_the_devices():
  task = small(rows=ROWS | {'user': 400_000}, limit=1_500_000)
  found = choosing.plan(task)
  where = {x.name: x.where.split for x in found.lines}
  assert where['user/part_1'] == 'host' and where['user/part_0'] == 'rows'
  assert found.total <= task.limit
  made = program(found)[1]
  state = made.create(0)
  assert on_each(state.tables) == {found.tables}
  host = [
    x.nbytes for x in jax.tree.leaves((state.tables, state.slots)) if isinstance(x, np.ndarray)
  ]
  assert sum(host) == found.host
  with pytest.raises(ValueError, match='The tables that do not fit the devices take'):
    choosing.plan(task._replace(host_limit=1000))


def test_a_table_that_goes_to_the_host_takes_no_other_of_a_longer_name_along():
  user, more = schema.Feature('user'), schema.Feature('user_age')
  placements = (('user_age', placement.replicated()),)
  task = small(
    schema=schema.Schema('s', (user, more)), rows={'user': 10_000, 'user_age': 101},
    mesh={'data': 1, 'model': 1}, limit=60_000, net=models.NETS['lr'](), batch=64,
    placements=placements,
  )  # fmt: skip
  where = {x.name: x.where.split for x in choosing.plan(task).lines}
  assert where == {'user': 'host', 'user_age': 'nothing'}


def test_devices_that_cannot_share_lanes_evenly_split_what_they_can():
  task = small(mesh={'data': 3, 'model': 2}, batch=252, limit=230_000)
  assert ('rows', ('model',), 1) in [x.where for x in choosing.plan(task).lines]
  with pytest.raises(ValueError, match='split as far as 6 devices can share 512 lanes evenly'):
    choosing.plan(task._replace(limit=1000, recipe=optimizers.Optimizer(mode='dense').recipe()))


TRILLION = (
  f'--schema={PROJECT}/launch/trillion.toml', '--dim=128', '--batch_size=65536', '--device=v5e',
  '--mesh=16x16',
)  # fmt: skip
SHORT = '--rules=.*=cast(bfloat16, stochastic)'


def of(*arguments):
  return choosing.plan(plan.task(plan._parser().parse_args(arguments)))


def test_a_trillion_parameters_are_planned_without_an_array():
  before = sum(x.nbytes for x in jax.live_arrays())
  found = of(*TRILLION, SHORT)
  assert sum(x.leaf.size for x in found.lines) > 1e12
  assert found.total <= found.task.limit
  assert sum(x.nbytes for x in jax.live_arrays()) - before < 1 << 20
  # Fastest are copies of what every batch reads, then rows split over a part of the devices; the
  # largest have to be split over all of them.
  lies = {x.name: plan_report.where(x) for x in found.lines}
  assert (lies['hour'], lies['shop'], lies['user']) == ('replicated', 'rows', 'rows:data+model')
  assert 'leaves 30.' in next(x.why for x in found.lines if x.name == 'user')
  assert '2.002 TB' in plan_report.text(found)


def test_a_trillion_parameters_in_float32_are_refused_with_what_helps():
  with pytest.raises(ValueError, match=r'would hold 15\.\d+ GB .* may hold 15\.22 GB') as error:
    of(*TRILLION)
  for part in ("cast(bfloat16, stochastic)'", 'fits about 26', 'a host of v5e has 8'):
    assert part in str(error.value)


REFUSED = (
  ((f'--schema={PROJECT}/launch/trillion.toml', '--mesh=16'), '--mesh=16: it is DATAxMODEL'),
  ((*TRILLION[:2], '--batch_size=1000', '--mesh=16x16'), 'cannot be split over 256 devices'),
  ((*TRILLION[:1], '--batch_size=-8', '--mesh=1x8'), '--batch_size=-8 cannot be split over 8'),
  (('--mesh=1x1',), 'Give --schema=FILE.toml'),
  ((*TRILLION[:1], '--mesh=1x1', '--rows=shop'), '--rows=shop: it is TABLE:ROWS'),
  ((*TRILLION[:1], '--mesh=1x1', '--rows=shops:3'), 'there is no table shops'),
  ((*TRILLION[:1], '--mesh=1x1', '--rules=.*=zip(2)'), 'there is no zip; techniques are'),
  ((*TRILLION[:1], '--mesh=1x1', '--placement=a=b'), 'it is PATTERN=WHERE'),
  ((*TRILLION[:1], '--mesh=1x1', '--rules=(=identity()'), '( is no pattern'),
  ((*TRILLION[:1], '--mesh=1x1', '--placement=(=rows'), '( is no pattern'),
  ((*TRILLION[:1], '--mesh=1x1', '--rows=user:inf'), '--rows=user:inf: it is TABLE:ROWS'),
  ((*TRILLION[:1], '--mesh=1x1', '--rows=user:1e30'), '--rows=user:1e30: it is TABLE:ROWS'),
  ((*TRILLION[:1], '--mesh=0x1'), '--mesh=0x1: it is DATAxMODEL'),
  ((*TRILLION[:1], '--mesh=1x1', '--headroom=1'), '--headroom=1.0: it is a part of the memory'),
  ((*TRILLION[:1], '--mesh=1x1', '--headroom=nan'), '--headroom=nan: it is a part of the memory'),
  ((*TRILLION[:1], '--mesh=1x1', '--memory=0GB'), '--memory=0GB: of a device nothing is left'),
  ((*TRILLION[:1], '--mesh=1x1', '--hidden=0'), '--hidden=0: it is the units of each layer'),
  ((*TRILLION[:1], '--mesh=1x1', '--hidden=a'), '--hidden=a: it is the units of each layer'),
  ((*TRILLION[:1], '--mesh=1x1', '--dim=0'), '--dim=0: a vector has at least one column'),
  ((*TRILLION[:1], '--mesh=1x1', '--bucket_slack=nan'), '--bucket_slack=nan: it is a multiple'),
)


@pytest.mark.parametrize('arguments, words', REFUSED)
def test_what_cannot_be_planned_is_refused_in_words(arguments, words):
  with pytest.raises(ValueError, match=re.escape(words)):
    of('--device=v5e', *arguments)


def test_rows_are_asked_for_where_the_schema_does_not_say():
  assert plan.rows_of(SCHEMA, {'user': 5, 'item': 6, 'tags': 7})['price'] == 2
  with pytest.raises(ValueError, match=r'--rows=item:1e6,tags:1e6\.'):
    plan.rows_of(SCHEMA, {'user': 5})
  hour = schema.Feature('hour', kind='bucket', transform='hour')
  assert plan.rows_of(dataclasses.replace(SCHEMA, features=(hour,)), {}) == {'hour': 25}


def test_the_command_prints_the_plan(capsys):
  assert plan.main([*TRILLION, SHORT]) == 0
  out = capsys.readouterr().out
  for part in ('each of 256 × v5e', 'all-to-all', 'samples a second', 'Train with: --mesh=16x16'):
    assert part in out


def test_rules_are_read_as_they_are_written_in_python():
  pattern, found = techniques.rule('user|item=chain(hash_trick(1e8), cast(bfloat16, stochastic))')
  assert pattern == 'user|item'
  core = compress.chain(compress.hash_trick(10**8), compress.cast('bfloat16', 'stochastic'))
  assert str(found) == str(core)
  for text in ('user', 'user=cast(', "user='cast'", 'user=hash_trick(1, 2, 3)'):
    with pytest.raises(ValueError, match='--rules='):
      techniques.rule(text)


def test_padding_is_that_of_tiles():
  assert layouts.padded((2_500_000, 16), np.float32) == 2_500_096 * 16 * 4
  assert layouts.padded((2_500_000, 17), np.float32) == 2_500_096 * 24 * 4
  assert layouts.padded((1_250_016, 128), np.uint16) == 1_250_016 * 128 * 2
  assert layouts.padded((2_500_000, 20), np.uint8) == 2_500_096 * 24
  assert layouts.padded((2_500_000,), np.float32) == 2_500_608 * 4
  assert layouts.lines(2_500_000, 128, np.float32) == 512
  assert layouts.lines(2_500_000, 16, np.float32) == 16 * 512


def test_links_are_those_that_the_pods_are_sold_with():
  v5e = devices.DEVICES['v5e']
  # 1.6 TB/s through the middle of 256 chips: half of what each holds, both ways.
  assert 256 / 2 / devices.parted(v5e, 256) == pytest.approx(2 * 1.6e12)
  one = costs.Move('all-reduce', 1 << 30, 8).seconds(devices.DEVICES['h100'])
  assert one == pytest.approx(2 * 7 / 8 * (1 << 30) / 450e9, rel=1e-3)
  assert costs.Move('all-to-all', 1 << 30, 1).seconds(v5e) == 0
