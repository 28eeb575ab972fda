"""Data sets side by side: columns made later are read as if they had always been there."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from ctr_jax.data import columns, history
from ctr_jax.data import schema as schema_lib


class Beside:
  """A source and columns beside it; a Source. Made by `join`.

  Attributes (beyond a Source's):
    title: of the source.
    lookups: see `additions.Made`.
  """

  def __init__(self, base: columns.Source, added: Sequence[columns.Columns]):
    parts = (base, *added)
    features = tuple(f for part in parts for f in part.schema.features)
    self.schema = dataclasses.replace(base.schema, features=features)
    self.rows = {table: n for part in parts for table, n in part.rows.items()}
    digests = ' '.join(part.checksum for part in parts)
    self.checksum = hashlib.sha256(digests.encode()).hexdigest()
    self.extras, self.title = base.extras, getattr(base, 'title', base.schema.name)
    self.lookups = dict(getattr(base, 'lookups', {}))
    for part in added:
      self.lookups |= part.manifest.get('lookups', {})
    self._base = base
    self._owner = {name: part for part in added for name in part.schema.names}

  def num_samples(self, split: str) -> int:
    """Samples of 'train', 'valid' or 'test'."""
    return self._base.num_samples(split)

  def read(self, split: str, names: Sequence[str], start: int, stop: int) -> dict[str, np.ndarray]:
    """Samples start..stop of a split; see `columns.Source.read`."""
    wanted = {}
    for name in dict.fromkeys(names):
      wanted.setdefault(self._owner.get(name, self._base), []).append(name)
    found = {}
    for part, own in wanted.items():
      found |= part.read(split, own, start, stop)
    return {name: found[name] for name in names}

  def owner(self, name: str) -> columns.Source:
    """The source that a feature is a column of."""
    part = self._owner.get(name, self._base)
    return part.owner(name) if isinstance(part, Beside) else part

  def lookup_bytes(self, names: Sequence[str]) -> int:
    """Bytes of the lookups that serving these features needs."""
    needed = set(names)
    return sum(x['bytes'] for x in self.lookups.values() if needed & set(x['features']))


def join(base: columns.Source, *added: columns.Columns) -> columns.Source:
  """The source with columns beside it.

  Args:
    base: any source.
    *added: columns made of it (`crosses.add`), or encoded from the same files in the same order.

  Raises:
    ValueError: columns of other samples, or a name that is already taken.
  """
  for part in added:
    _check(base, part)
    base = Beside(base, [part])
  return base


def _check(base, part):
  taken = set(base.schema.names) | set(base.rows) | set(base.extras)
  twice = sorted(taken & (set(part.schema.names) | set(part.rows)))
  if twice:
    raise ValueError(f'{part.path} has {", ".join(twice)}, which {base.schema.name!r} has too.')
  counts = {split: base.num_samples(split) for split in schema_lib.SPLITS}
  if part.manifest['samples'] != counts:
    raise ValueError(
      f'{part.path} has {part.manifest["samples"]} samples, and {base.schema.name!r} {counts}: '
      'columns are read side by side only where they are of the same samples.'
    )
  if 'beside' not in part.manifest:
    _check_labels(base, part)
  elif not checksums(base) & set(part.manifest['beside']):
    raise ValueError(
      f'{part.path} was made of another data set than {base.schema.name!r}: make it again.'
    )


def checksums(source: columns.Source) -> set[str]:
  """Of a source, of its versions before columns came and went, and of those that it was joined of:
  all are of the same samples."""
  found = {source.checksum, *getattr(source, 'manifest', {}).get('same_samples', ())}
  if isinstance(source, Beside):
    found |= checksums(source._base)
  return found


def _check_labels(base, part):
  """Files that were encoded apart are the same samples, in order, if they have the same labels."""
  for split in schema_lib.SPLITS:
    total = base.num_samples(split)
    for start in range(0, total, history.BLOCK):
      stop = min(start + history.BLOCK, total)
      one, other = (x.read(split, ('label',), start, stop)['label'] for x in (base, part))
      if not np.array_equal(one, other):
        raise ValueError(
          f'{part.path} has other labels in {split} than {base.schema.name!r}: the samples are '
          'not the same, or not in the same order.'
        )
