"""The reference: NumPy alone, and of the tables the rows that are asked for."""

from __future__ import annotations

import numpy as np

from ctr_jax.serve import artifact as artifact_lib
from ctr_jax.serve import nets, served


def make(artifact: artifact_lib.Artifact, model: served.Model):
  """`Inputs` → logits, float32 [B].

  Raises:
    ValueError: the net is not written without jax.
  """
  net = nets.build(model.net)
  tables = artifact.within('tables/')
  parameters = {path: np.array(x) for path, x in artifact.within('net/').items()}

  def gathered(path, leaf, index):
    rows = tables[path][index[path]] if leaf.by_row else tables[path]
    return artifact_lib.loaded(np.asarray(rows), leaf.dtype)

  def score(inputs: served.Inputs) -> np.ndarray:
    rows = {path: gathered(path, leaf, inputs.index) for path, leaf in model.leaves.items()}
    return served.logits(np, model, net, parameters, rows, inputs.values)

  return score
