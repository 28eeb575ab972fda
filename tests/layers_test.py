"""Imports point one way: what a folder may import, read from the sources."""

import ast
import pathlib

import pytest

PROJECT = pathlib.Path(__file__).parent.parent

# Folder (or file) of ctr_jax → the parts of ctr_jax that it may import, itself aside.
LAYERS = {
  'data': set(),
  'tables': set(),
  'models': set(),
  'compress': {'tables'},
  'lists': set(),
  'predict': {'lists', 'tables', 'compress.codec', 'data.schema'},
  'graphs': {'data'},
  # Of compress no technique: `encode` takes any. Of models no net: `part` takes any.
  'train': {
    'predict', 'tables', 'compress.codec', 'compress.encode', 'models.part', 'data.batches',
    'data.columns', 'data.folders', 'graphs',
  },
  'evaluate': {'predict', 'data', 'tables'},
  'serve': {
    'predict', 'tables', 'compress.codec', 'data.schema', 'data.values', 'data.columns',
    'data.folders', 'data.delimited',
  },
}  # fmt: skip
# Packages that a folder must not import: data runs without jax, and only data reads with the ETL
# engine; a bare accelerator image has neither it nor plotting.
ETL = {'ibis', 'duckdb', 'pyarrow', 'pandas', 'pyspark'}
PLOT = {'matplotlib'}
FORBIDDEN = {
  'data': {'jax', 'jaxlib', 'flax', 'optax', 'orbax'} | PLOT,
  'tables': {'flax', 'optax', 'orbax'} | ETL | PLOT,
  'models': {'optax', 'orbax', 'jraph'} | ETL | PLOT,
  'compress': {'flax', 'optax', 'orbax', 'jraph'} | ETL | PLOT,
  'lists': {'flax', 'optax', 'orbax', 'jraph'} | ETL | PLOT,
  'predict': {'orbax', 'jraph'} | ETL | PLOT,
  'graphs': {'optax', 'orbax'} | ETL | PLOT,
  'train': {'jraph'} | ETL | PLOT,
  'evaluate': {'orbax', 'jraph'} | ETL | PLOT,
  'serve': {'optax', 'orbax', 'jraph'} | (ETL - {'pyarrow'}) | PLOT,
}
# Read by whoever trains and serves: no ETL engine there either. (A vocabulary is a Parquet file,
# which pyarrow alone can read.)
BARE = (
  'schema', 'columns', 'batches', 'synthetic', 'draws', 'beside', 'history', 'pairs', 'delimited',
)  # fmt: skip


def imports(path):
  """Dotted names that a file imports, wherever the statement stands."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative imports hide the layer'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def files():
  return sorted((PROJECT / 'ctr_jax').rglob('*.py'))


def layer(path):
  part = path.relative_to(PROJECT / 'ctr_jax').parts[0]
  return part.removesuffix('.py')


@pytest.mark.parametrize('path', files(), ids=lambda p: str(p.relative_to(PROJECT)))
def test_imports_point_one_way(path):
  here = layer(path)
  if here == '__init__':
    assert list(imports(path)) == []
    return
  for name in imports(path):
    top = name.split('.')[0]
    assert top not in FORBIDDEN[here], f'{path.name} imports {name}'
    assert top not in ('experiments', 'launch', 'tests'), f'{path.name} imports {name}'
    if top == 'ctr_jax':
      inner = name.removeprefix('ctr_jax.')
      allowed = LAYERS[here] | {here}
      assert any(inner == a or inner.startswith(f'{a}.') for a in allowed), f'{path.name}: {name}'


# Of the folder that scores, the files that may use jax; the others must run without it.
JAX_SERVES = {'export', 'delta_export', 'forward', 'jax_scorer', 'pairs_export'}
# Of `tables`, plain Python and NumPy, read by both sides.
PLAIN = ('trees', 'factors', 'bit_blocks')


def _scoring():
  found = sorted((PROJECT / 'ctr_jax' / 'serve').glob('*.py'))
  shared = [PROJECT / 'ctr_jax' / 'tables' / f'{name}.py' for name in PLAIN]
  return [*shared, *(path for path in found if path.stem not in JAX_SERVES)]


@pytest.mark.parametrize('path', _scoring(), ids=lambda p: p.stem)
def test_serving_needs_no_jax(path):
  for name in imports(path):
    assert name.split('.')[0] not in {'jax', 'jaxlib', 'flax'}, name
    inner = name.removeprefix('ctr_jax.')
    forbidden = inner.split('.')[0] in {'tables', 'predict', 'compress'}
    assert inner in {f'tables.{plain}' for plain in PLAIN} or not forbidden, name
    assert inner.removeprefix('serve.') not in JAX_SERVES or path.stem == 'score', name


@pytest.mark.parametrize('name', BARE)
def test_reading_needs_no_etl_engine(name):
  found = {n.split('.')[0] for n in imports(PROJECT / 'ctr_jax' / 'data' / f'{name}.py')}
  assert not found & (ETL - {'pyarrow'})


def test_every_layer_is_known():
  assert {layer(p) for p in files()} - {'__init__'} == LAYERS.keys()
