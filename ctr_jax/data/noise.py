"""Noise as frequent as what is real: columns of a data set, permuted among its samples.

A permuted column has its feature's distribution to the sample, and says nothing of the label or of
any other column: what a selection of features should drop, in a wide set of real data.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ctr_jax.data import additions, beside, columns, draws, storage


def widened(source: columns.Source, out, copies: int, seed: int = 0) -> columns.Source:
  """The source, and beside each feature `copies` of it as noise: 'user.noise_1' and so on.

  Args:
    source: any.
    out: folder of the noise, made once; see `additions.make`.
    copies: of each feature. Each reads a table of its own, as large as the feature's.
    seed: of the permutations, of which every copy and split has its own.

  Returns:
    The source joined with the noise.

  Raises:
    ValueError: no copies, or a name that is already taken.
    FileExistsError: `out` holds something else.
  """
  if copies < 1:
    raise ValueError(f'{copies} noise copies of every feature: at least one is needed.')
  noise = {
    f'{feature.name}.noise_{number}': feature
    for feature in source.schema.features
    for number in range(1, copies + 1)
  }
  features = [  # Column and table are named after the copy where they are not given.
    dataclasses.replace(feature, name=name, column='', table='') for name, feature in noise.items()
  ]

  def fill(folder, counts):
    made = additions.Made({}, {}, {})
    for name, feature in noise.items():
      made.tables[name] = {'rows': source.rows[feature.table], 'kind': feature.kind}
      made.arrays.update(_write(folder, name, source, feature.name, counts, seed))
    return made

  made_of = {'noise': copies, 'seed': seed}
  found = beside.join(source, additions.make(source, out, features, made_of, fill))
  found.title += f', with {copies} noise copies of every feature'
  return found


def _write(folder, name, source, original, counts, seed):
  """Writes the column `name`, which is `original` permuted; its arrays."""
  empty = source.read('train', [original], 0, 0)[original]

  def permuted():
    for part, (split, total) in enumerate(counts.items()):
      column = source.read(split, [original], 0, total)[original]
      order = _permutation(draws.key(seed, f'noise {split}', name), total)
      yield np.full(total, part, np.int8), column[order]

  width = empty.shape[1] if empty.ndim == 2 else 0
  return storage.write_splits(folder, name, counts, permuted(), empty.dtype.name, width)


def _permutation(key, length):
  """Of 0..length, the same everywhere: in the order of hashes, of which no two are equal."""
  return np.argsort(draws.hashed(key, np.arange(length)))
