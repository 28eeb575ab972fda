"""A sweep as an array job of Slurm, and its report as a job that depends on it.

Several hosts of a row are the tasks of one `srun`, which tells each who the others are.
"""

from __future__ import annotations

import re
import shlex

from launch import batch

PROGRAM, FILE = 'sbatch', 'sweep.sbatch'
INSTALL = 'Slurm is installed by whoever runs the cluster: submit from one of its login nodes.'

# B: is the shell, which passes the signal on (launch/batch.py).
_HEAD = """\
#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}{limit}
#SBATCH --output={logs}/%x-%A_%a.log
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
"""


def text(sweep: batch.Batch) -> str:
  """The batch script.

  Raises:
    ValueError: the folder of logs has a name that a line of options cannot hold.
  """
  if re.search(r'[\s"\'\\%]', sweep.logs):
    raise ValueError(
      f'--place=slurm: {sweep.logs} has a blank, a quote, a backslash or a %, which #SBATCH lines '
      'cannot hold; give another --workdir.'
    )
  limit = f'%{sweep.at_once}' if sweep.at_once else ''
  head = _HEAD.format(name=sweep.name, last=len(sweep.jobs) - 1, limit=limit, logs=sweep.logs)
  if sweep.accelerators:
    head += f'#SBATCH --gres={sweep.accelerators}\n'
  jobs = sweep.jobs
  if sweep.hosts > 1:
    head += f'#SBATCH --nodes={sweep.hosts}\n#SBATCH --ntasks-per-node=1\n'
    jobs = [[f'srun --kill-on-bad-exit {command}' for command in job] for job in jobs]
  return f'{head}\n{batch.script("SLURM_ARRAY_TASK_ID", jobs)}'


def submit(sweep: batch.Batch, file: str) -> str:
  """The shell that submits `file`, and the report for when all rows are done."""
  gres = f'--gres={sweep.accelerators} ' if sweep.accelerators else ''
  flags = f'{sweep.flags} ' if sweep.flags else ''
  return (
    f'job=$(sbatch --parsable {flags}{shlex.quote(file)})\n'
    'echo "Submitted the rows as job $job."\n'
    f'sbatch --dependency="afterok:${{job%%;*}}" --kill-on-invalid-dep=yes {flags}{gres}\\\n'
    f'  --job-name={sweep.name}-report --output={shlex.quote(sweep.logs)}/%x-%j.log \\\n'
    f'  --wrap={shlex.quote(sweep.report)}\n'
  )
