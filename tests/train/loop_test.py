"""What a run starts from."""

import jax
import jax.numpy as jnp
import numpy as np

from ctr_jax.train import loop
from ctr_jax.train import state as state_lib


def test_a_step_from_drawn_and_restored_arrays_is_compiled_once():
  drawn, host = jnp.arange(4.0), np.arange(3)
  restored = jax.device_put(jnp.arange(4.0), jax.devices()[0])
  assert not drawn.committed and restored.committed
  state = state_lib.State(0, 0, 0, {'a': drawn, 'b': restored, 'c': host}, {}, {}, ())
  step = jax.jit(lambda a, b: (a + 1, b + a))
  held = loop._committed(state).tables
  assert held['c'] is host
  assert held['a'].unsafe_buffer_pointer() == drawn.unsafe_buffer_pointer()  # No copy.
  step(*step(held['a'], held['b']))
  assert step._cache_size() == 1
  mixed = jax.jit(lambda a, b: (a + 1, b + a))
  mixed(*mixed(drawn, restored))
  assert mixed._cache_size() == 2  # What it is held for.
