"""ONNX Runtime over `model.onnx`, whose tables are the artifact's files, mapped by the runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from ctr_jax.serve import artifact as artifact_lib
from ctr_jax.serve import served


def make(artifact: artifact_lib.Artifact, model: served.Model):
  """Columns of B samples → logits, float32 [B].

  Raises:
    ValueError: the artifact has no ONNX graph; the sentence says why.
    ImportError: ONNX Runtime is not installed.
  """
  without = artifact.manifest['onnx'].get('without')
  if without:
    raise ValueError(f'{artifact.folder} has no ONNX graph: {without}')
  try:
    import onnxruntime
  except ImportError:
    raise ImportError(
      "scorer='onnx' needs ONNX Runtime: pip install 'ctr_jax[serve]', or choose another scorer."
    ) from None
  artifact.read(artifact_lib.ONNX)
  options = onnxruntime.SessionOptions()
  # The runtime has threads of its own; it is told what other libraries read themselves.
  threads = os.environ.get('OMP_NUM_THREADS', '')
  if threads.isascii() and threads.isdigit():
    options.intra_op_num_threads = int(threads)
  session = onnxruntime.InferenceSession(
    str(artifact.folder / artifact_lib.ONNX), options, providers=['CPUExecutionProvider']
  )

  def score(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    inputs = served.inputs(model, columns)
    fed = {f'index/{path}': x for path, x in inputs.index.items()}
    fed |= {f'values/{name}': x for name, x in inputs.values.items()}
    return session.run(['logit'], fed)[0]

  return score
