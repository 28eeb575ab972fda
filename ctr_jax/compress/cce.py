"""Clustered compositional embeddings: a learned row and a hashed row, one beside the other."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ctr_jax.compress import codebook, hashing, kmeans
from ctr_jax.compress.codec import WHOLE, Codec, technique
from ctr_jax.compress.multi_hash import bucket_mean
from ctr_jax.tables import gather
from ctr_jax.tables import leaf as leaf_lib


@technique
def cce(centroids: int, parts: int = 2, seed: int = 0, iterations: int = 10):
  """Part j of a vector is cluster_j[code_j(id)] + helper_j[hash_j(id)] (CCE, Tsang & Ahle, 2023).

  Codes start at random, so that training starts as two hashes; every few epochs `recluster` puts
  the ids whose vectors are alike into one cluster, and the helpers, zero again, learn what still
  tells them apart. With zero helpers this is ≡ product_quantize(centroids, parts).

  Codes are frozen (a byte per part). The clusters, read through codes that an address does not
  see, are read whole and trained by the net's optimizer; the helpers are tables, trained by rows.

  Args:
    centroids: rows of each cluster table and of each helper, at most 256.
    parts: slices of ⌈cols/parts⌉ columns.
    seed: of the first helper's hash; part j uses seed + j.
    iterations: of Lloyd's algorithm, in `encode`, which then fits the helpers to what is left over.
  """
  codebook.check('cce', centroids, parts, iterations)

  def build(leaf):
    rows, cols = leaf.shape
    sub, stored = codebook.width('cce', leaf, parts), min(centroids, rows)
    columns = [slice(j * sub, min(cols, (j + 1) * sub)) for j in range(parts)]
    zeros = dataclasses.replace(leaf, init=leaf_lib.constant(0.0))
    plan = {
      'code': codebook.codes(rows, parts, stored),
      'cluster': codebook.vectors(leaf, parts, stored, sub),
    }
    for j, at in enumerate(columns):
      plan[f'helper_{j}'] = dataclasses.replace(zeros, shape=(stored, at.stop - at.start))

    def address(ids):
      helpers = {f'helper_{j}': hashing.bucket(ids, seed + j, stored) for j in range(parts)}
      return {'code': ids, 'cluster': WHOLE} | helpers

    def decode(gathered, **context):
      helpers = jnp.concatenate([gathered[f'helper_{j}'] for j in range(parts)], axis=-1)
      return codebook.look_up(gathered['cluster'], gathered['code'])[..., :cols] + helpers

    def encode(table):
      codes, centres = kmeans.by_part(table, parts, stored, iterations)
      left = table.astype(jnp.float32) - codebook.look_up(centres, codes)[:, :cols]
      at = address(jnp.arange(rows))
      arrays = {'code': codes, 'cluster': centres}
      for j in range(parts):
        name = f'helper_{j}'
        arrays[name] = plan[name].stored(bucket_mean(left[:, columns[j]], at[name], stored))
      return arrays

    return Codec(plan, encode, address, decode)

  return build


def recluster(codec: Codec, stored: Any, iterations: int = 10) -> Any:
  """CCE's step between epochs: new clusters of the vectors as they are now, and zero helpers.

  Vectors move by the error of k-means, and not at all where `centroids` hold all of them. The paper
  clusters a sample of ids and draws new hashes for the helpers; here all ids are clustered, so that
  the full table exists for a moment, and the hashes stay, since a codec's addresses are its own.
  The helpers' optimizer state is the caller's to reset.

  Args:
    codec: of `cce`, for one table.
    stored: its arrays.
    iterations: of Lloyd's algorithm.

  Returns:
    Arrays laid out as `stored`. For jit.
  """
  ids = jnp.arange(codec.plan['code'].rows)
  vectors = codec.decode(gather.gather(codec.plan, stored, codec.address(ids)))
  parts, centroids, _ = codec.plan['cluster'].shape
  codes, centres = kmeans.by_part(vectors, parts, centroids, iterations)
  return jax.tree.map(jnp.zeros_like, stored) | {'code': codes, 'cluster': centres}
