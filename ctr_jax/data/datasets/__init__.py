"""Known data sets, found by name, and anybody's own, by schema file.

Each module here describes one public set and has

  SCHEMAS: name -> Schema      TITLES: name -> how results call it
  DOWNLOAD: where to get it    MD5: md5 of an uncompressed file -> what it is, '' = the official one
  CLOCKS: name -> Schema with the one feature 'clock' (where samples have a time)
"""

import hashlib
import os
import pathlib

from ctr_jax.data import columns, files
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


def resolve(name_or_path: str, data_dir=None) -> tuple[schema_lib.Schema, pathlib.Path]:
  """(schema, folder of the raw files) of a known set's name or of a schema file."""
  if name_or_path in KNOWN:
    return KNOWN[name_or_path].SCHEMAS[name_or_path], find(name_or_path, data_dir)
  path = pathlib.Path(name_or_path)
  if not path.is_file():
    raise FileNotFoundError(
      f'{name_or_path!r} is neither a schema file nor a known data set ({", ".join(KNOWN)}).'
    )
  return schema_lib.Schema.from_toml(path), pathlib.Path(data_dir or path.parent)


def title(schema: schema_lib.Schema, folder: pathlib.Path) -> str:
  """How results should call the data: a known set's title and what its files' md5 say of them."""
  module = KNOWN.get(schema.name)
  if module is None or schema != module.SCHEMAS[schema.name]:
    return schema.name
  notes = [module.TITLES[schema.name]]
  if module.MD5:
    for split, paths in files.find(schema, folder).items():
      md5 = files.md5(paths[0])
      notes.append(module.MD5.get(md5, f'{split} file of unknown md5 {md5[:8]}'))
  return ', '.join(note for note in notes if note)


def open_or_encode(name_or_path: str, data_dir=None, cache_dir=None, **options) -> columns.Columns:
  """Opens a set's encoded form, encoding it first where the cache has none.

  Args:
    name_or_path: one of `KNOWN`, or a schema file.
    data_dir: see `find`; for a schema file the folder of its files, by default its own.
    cache_dir: folder of encoded sets; by default CTR_JAX_CACHE, else ~/.cache/ctr_jax. Sets are
      told apart by schema and by the raw files' names, sizes and times of change.
    **options: of `encode.encode`.
  """
  schema, folder = resolve(name_or_path, data_dir)
  return _encoded(schema, folder, cache_dir, options)


def clock(name: str, data_dir=None, cache_dir=None, **options) -> columns.Columns | None:
  """The column 'clock' of a known set, for `beside.join`; None where its samples have no time.

  Args:
    name: one of `KNOWN`.
    data_dir: see `find`.
    cache_dir: see `open_or_encode`.
    **options: of `encode.encode`.
  """
  schema = getattr(KNOWN[name], 'CLOCKS', {}).get(name) if name in KNOWN else None
  if schema is None:
    return None
  return _encoded(schema, find(name, data_dir), cache_dir, options)


def _encoded(schema, folder, cache_dir, options):
  raw = files.identity(files.find(schema, folder), folder)
  policy = options.get('on_bad_row', 'error')
  key = hashlib.sha256(f'{schema.digest} {raw} {policy}'.encode()).hexdigest()
  cache = cache_dir or os.environ.get('CTR_JAX_CACHE') or pathlib.Path.home() / '.cache' / 'ctr_jax'
  out = pathlib.Path(cache) / f'{schema.name}-{key[:16]}'
  if out.exists():
    return columns.open_columns(out)
  # The one place that needs the database, and only where something is to be encoded.
  from ctr_jax.data import encode

  return encode.encode(schema, folder, out, title=title(schema, folder), **options)
