"""Test policy: eight simulated devices, strict dtypes and ranks, warnings are errors."""

import os
import pathlib

# Before jax is imported anywhere, since XLA reads the flags once.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_force_host_platform_device_count=8'
  # Most of the tests' time is compiling: a fifth less without optimising what runs once.
  + ' --xla_backend_optimization_level=0'
)
# Runs that are killed, resumed or repeated by a test compile the same programs in new processes.
os.environ['JAX_COMPILATION_CACHE_DIR'] = str(
  pathlib.Path(__file__).parent.parent / '.pytest_cache' / 'jax'
)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.2'
os.environ['JAX_PLATFORMS'] = 'cpu'

import gc

import hypothesis
import jax

# What jax keeps of compiled programs are millions of objects, which the collector would look at
# again and again: a seventh of the time of some files.
gc.set_threshold(100_000, 50, 100)

jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')

# Deterministic examples: a failure seen once is seen again. Compiling takes time: no deadline.
hypothesis.settings.register_profile('ctr_jax', deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile('ctr_jax')
