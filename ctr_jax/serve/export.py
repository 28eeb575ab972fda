"""A trained, compressed model → an artifact. Of this folder, it alone knows training's types.

  export.write('model', model, rules, stored, net, source)

`artifact` says what lies where. Tables are written as they are stored, in their compressed form.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib.metadata
import importlib.util
import json
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import linen as nn

from ctr_jax import predict
from ctr_jax.compress import codec as codec_lib
from ctr_jax.data import columns
from ctr_jax.data import schema as schema_lib
from ctr_jax.serve import artifact as artifact_lib
from ctr_jax.serve import forward, nets, pairs_export, served, vocabulary, writing
from ctr_jax.tables import leaf as leaf_lib
from ctr_jax.tables import trees

Vocabulary = Callable[[str], Sequence[str] | None]


def write(
  folder: str | pathlib.Path,
  model: predict.Model,
  rules: codec_lib.Rules,
  stored: Any,
  net: Mapping[str, Any],
  source: columns.Source,
  vectors: pairs_export.Vectors | None = None,
) -> pathlib.Path:
  """Writes an artifact; it appears when it is complete and on the disk, and not before.

  Args:
    folder: to make; it must not be there.
    model: what `predict.build` made.
    rules: that it was built with (the chains that are described).
    stored: arrays laid out as `model.codec.plan`.
    net: the net's variables.
    source: the data set whose columns the model reads, for its schema and vocabularies. Features
      that are made of pairs (`data.crosses`) are made by the artifact as well.
    vectors: for features that are scores of pre-trained node vectors. Without them scores, like
      all columns of unknown making, are raw columns of their names.

  Returns:
    The folder.

  Raises:
    ValueError: a technique is not served, a column has no raw values that it could be made of, or
      the data have grown since the model was built.
    FileExistsError: the folder is there.
  """
  folder = pathlib.Path(folder)
  pairs = pairs_export.find([f.name for f in model.features], source, vectors)
  described = _described(model, rules, source, pairs)
  host = served.build(described, source.schema)
  _check(host, model)
  _check_rows(model, source)
  arrays = _arrays(model, stored, net, source, pairs)
  with writing.folder(folder) as made:
    files, entries = {}, {}
    for path, array in arrays.items():
      name = artifact_lib.file_of(path)
      entries[path] = writing.entry(path, array)
      files[name] = writing.file(made, name, writing.blocks(array))
    kept = leaf_lib.flatten({table: stored[table] for table in host.codecs})
    program = forward.program(model, host, kept, trees.nested(_net(net)))
    packed = zlib.compress(program, 9)
    files[artifact_lib.FORWARD] = writing.file(made, artifact_lib.FORWARD, [packed])
    manifest = {
      'format': artifact_lib.FORMAT,
      'name': source.schema.name,
      'data': source.checksum,
      'schema': source.schema.to_dict(),
      'model': described,
      'bytes': _bytes(arrays),
      'versions': _versions(),
      'forward': {'bytes': len(program), 'platforms': list(forward.PLATFORMS)},
      'arrays': entries,
      'onnx': _onnx(made, host, entries, files),
      'files': files,
    }
    writing.file(made, artifact_lib.MANIFEST, [artifact_lib.text_of(manifest)])
  return folder


def _described(model, rules, source, pairs):
  """The model in plain JSON, see `served.build`."""
  tables = list(dict.fromkeys(f.table for f in model.features))
  lists = [f for f in model.features if f.kind == 'ids']
  described = {
    'features': [f.name for f in model.features],
    'widths': {f.name: _width(source, f) for f in lists},
    'rows': {table: int(model.rows[table]) for table in tables},
    'chains': {table: codec_lib.describe(codec_lib.match(table, rules)) for table in tables},
    'width': model.width,
    'net': describe_net(model.net),
    'made': pairs.made,
    'vectors': pairs.vectors,
    'all_rows': {f.table: int(source.rows[f.table]) for f in _looked_up(model, source, pairs)},
  }
  return json.loads(json.dumps(described))


def _width(source, feature):
  return source.read('train', [feature.name], 0, 1)[feature.name].shape[1]


def describe_net(net: nn.Module) -> dict[str, Any]:
  """A net as plain JSON: the class of the module, and its settings."""

  def plain(value):
    if isinstance(value, nn.Module):
      return describe_net(value)
    return list(value) if isinstance(value, (tuple, list)) else value

  fields = [f.name for f in dataclasses.fields(net) if f.name not in ('parent', 'name')]
  return {'net': type(net).__name__} | {name: plain(getattr(net, name)) for name in fields}


def _check(host, model):
  """The host's plan is that of training, leaf by leaf."""
  plan = {t: model.codec.plan[t] for t in host.codecs}
  wanted = {p: (x.shape, np.dtype(x.dtype).name) for p, x in leaf_lib.flatten(plan).items()}
  found = {p: (x.shape, x.dtype) for p, x in host.leaves.items()}
  wrong = sorted(p for p in wanted.keys() | found.keys() if wanted.get(p) != found.get(p))
  if wrong:
    raise ValueError(
      f'{wrong[0]!r} is stored as {wanted.get(wrong[0])}, and by these rules it would be '
      f'{found.get(wrong[0])}: give the rules that the model was built with.'
    )


