"""Test policy: eight simulated devices, strict dtypes and ranks, warnings are errors."""

import os

# Before jax is imported anywhere, since XLA reads the flags once.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
os.environ['JAX_PLATFORMS'] = 'cpu'

import hypothesis
import jax

jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')

# Deterministic examples: a failure seen once is seen again. Compiling takes time: no deadline.
hypothesis.settings.register_profile('ctr_jax', deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile('ctr_jax')
