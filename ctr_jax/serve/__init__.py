"""Scoring with an exported model: raw values in, probabilities out, and no training code.

  scorer = serve.open('model', 'numpy')
  scorer.predict({'user': ['u1', None], 'price': [3.5, '2']})  # float32 [2]

`export` writes an artifact, `artifact` reads it, `numpy_scorer` is the reference that others port.
Opening an artifact with the NumPy scorer imports no jax.
"""

from ctr_jax.serve.scorer import BadInput, Scorer, open

__all__ = ['BadInput', 'Scorer', 'open']
