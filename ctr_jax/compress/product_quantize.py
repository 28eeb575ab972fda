"""Codes of centroids, one for each part of a row."""

from __future__ import annotations

from ctr_jax.compress import codebook, kmeans
from ctr_jax.compress.codec import WHOLE, Codec, technique


@technique
def product_quantize(centroids: int = 256, parts: int = 2, iterations: int = 10):
  """Each part of a row is one of `centroids` vectors (Jégou et al., product quantization, 2011).

  vector[id] = codebook_1[code_1] ‖ … ‖ codebook_p[code_p]: `parts` bytes an id, and a codebook that
  does not grow with the ids. Exact when every part has at most `centroids` distinct slices.

  `encode` runs k-means on each part. The codes are frozen and the codebook, read whole, is trained
  on by the net's optimizer; no table is left for a further link.

  Args:
    centroids: vectors of each part, at most 256 (a code is a byte, whatever their number).
    parts: slices of ⌈cols/parts⌉ columns.
    iterations: of Lloyd's algorithm.
  """
  codebook.check('product_quantize', centroids, parts, iterations)

  def build(leaf):
    cols, sub = leaf.shape[1], codebook.width('product_quantize', leaf, parts)
    stored = min(centroids, leaf.rows)
    plan = {
      'code': codebook.codes(leaf.rows, parts, stored),
      'codebook': codebook.vectors(leaf, parts, stored, sub),
    }

    def encode(table):
      codes, centres = kmeans.by_part(table, parts, stored, iterations)
      return {'code': codes, 'codebook': centres}

    def decode(gathered, **context):
      return codebook.look_up(gathered['codebook'], gathered['code'])[..., :cols]

    return Codec(plan, encode, lambda ids: {'code': ids, 'codebook': WHOLE}, decode)

  return build
