"""Rules of techniques as they are written on a command line: as in Python, names without quotes.

.*=cast(bfloat16, stochastic)
user|item=chain(hash_trick(1e8), cast(float16))
"""

from __future__ import annotations

import ast
import re

from ctr_jax import compress


def rule(text: str) -> tuple[str, compress.Technique]:
  """PATTERN=TECHNIQUE → a rule for `compress.bind`."""
  pattern, equals, call = text.partition('=')
  if not equals or not pattern:
    raise ValueError(f'--rules={text}: it is PATTERN=TECHNIQUE, as .*=cast(bfloat16, stochastic).')
  try:
    re.compile(pattern)
  except re.error as error:
    raise ValueError(f'--rules={text}: {pattern} is no pattern: {error}.') from error
  try:
    found = _value(ast.parse(call.strip(), mode='eval').body)
  except (SyntaxError, TypeError, ValueError) as error:
    raise ValueError(f'--rules={text}: {error}') from error
  if not isinstance(found, compress.Technique):
    raise ValueError(f'--rules={text}: {call} is no technique; write it as identity().')
  return pattern, found


def _value(node):
  if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
    known = compress.TECHNIQUES | {'chain': compress.chain}
    if node.func.id not in known:
      raise ValueError(f'there is no {node.func.id}; techniques are {", ".join(sorted(known))}.')
    named = {x.arg: _value(x.value) for x in node.keywords}
    return known[node.func.id](*map(_value, node.args), **named)
  if isinstance(node, (ast.Tuple, ast.List)):
    return tuple(map(_value, node.elts))
  if isinstance(node, ast.Name):
    return node.id
  found = ast.literal_eval(node)
  return int(found) if isinstance(found, float) and found.is_integer() and found > 1 else found
