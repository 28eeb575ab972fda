"""Flags that say on which devices an experiment trains: several processes, a mesh, placements."""

from __future__ import annotations

import re

from absl import flags

from ctr_jax.tables import placement
from ctr_jax.train import mesh, processes

MESH = flags.DEFINE_string(
  'mesh',
  None,
  'DATAxMODEL, as 2x4: train on so many devices. Samples are split over all of them, tables over '
  'MODEL of them. Default: one device.',
)
PLACEMENT = flags.DEFINE_list(
  'placement',
  [],
  'With --mesh: PATTERN=WHERE, for arrays whose name matches; the first that does wins. WHERE is '
  'replicated, rows, columns, host (in its memory), or rows:data+model for both axes. Default: '
  'rows for arrays of 65,536 rows or more.',
)
SLACK = flags.DEFINE_float(
  'bucket_slack',
  1.25,
  'With --mesh: room for the rows that a device asks of another, as a multiple of an even share. '
  'Too little costs more rounds, and the overflow is in the metrics; nothing is lost.',
)
COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'Of several processes: HOST:PORT of the first.'
)
PROCESSES = flags.DEFINE_integer('processes', None, 'How many processes train together.')
PROCESS = flags.DEFINE_integer('process', None, 'The number of this process, from 0.')

_WHERE = {
  'replicated': lambda over: placement.replicated(),
  'rows': lambda over: placement.rows(over, least=1),
  'columns': placement.columns,
  'host': lambda over: placement.host(),
}


def join() -> None:
  """Joins the other processes, if there are any: before anything asks for devices."""
  processes.start(COORDINATOR.value, PROCESSES.value, PROCESS.value)


def chosen() -> mesh.Cluster | None:
  """The mesh that the flags ask for; None for one device.

  Raises:
    ValueError: several processes without a mesh, or flags that are not understood.
  """
  if not flags.FLAGS.is_parsed() or not MESH.value:
    if processes.joined():
      raise ValueError('Several processes train on one mesh: give --mesh=DATAxMODEL.')
    return None
  found = re.fullmatch(r'(\d+)x(\d+)', MESH.value)
  if not found:
    raise ValueError(f'--mesh={MESH.value}: it is DATAxMODEL, two numbers, as 2x4.')
  rules = (*map(rule, PLACEMENT.value), *placement.DEFAULT)
  return mesh.Cluster(mesh.make(*map(int, found.groups())), rules, slack=SLACK.value)


def rule(text: str) -> tuple[str, placement.Placement]:
  """PATTERN=WHERE → a rule for a mesh."""
  pattern, _, where = text.rpartition('=')
  kind, _, over = where.partition(':')
  if not pattern or kind not in _WHERE:
    raise ValueError(f'--placement={text}: it is PATTERN=WHERE, with WHERE {", ".join(_WHERE)}.')
  try:
    re.compile(pattern)
  except re.error as error:
    raise ValueError(f'--placement={text}: {pattern} is no pattern: {error}.') from error
  return pattern, _WHERE[kind](over.split('+') if over else 'model')
