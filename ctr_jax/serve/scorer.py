"""What a service needs of a model: `open` a folder, `predict` raw columns."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SCORERS = ('numpy', 'jax', 'onnx')
"""Who may score: the reference, the exported function under jit, ONNX Runtime."""


class BadInput(ValueError):
  """Raw values that cannot be scored; the message names the column, the row and the remedy."""


class Scorer:
  """A model that scores raw values. Made by `open`; safe to call from several threads.

  Attributes:
    columns: raw column → kind of the feature that reads it: 'id', 'ids', 'hash' (texts; numbers
      are read as their text), 'numeric' or 'bucket' (numbers, or texts of numbers).
    version: SHA-256 of the artifact's manifest, which names the checksum of every other file.
    nbytes: of the stored tables and the net's parameters.
  """

  columns: dict[str, str]
  version: str
  nbytes: int

  def predict(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """Raw values → probabilities.

    Args:
      columns: raw column → values of equal length B, each a str, int, float, bool or None (missing,
        as is an empty text); of `ids` columns also lists of these. Every column of `self.columns`
        is needed; others that the schema knows (the label, features that were dropped) may be
        there and are not read.

    Returns:
      float32 [B], the probability of a click.

    Raises:
      BadInput: a value of a wrong type, unequal lengths, an unknown or a missing column.
    """
    raise NotImplementedError

  def logits(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """As `predict`, before the logistic function: float32 [B]."""
    raise NotImplementedError


def open(folder: str | pathlib.Path, scorer: str = 'numpy') -> Scorer:
  """Opens an exported model.

  Args:
    folder: what `export` wrote.
    scorer: 'numpy', 'jax' or 'onnx'.

  Raises:
    ValueError: the artifact is damaged, or this scorer cannot score it; the sentence says why.
    FileNotFoundError: there is no artifact.
    ImportError: the scorer's package is not installed.
  """
  raise NotImplementedError
