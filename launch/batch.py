"""What is handed to a cluster: commands by job, what a job needs, and the shell that runs one."""

from __future__ import annotations

import dataclasses

# A shell waits for its children and tells them nothing of a signal of its own: hence the trap. A
# second `wait`, since a signal ends the first.
_SCRIPT = """\
failed=0 stopped= child=
trap 'stopped=1; [ -z "$child" ] || kill -TERM "$child"' TERM INT
row() {{  # A row that fails does not stop the others; one that is stopped saves a checkpoint first.
  [ -z "$stopped" ] || {{ failed=143; return; }}
  "$@" &
  child=$!
  [ -z "$stopped" ] || kill -TERM "$child"
  wait "$child" || failed=1
  [ -z "$stopped" ] || {{ wait "$child"; failed=143; }}
  child=
}}
case "${variable}" in
{cases}
*)
  echo "No job has the number '${variable}'." >&2
  failed=1
  ;;
esac
exit "$failed"
"""


@dataclasses.dataclass(frozen=True)
class Batch:
  """A sweep, for a cluster.

  Attributes:
    name: of the sweep.
    jobs: commands of each job, which run one after another.
    report: the command that makes the report of all, after them.
    logs: folder of what they say, where a place does not keep that itself.
    at_once: how many jobs run at a time; None for as many as there is room for.
    accelerators: of a host, in the words of the place.
    hosts: of a job: its commands run on each of them, and are one training together.
    image: that jobs run in.
    volume: what they share, in the words of the place.
    node_selector: labels of the nodes.
    flags: further flags of the command that submits.
  """

  name: str
  jobs: tuple[tuple[str, ...], ...]
  report: str
  logs: str = 'logs'
  at_once: int | None = None
  accelerators: str = ''
  hosts: int = 1
  image: str = ''
  volume: str = ''
  node_selector: tuple[str, ...] = ()
  flags: str = ''


def script(variable: str, jobs) -> str:
  """Shell that runs the commands of the job whose number an environment variable has."""
  cases = [
    f'{i})\n' + ''.join(f'  row {command}\n' for command in commands) + '  ;;'
    for i, commands in enumerate(jobs)
  ]
  return _SCRIPT.format(variable=variable, cases='\n'.join(cases))
