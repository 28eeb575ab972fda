"""Known data sets, found by name, and anybody's own, by schema file.

Each module here describes one public set and has

  SCHEMAS: name -> Schema      TITLES: name -> how results call it
  DOWNLOAD: where to get it    MD5: md5 of an uncompressed file -> what it is, '' = the official one
"""

import hashlib
import os
import pathlib

from ctr_jax.data import columns
from ctr_jax.data import schema as schema_lib
from ctr_jax.data.datasets import avazu, criteo, frappe, movielens, yelp

KNOWN = {
  name: module for module in (frappe, movielens, yelp, criteo, avazu) for name in module.SCHEMAS
}
_PROJECT = pathlib.Path(__file__).parents[3]


def find(name: str, data_dir=None) -> pathlib.Path:
  """The folder of a known set's raw files.

  Args:
    name: one of `KNOWN`.
    data_dir: folder in which the set's folder is; by default the environment variable
      CTR_JAX_DATA, then `../shared/data` beside the project.
  """
  if name not in KNOWN:
    raise ValueError(f'There is no data set {name!r}; known are {", ".join(KNOWN)}.')
  if data_dir:
    places = [pathlib.Path(data_dir)]
  else:
    places = [pathlib.Path(p) for p in (os.environ.get('CTR_JAX_DATA'),) if p]
    places.append(_PROJECT.parent / 'shared' / 'data')
  for place in places:
    if (place / name).is_dir():
      return place / name
  looked = ', '.join(str(place / name) for place in places)
  raise FileNotFoundError(
    f'Data set {name!r} is not there. Looked for {looked}. {KNOWN[name].DOWNLOAD} Then name the '
    f'folder that holds {name}/ with --data_dir or the environment variable CTR_JAX_DATA.'
  )


def resolve(name_or_path: str, data_dir=None) -> tuple[schema_lib.Schema, pathlib.Path, str]:
  """(schema, folder of the raw files, title) of a known set's name or of a schema file."""
  if name_or_path in KNOWN:
    module = KNOWN[name_or_path]
    folder = find(name_or_path, data_dir)
    schema = module.SCHEMAS[name_or_path]
    return schema, folder, _title(module, schema, folder)
  path = pathlib.Path(name_or_path)
  if not path.is_file():
    raise FileNotFoundError(
      f'{name_or_path!r} is neither a schema file nor a known data set ({", ".join(KNOWN)}).'
    )
  schema = schema_lib.Schema.from_toml(path)
  return schema, pathlib.Path(data_dir or path.parent), schema.name


def open_or_encode(name_or_path: str, data_dir=None, cache_dir=None, **options) -> columns.Columns:
  """Opens a set's encoded form, encoding it first where the cache has none.

  Args:
    name_or_path: one of `KNOWN`, or a schema file.
    data_dir: see `find`; for a schema file the folder of its files, by default its own.
    cache_dir: folder of encoded sets; by default CTR_JAX_CACHE, else ~/.cache/ctr_jax. Sets are
      told apart by schema and by the raw files' names, sizes and times of change.
    **options: of `encode.encode`.
  """
  # The one place that needs the database, and only where something is to be encoded.
  from ctr_jax.data import encode, readers

  schema, folder, title = resolve(name_or_path, data_dir)
  raw = encode.identity(readers.find_files(schema, folder), folder)
  key = hashlib.sha256(f'{schema.digest} {raw} {options.get("on_bad_row")}'.encode()).hexdigest()
  cache = cache_dir or os.environ.get('CTR_JAX_CACHE') or pathlib.Path.home() / '.cache' / 'ctr_jax'
  out = pathlib.Path(cache) / f'{schema.name}-{key[:16]}'
  if out.exists():
    return columns.open_columns(out)
  return encode.encode(schema, folder, out, title=title, **options)


def _title(module, schema, folder):
  from ctr_jax.data import readers

  notes = [module.TITLES[schema.name]]
  if module.MD5:
    for split, paths in readers.find_files(schema, folder).items():
      md5 = _md5(paths[0])
      notes.append(module.MD5.get(md5, f'{split} file of unknown md5 {md5[:8]}'))
  return ', '.join(note for note in notes if note)


def _md5(path):
  from ctr_jax.data import readers

  digest = hashlib.md5(usedforsecurity=False)
  with readers.whole(path), readers.open_stream(path) as file:
    while block := file.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()
