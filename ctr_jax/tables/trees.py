"""Nested dicts by path: `item/way_0/code` names a tip. Without jax, for serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(tree: Any, prefix: str = '') -> dict[str, Any]:
  """`{path: tip}` of nested dicts; a bare tip has the path `prefix`."""
  if not isinstance(tree, Mapping):
    return {prefix: tree}
  flat = {}
  for name in sorted(tree):
    flat.update(flatten(tree[name], f'{prefix}/{name}' if prefix else name))
  return flat


def unflatten(like: Any, flat: Mapping[str, Any], prefix: str = '') -> Any:
  """The inverse of `flatten`, in the structure of `like` (so that empty nodes survive)."""
  if not isinstance(like, Mapping):
    return flat[prefix]
  return {
    name: unflatten(child, flat, f'{prefix}/{name}' if prefix else name)
    for name, child in like.items()
  }


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Nested dicts of what is named by paths; the inverse of `flatten` where no node is empty."""
  tree: dict[str, Any] = {}
  for path, tip in flat.items():
    *parts, last = path.split('/')
    node = tree
    for part in parts:
      node = node.setdefault(part, {})
    node[last] = tip
  return tree
