"""Test policy: eight simulated devices, strict dtypes and ranks, warnings are errors.

`pytest` runs what shows a fault soon; `pytest --all` also the tests marked `long` (every chain,
whole experiments, real processes that are killed), and all examples of the properties.
"""

import os
import pathlib
import sys

# Before jax is imported anywhere, since XLA reads the flags once.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_force_host_platform_device_count=8'
  # Most of the tests' time is compiling: a fifth less without optimising what runs once.
  + ' --xla_backend_optimization_level=0'
)
# Another quarter less: fusions are lowered the short way. With --all, in workers too, they are not.
if '--all' in sys.argv:
  os.environ['CTR_JAX_TEST_ALL'] = '1'
if 'CTR_JAX_TEST_ALL' not in os.environ:
  os.environ['XLA_FLAGS'] += ' --xla_cpu_use_fusion_emitters=false'
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
for name, examples in (('all', 25), ('soon', 5)):
  hypothesis.settings.register_profile(name, deadline=None, derandomize=True, max_examples=examples)


def pytest_addoption(parser):
  parser.addoption('--all', action='store_true', help='Also the tests marked long: half an hour.')


def pytest_configure(config):
  config.addinivalue_line('markers', 'long: runs with --all only')
  hypothesis.settings.load_profile('all' if config.getoption('--all') else 'soon')


def pytest_collection_modifyitems(config, items):
  if not config.getoption('--all'):
    long = [item for item in items if item.get_closest_marker('long')]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if not item.get_closest_marker('long')]
