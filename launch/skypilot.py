"""A sweep as a task of SkyPilot: a managed job for each value of ROW; the last is the report."""

from __future__ import annotations

import json
import shlex
import textwrap

from launch import batch

PROGRAM, FILE = 'sky', 'sweep.sky.yaml'
INSTALL = "pip install 'skypilot[gcp]' (or [aws], [kubernetes], ...), then `sky check`."

_TASK = """\
name: {name}
workdir: .
envs:
  ROW: '0'
{nodes}resources:
{resources}file_mounts:
  /ctr_jax_workdir:
    source: {volume}
    mode: MOUNT_CACHED
setup: |
{setup}run: |
{run}"""
_LINK = 'ln -sfn /ctr_jax_workdir workdir\n'
# The hosts of a TPU pod too; SkyPilot runs the commands on each.
_HOSTS = """\
hosts=$(wc -l <<< "$SKYPILOT_NODE_IPS")
if [ "$hosts" -gt 1 ]; then
  export JAX_COORDINATOR_ADDRESS="$(head -n1 <<< "$SKYPILOT_NODE_IPS"):8476"
  export JAX_NUM_PROCESSES="$hosts" JAX_PROCESS_ID="$SKYPILOT_NODE_RANK"
fi
"""
_PYTHON = """\
python3 -m pip install -q uv
python3 -m uv venv -q --seed --python 3.12 ~/ctr_jax
~/ctr_jax/bin/python -m pip install -q -r requirements.txt{jax}
"""


def text(sweep: batch.Batch) -> str:
  """The task."""
  if '://' not in sweep.volume:
    raise ValueError(
      '--place=skypilot needs --volume=gs://BUCKET (or s3://...): the folder `workdir` of all rows.'
    )
  resources = 'job_recovery:\n  max_restarts_on_errors: 2\n'
  if sweep.accelerators:
    resources += f'accelerators: {json.dumps(sweep.accelerators)}\n'
  setup, path = _LINK, ''
  if sweep.image:
    resources += f'image_id: {json.dumps("docker:" + sweep.image)}\n'
  else:
    of = 'tpu' if sweep.accelerators.startswith('tpu') else 'cuda12'
    setup += _PYTHON.format(jax=f" 'jax[{of}]'" if sweep.accelerators else '')
    path = 'export PATH=~/ctr_jax/bin:"$PATH"\n'
  path += _HOSTS
  return _TASK.format(
    name=sweep.name,
    nodes=f'num_nodes: {sweep.hosts}\n' if sweep.hosts > 1 else '',
    resources=textwrap.indent(resources, '  '),
    volume=json.dumps(sweep.volume),
    setup=textwrap.indent('set -e\n' + setup, '  '),
    run=textwrap.indent(path + batch.script('ROW', [*sweep.jobs, [sweep.report]]), '  '),
  )


def submit(sweep: batch.Batch, file: str) -> str:
  """The shell that submits every row; the report is asked for when they are done."""

  def launch(row):
    flags = f'{sweep.flags} ' if sweep.flags else ''
    return f'sky jobs launch -y -d -n {sweep.name}-{row} --env ROW={row} {flags}{shlex.quote(file)}'

  rows = ''.join(f'{launch(i)}\n' for i in range(len(sweep.jobs)))
  note = f'When all are done, the report: {launch(len(sweep.jobs))}'
  return f'{rows}echo {shlex.quote(note)}\n'