def _check_rows(model, source):
  """Every value that the data know has a row in the model."""
  for table in dict.fromkeys(f.table for f in model.features):
    if source.rows[table] > model.rows[table]:
      raise ValueError(
        f'Table {table!r} has {model.rows[table]} rows in the model and {source.rows[table]} in '
        f'{source.schema.name!r}: values that came after it was built have no vector. Export it '
        'with the version of the data that it was trained on (`columns.open_columns`).'
      )


def _net(net):
  return {path: x for path, x in trees.flatten(net).items() if hasattr(x, 'shape')}


def _looked_up(model, source, pairs):
  """A feature of each table that values are looked up in."""
  bases = [x for how in pairs.made.values() for x in (how['first'], how['second'])]
  names = dict.fromkeys([*(f.name for f in model.features), *bases])
  by_table = {source.schema.feature(name).table: source.schema.feature(name) for name in names}
  return [f for f in by_table.values() if f.kind not in ('hash', 'numeric')]


def _arrays(model, stored, net, source, pairs):
  """Every array of the artifact by path, in NumPy."""
  tables = list(dict.fromkeys(f.table for f in model.features))
  kept = leaf_lib.flatten({table: stored[table] for table in tables})
  arrays = {f'tables/{path}': np.asarray(x) for path, x in kept.items()}
  arrays |= {f'net/{path}': np.asarray(x) for path, x in _net(net).items()}
  for feature in _looked_up(model, source, pairs):
    words = words_of(source, feature)
    if words is not None:
      index = vocabulary.numbers if feature.kind == 'bucket' else vocabulary.texts
      arrays |= {f'vocabulary/{feature.table}/{name}': x for name, x in index(words).items()}
  return arrays | pairs.arrays


def words_of(source: columns.Source, feature: schema_lib.Feature) -> Sequence[str] | None:
  """The values of rows 1, 2, ... of a feature's table; None where row numbers are the values."""
  part = source.owner(feature.name) if hasattr(source, 'owner') else source
  if feature.kind in ('hash', 'numeric') or not hasattr(part, 'vocabulary'):
    return None
  return part.vocabulary(feature.table)[0]


def _bytes(arrays):
  """Of the arrays, by what they are."""
  found = collections.Counter({'tables': 0, 'net': 0, 'vocabulary': 0, 'lookup': 0, 'vectors': 0})
  for path, array in arrays.items():
    found[path.split('/')[0].replace('cross', 'vectors')] += array.nbytes
  return dict(found)


def _versions():
  packages = ('jax', 'jaxlib', 'flax', 'numpy')
  return {name: importlib.metadata.version(name) for name in packages}


def _onnx(folder, host, entries, files):
  """Writes model.onnx; returns {'file': ...}, or {'without': why there is none}."""
  if importlib.util.find_spec('onnx') is None:
    return {'without': "the package onnx was not installed: pip install 'ctr_jax[serve]'"}
  from ctr_jax.serve import onnx_export

  try:
    nets.build(host.net)
    graph = onnx_export.program(host, entries)
  except ValueError as error:
    return {'without': str(error)}
  files[artifact_lib.ONNX] = writing.file(folder, artifact_lib.ONNX, [graph])
  return {'file': artifact_lib.ONNX}
