"""What `bench.serve` asks of exported models, and what it makes of the times; without flags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ctr_jax.serve import export

REQUESTED = 40_000
"""Rows that requests are cut from, at most."""


class Child(Protocol):
  """A scoring process: its artifact and scorer, what opening took, and milliseconds by size."""

  artifact: str
  scorer: str
  opened: dict[str, Any]
  times: dict[int, dict[str, list[float]]]


def count(source) -> int:
  """How many rows requests are cut from."""
  return min(REQUESTED, source.num_samples('test'))


def requests(source) -> dict[str, list[Any]]:
  """Raw values of samples of test, by column.

  Texts and numbers are what they were before they were encoded; of a hash or a bucket only its
  number is known, and asked for: looking it up costs the same.
  """
  features = {f.column: f for f in source.schema.features}
  read = source.read('test', [f.name for f in features.values()], 0, count(source))
  return {column: _raw(source, f, read[f.name]) for column, f in features.items()}


def fitting(sizes: Sequence[str], rows: int) -> list[int]:
  """The sizes of batches that so many rows can fill; says which it leaves out.

  Raises:
    ValueError: none is left.
  """
  asked = [int(size) for size in sizes]
  found = [size for size in asked if 1 <= size <= rows]
  if not found:
    raise ValueError(f'--sizes={",".join(sizes)}: test has {rows} rows to make a batch of.')
  for size in asked:
    if size not in found:
      print(f'Batches of {size} are left out: test has {rows} rows to make them of.')
  return found


def _raw(source, feature, column):
  """None where a value is missing."""
  if feature.kind == 'numeric':
    return [None if np.isnan(x) else x for x in column.tolist()]
  words = export.words_of(source, feature) or range(1, 1 + int(column.max(initial=0)))

  def value(row):
    return words[row - 1] if row > 0 else None

  if feature.kind == 'ids':
    return [[value(row) for row in cell if row >= 0] for cell in column.tolist()]
  return [value(row) for row in column.tolist()]


def row(child: Child, reference: Child, size: int) -> dict[str, Any]:
  """What was measured of one process at one size of batch, and how many times as fast it is."""

  def milliseconds(one, kind):
    return {p: float(np.percentile(one.times[size][kind], p)) for p in (50, 95, 99)}

  found = {kind: milliseconds(child, kind) for kind in ('raw', 'encoded')}
  of_first = {kind: milliseconds(reference, kind)[50] / x[50] for kind, x in found.items()}
  return {
    'artifact': child.artifact,
    'scorer': child.scorer,
    'batch': size,
    'stored_bytes': child.opened['stored'],
    'memory_bytes': child.opened['memory'],
    'load_seconds': child.opened['seconds'],
    'milliseconds': found,
    'samples_per_second': {kind: 1e3 * size / x[50] for kind, x in found.items()},
    'times_as_fast': of_first,
  }
