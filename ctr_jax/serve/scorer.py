"""What a service needs of a model: `open` a folder, `predict` raw columns."""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ctr_jax.data import schema as schema_lib
from ctr_jax.serve import artifact as artifact_lib
from ctr_jax.serve import encoder, served
from ctr_jax.serve.raw_values import BadInput

__all__ = ['SCORERS', 'BadInput', 'Scorer', 'open']

SCORERS = ('numpy', 'jax', 'onnx')
"""Who may score: the reference, the exported function under jit, ONNX Runtime."""

Score = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class Scorer:
  """A model that scores raw values. Made by `open`; safe to call from several threads.

  Attributes:
    columns: raw column → kind of the feature that reads it: 'id', 'ids', 'hash' (texts; numbers
      are read as their text), 'numeric' or 'bucket' (numbers, or texts of numbers).
    version: SHA-256 of the artifact's manifest, which names the checksum of every other file.
    nbytes: of the stored tables, what is looked up before them, and the net's parameters.
    manifest: what the artifact says of itself.
  """

  columns: dict[str, str]
  version: str
  nbytes: int
  manifest: dict[str, Any]

  def __init__(self, artifact: artifact_lib.Artifact, model: served.Model, score: Score):
    self.version, self.manifest = artifact.version, artifact.manifest
    sizes = artifact.manifest['bytes']
    self.nbytes = sum(sizes[name] for name in ('tables', 'lookup', 'vectors', 'net'))
    self._encoder = encoder.Encoder(artifact, model)
    self.columns = self._encoder.columns
    self._model, self._score = model, score

  def predict(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """Raw values → probabilities.

    Args:
      columns: raw column → values of equal length B, each a str, int, float, bool or None (missing,
        as is an empty text); of `ids` columns also lists of these. A float32 means the number of
        its own text, 1.1, as where training reads one. Every column of `self.columns`
        is needed; others that the schema knows (the label, features that were dropped) may be
        there and are not read.

    Returns:
      float32 [B], the probability of a click.

    Raises:
      BadInput: a value of a wrong type, unequal lengths, an unknown or a missing column; a number
        that is too large for the model.
      ValueError: the model gives a probability that is not a number, whatever it is asked.
    """
    found = self.unchecked(columns)
    if not np.isfinite(found).all():
      raise fault(self.unchecked, self.columns, columns, found)
    return found

  def unchecked(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """As `predict`, with NaN where there is no probability; see `fault`."""
    x = self.logits(columns).astype(np.float64)
    with np.errstate(over='ignore'):
      return (1 / (1 + np.exp(-x))).astype(np.float32)

  def logits(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """As `predict`, before the logistic function: float32 [B]."""
    return self.score(self.encode(columns))

  def encode(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
    """Raw values → feature → column, as an encoded data set has it (`columns.Source.read`)."""
    return self._encoder.encode(columns)

  def score(self, encoded: Mapping[str, np.ndarray]) -> np.ndarray:
    """Encoded columns of B samples → logits, float32 [B].

    Raises:
      ValueError: a feature has no column, or columns are of unequal lengths.
    """
    names = [f.name for f in self._model.features]
    if missing := [name for name in names if name not in encoded]:
      raise ValueError(f'Feature {missing[0]!r} has no column; the model reads {", ".join(names)}.')
    lengths = {len(encoded[name]): name for name in names}
    if len(lengths) > 1:
      (one, first), (other, second) = list(lengths.items())[:2]
      raise ValueError(f'Feature {first!r} has {one} rows, and {second!r} has {other}.')
    if 0 in lengths:
      return np.zeros(0, np.float32)
    return self._score(encoded)


def fault(
  predict: Callable[[Mapping[str, Sequence[Any]]], np.ndarray],
  kinds: Mapping[str, str],
  columns: Mapping[str, Sequence[Any]],
  probabilities: np.ndarray,
) -> ValueError:
  """Why some probabilities are not numbers.

  A number may be a float32 and still have a square that is none. If the model can score the rows
  without their numbers, these are at fault, and else the model.

  Args:
    predict: the model's, unchecked.
    kinds: `Scorer.columns`.
    columns: what was asked.
    probabilities: what was answered.

  Returns:
    BadInput that names the number, or a ValueError.
  """
  finite = np.isfinite(probabilities)
  numbers = [name for name, kind in kinds.items() if kind in ('numeric', 'bucket')]
  without = predict({**columns, **{name: [None] * len(finite) for name in numbers}})
  if not numbers or not np.isfinite(without).all():
    return ValueError('The model gave a probability that is not a number.')
  row = int(np.argmin(finite))
  values = {name: list(columns[name])[row] for name in numbers}
  largest = max(numbers, key=lambda name: _size(values[name]))
  return BadInput(
    f'Column {largest!r}, row {row}: {str(values[largest])[:40]} is too large a number for this '
    'model, which gives no probability then.'
  )


def _size(number):
  """Of a value that was read as a number; 0 of a missing one."""
  size = abs(float(number or 0))
  return size if size > 0 else 0.0


def open(folder: str | pathlib.Path, scorer: str = 'numpy') -> Scorer:
  """Opens an exported model.

  Args:
    folder: what `export.write` made.
    scorer: 'numpy', 'jax' or 'onnx'.

  Raises:
    ValueError: the artifact is damaged, or this scorer cannot score it; the sentence says why.
    FileNotFoundError: there is no artifact, or a file of it is missing.
    ImportError: the scorer's package is not installed.
  """
  if scorer not in SCORERS:
    raise ValueError(f'There is no scorer {scorer!r}; there are {", ".join(SCORERS)}.')
  artifact = artifact_lib.open_artifact(folder)
  try:
    schema = schema_lib.Schema.from_dict(artifact.manifest['schema'])
    model = served.build(artifact.manifest['model'], schema)
    _check_plan(artifact, model)
  except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError) as error:
    raise ValueError(
      f'{artifact.folder / artifact_lib.MANIFEST} does not describe a model that this version can '
      f'read ({error!r}). Export the model again.'
    ) from error
  # Imported when chosen: the NumPy scorer must not need jax, nor either of them ONNX Runtime.
  make = importlib.import_module(f'ctr_jax.serve.{scorer}_scorer').make
  return Scorer(artifact, model, make(artifact, model))


def _check_plan(artifact, model):
  """The arrays are those that the chains describe."""
  plan = {p: (list(x.shape), x.dtype) for p, x in model.leaves.items()}
  named = {p: e for p, e in artifact.manifest['arrays'].items() if p.startswith('tables/')}
  found = {p.removeprefix('tables/'): (e['shape'], e['dtype']) for p, e in named.items()}
  wrong = sorted(p for p in plan.keys() | found.keys() if plan.get(p) != found.get(p))
  if wrong:
    raise ValueError(
      f'{artifact.folder}: the array {wrong[0]!r} is {found.get(wrong[0])}, and its chain stores '
      f'{plan.get(wrong[0])}. Export the model again.'
    )
