"""A field's gate and its vectors are learned in turns, on different batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ctr_jax.compress import gate
from ctr_jax.compress.codec import technique


@technique
def autofield(
  temperature: float = 1.0, least: float = 0.01, cooling: float = 5e-5, every: int = 10
):
  """vector = p · row, p the first of a Gumbel softmax over {keep, drop} ("AutoField: Automating
  Feature Selection in Deep Recommender Systems", Wang et al., WWW 2022).

  A Gumbel softmax over two logits ≡ σ((their difference + logistic noise) / temperature), the
  Concrete gate; the difference is what is stored. In the paper gates learn from validation
  batches in turn with all else; here every so many steps gates learn from the batch and tables
  do not, else tables and not gates (the net learns from all). There is no price. Whose turn it is
  not has no gradient; L2 and an optimizer's moments move it all the same.

  Args:
    temperature: at first.
    least: at last.
    cooling: how much it falls each step.
    every: one step in so many is the gates'.
  """
  if not 0 < least <= temperature or cooling < 0 or every < 2:
    raise ValueError(
      'autofield needs 0 < least ≤ temperature, cooling ≥ 0 and every ≥ 2, got '
      f'{least}, {temperature}, {cooling} and {every}.'
    )

  def gates_turn(step):
    return step % every == every - 1

  def factor(logit, rows, *, train, rng, step, sample):
    if not train or rng is None:
      return jax.nn.sigmoid(logit)
    now, own = temperature, jnp.bool_(True)
    if step is not None:
      now = jnp.maximum(temperature - cooling * step.astype(jnp.float32), least)
      own = gates_turn(step)
    logit = jnp.where(own, logit, jax.lax.stop_gradient(logit))
    return gate.concrete(logit, rows, rng, sample, now)

  def build(leaf):
    codec = gate.gated(leaf, (1,), 0.0, factor)

    def decode(gathered, train=False, step=None, **context):
      if train and step is not None:
        table = gathered['table']
        gathered = gathered | {
          'table': jnp.where(gates_turn(step), jax.lax.stop_gradient(table), table)
        }
      return codec.decode(gathered, train=train, step=step, **context)

    return codec._replace(decode=decode)

  return build
