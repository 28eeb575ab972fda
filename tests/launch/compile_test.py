"""launch.plan beside TPU's own compiler, which needs no chip; skipped where it is not installed."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctr_jax.tables import placement
from launch import ahead, choosing, devices, layouts, plan_report
from tests.launch import plan_test

HERE = importlib.util.find_spec('libtpu') is not None
needs_compiler = pytest.mark.skipif(not HERE, reason="needs libtpu: pip install 'ctr_jax[tpu]'")


@needs_compiler
def test_arrays_take_as_many_bytes_as_the_compiler_says():
  where = jax.sharding.SingleDeviceSharding(ahead.topology('v5e:2x2').devices[0])
  shapes = [(250_000, n) for n in (1, 3, 8, 16, 17, 64, 100, 128, 129)] + [(130, 130), (64, 400)]
  shapes += [(), (100,), (1025,), (4096, 26, 16), (1, 512, 2)]
  arguments = [
    jax.ShapeDtypeStruct(s, dtype, sharding=where)
    for s in shapes
    for dtype in (jnp.float32, jnp.bfloat16, jnp.uint8)
  ]
  first = jax.jit(lambda xs: [x[(0,) * x.ndim] for x in xs])
  found = first.lower(arguments).compile().memory_analysis().argument_size_in_bytes
  assert found == sum(layouts.padded(x.shape, x.dtype) for x in arguments)


@needs_compiler
def test_the_estimate_is_the_compilers_within_fifteen_per_cent():
  task = plan_test.small(
    device=devices.DEVICES['v5e'],
    rows=plan_test.ROWS | {'user': 20_000_000},
    placements=(('user', placement.rows(placement.AXES, least=1)),),
    mesh={'data': 2, 'model': 2},
  )
  found = choosing.plan(task)
  seen = ahead.compiled(found, 'v5e:2x2')
  assert found.total == pytest.approx(seen.total, rel=0.15)
  moves = [move for _, move in found.moves() if move.kind == 'all-to-all']
  assert seen.collectives['all-to-all'][0] == sum(move.times for move in moves)
  assert 'estimate / compiler' in plan_report.beside(found, seen, 'v5e:2x2')
  with pytest.raises(ValueError, match='v5e:4x4 has 16 chips, --mesh has 4 devices'):
    ahead.compiled(found, 'v5e:4x4')


def test_without_the_compiler_the_way_to_it_is_said(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=r"pip install 'ctr_jax\[tpu\]'"):
    ahead.topology('v5e:4x4')


def test_collectives_are_counted_with_the_bytes_of_their_results():
  text = """
  %a = f32[16,20,128]{2,1,0:T(8,128)S(1)} all-to-all(%x), channel_id=1
  %b = (f32[4]{0}, bf16[4,2]{1,0}) all-reduce-start(%x, %y)
  %c = f32[4]{0} all-reduce-done(%b)
  %d = pred[] all-reduce(%z)
  """
  assert ahead.collectives(text) == {'all-to-all': (1, 163840), 'all-reduce': (2, 33)}
  assert np.prod((16, 20, 128)) * 4 == 163840
