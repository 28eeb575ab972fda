"""The exported function under jit, its arrays on the device."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ctr_jax.serve import artifact as artifact_lib
from ctr_jax.serve import served
from ctr_jax.tables import trees


def make(artifact: artifact_lib.Artifact, model: served.Model):
  """Columns of B samples → logits, float32 [B].

  Batches are padded to powers of two, so few are compiled.
  """
  size = artifact.manifest['forward']['bytes']
  program = zlib.decompressobj().decompress(artifact.read(artifact_lib.FORWARD), size + 1)
  if len(program) != size:
    raise ValueError(f'{artifact.folder / artifact_lib.FORWARD} is not what the manifest says.')
  exported = export.deserialize(bytearray(program))
  call = jax.jit(exported.call)
  arrays, net = (
    {path: _placed(x, artifact.dtype(prefix + path)) for path, x in artifact.within(prefix).items()}
    for prefix in ('tables/', 'net/')
  )
  net = trees.nested(net)

  def score(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    inputs = served.inputs(model, columns)
    rows = len(next(iter(inputs.index.values())))
    spare = (1 << (rows - 1).bit_length()) - rows

    def padded(x):  # By the last sample again: padding of its own would not be a sample.
      return np.concatenate([x, np.repeat(x[-1:], spare, axis=0)]) if spare else x

    index, values = ({k: padded(x) for k, x in part.items()} for part in inputs)
    return np.asarray(call(arrays, net, index, values))[:rows]

  return score


def _placed(array, dtype):
  if dtype == 'bfloat16':
    return jax.lax.bitcast_convert_type(jnp.asarray(array), jnp.bfloat16)
  return jnp.asarray(array)
