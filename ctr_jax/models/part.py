"""A trained net over other fields: the part of it that fewer need, or itself with more to come.

A field whose vector is zero says nothing in most nets, so that what reads it can be left out and
the logits stay: each row and column of a parameter has a label (`labels`), and is found by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from ctr_jax.models.labels import Axes, Label


def part(
  net: nn.Module,
  variables: Mapping[str, Any],
  fields: Sequence[str],
  kept: Sequence[str],
  width: int,
) -> dict[str, Any]:
  """Variables of the net over `kept` that give the logits of all fields with the others zero.

  Evaluated, not in training: there batches are normalised by statistics that the others change.

  Args:
    net: has `labels(fields, width)`, where zero vectors leave constants `settled` (see `DCN`), and
      where more fields bring more of what is of no field, `widened` (see `FiBiNET`).
    variables: trained over `fields`: {'params': ..., 'batch_stats': ...}.
    fields: names, in the order of the vectors.
    kept: some of them, in the order of the smaller net's vectors.
    width: columns of a vector, a linear weight included.

  Raises:
    ValueError: a field is unknown or named twice, nothing is kept, the variables are not of
      `fields` and `width`, or zero vectors have a say in this net.
  """
  unknown = [field for field in kept if field not in fields]
  if unknown:
    raise ValueError(
      f'{_name(net)} was trained without {_words(unknown)}, so no part of it reads them. It knows '
      f'{_words(fields)}: keep some of these, or train a net anew.'
    )
  return _moved(net, variables, fields, kept, width)


def grown(
  net: nn.Module,
  variables: Mapping[str, Any],
  fields: Sequence[str],
  more: Sequence[str],
  width: int,
  drawn: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Variables of the net over `more`, all weights of new fields zero: the inverse of `part`.

  Logits stay where the new vectors are zero; elsewhere too, if nothing in the net reads vectors
  but by weights of their own (`net.weighs_all`; not so the sums of LR and of factorization
  machines). Where a new weight is multiplied by a vector, start one of them elsewhere: of two zeros
  neither learns, which also holds for matrices and MLP of FiBiNET's new pairs.

  Args:
    net, variables, fields, width: see `part`.
    more: all of `fields` and new ones, in the order of the larger net's vectors.
    drawn: variables of the net over `more` as they are before training, of which new weights are
      taken in place of zeros: for vectors that are zero.

  Raises:
    ValueError: as `part`; or `more` leaves out a field.
  """
  missing = [field for field in fields if field not in more]
  if missing:
    raise ValueError(
      f'{_name(net)} cannot grow by leaving out {_words(missing)}: name all of its fields, or take '
      'the part of it first.'
    )
  return _moved(net, variables, fields, more, width, drawn)


def moves(
  net: nn.Module, before: Sequence[str], after: Sequence[str], width: int
) -> dict[str, tuple[Axes, Axes]]:
  """Path of a parameter that depends on the fields → its labels over `before` and over `after`."""
  old, new = (net.labels(tuple(fields), width) for fields in (before, after))
  return {path: (old[path], new[path]) for path in old}


def gathered(array: Any, old: Axes, new: Axes, fresh: Any = None) -> Any:
  """`array`, or anything of its shape such as an optimizer's moments, over other labels.

  Args:
    array: of the shape that `old` describes.
    old: its labels.
    new: those wanted.
    fresh: of the shape wanted, what is new; zeros if not given.
  """
  array = np.asarray(array)
  shape = [n if there is None else len(there) for n, there in zip(array.shape, new, strict=True)]
  found = np.zeros(shape, array.dtype) if fresh is None else np.array(fresh, array.dtype)
  here, there = [], []
  for size, one, other in zip(array.shape, old, new, strict=True):
    place = {label: i for i, label in enumerate(range(size) if one is None else one)}
    both = [(place[x], i) for i, x in enumerate(place if one is None else other) if x in place]
    source, target = np.array(both, np.int64).reshape(-1, 2).T
    here.append(source)
    there.append(target)
  found[np.ix_(*there)] = array[np.ix_(*here)]
  return jnp.asarray(found)


def _moved(net, variables, before, after, width, drawn=None):
  """What is of the same label is copied, what is new is drawn, or zero."""
  _check(net, before, after)
  axes = moves(net, before, after, width)
  fresh = traverse_util.flatten_dict(drawn['params'], sep='/') if drawn else {}
  widens = hasattr(net, 'widened') and set(before) <= set(after)
  if fresh and widens:
    fresh = net.widened(fresh, tuple(before), tuple(after))
  params = traverse_util.flatten_dict(variables['params'], sep='/')
  for path, (old, _) in axes.items():
    _fits(net, path, params.get(path), old, f'{len(before)} fields of {width} columns')
  gone = set(before) - set(after)
  if gone and hasattr(net, 'settled'):
    params |= net.settled(params, tuple(before), gone, width)
  changed = gone | (set(after) - set(before))
  for path, (old, new) in axes.items():
    _same_but(changed, net, path, old, new, widens)
    params[path] = gathered(params[path], old, new, fresh.get(path))
  return {**variables, 'params': traverse_util.unflatten_dict(params, sep='/')}


def _check(net, before, after):
  for fields in (before, after):
    twice = sorted({field for field in fields if fields.count(field) > 1})
    if twice:
      raise ValueError(
        f'Fields are told apart by their names, but {_words(twice)} is named twice: name it once.'
      )
  if not after:
    raise ValueError(f'No field of {_name(net)} is kept: keep at least one of {_words(before)}.')
  if not hasattr(net, 'labels'):
    raise ValueError(
      f'{_name(net)} does not say which fields its parameters are of, so no part of it can be '
      'taken: give it a method `labels(fields, width)`, or train a net anew.'
    )


def _fits(net, path, array, axes, wanted):
  if array is None:
    raise ValueError(
      f'These variables have no {path!r}: they are of another net than {_name(net)} with these '
      'settings. Take the part with the settings that it was trained with.'
    )
  sizes = tuple(n if x is None else len(x) for n, x in zip(array.shape, axes, strict=True))
  if array.shape != sizes:
    raise ValueError(
      f'{_name(net)}: {path!r} has the shape {array.shape}, but for {wanted} it would be {sizes}. '
      'Name the fields that it was trained with, all of them, and the width of their vectors.'
    )


def _same_but(changed, net, path, old: Axes, new: Axes, widens: bool):
  """Refuses if anything goes or comes that is of no field that does (comes: unless it `widens`)."""
  for here, there in zip(old, new, strict=True):
    one, other = set(here or ()), set(there or ())
    moved: set[Label] = one - other if widens else one ^ other
    if any(changed.isdisjoint(label.fields) for label in moved):
      raise ValueError(
        f'{_name(net)}: the size of {path!r}, or what it means, depends on how many fields there '
        'are or on their order, and not only on which: no part of it gives the same logits. Keep '
        'the order, drop or add fewer fields, or train a net anew.'
      )


def _name(net):
  return type(net).__name__


def _words(names):
  return ', '.join(map(repr, names))
