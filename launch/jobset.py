"""A sweep as a Kubernetes JobSet: an indexed job of all rows, then a job that makes the report."""

from __future__ import annotations

import json
import re
import shlex
import textwrap

from launch import batch

PROGRAM, FILE = 'kubectl', 'sweep.jobset.yaml'
INSTALL = (
  'Install it from https://kubernetes.io/docs/tasks/tools, and JobSet into the cluster from '
  'https://jobset.sigs.k8s.io/docs/installation.'
)

# A pod that is evicted is not counted as a failure: another goes on from its checkpoint.
_JOB = """\
- name: {name}{depends}
  template:
    spec:
      completionMode: Indexed
      completions: {completions}
      parallelism: {parallelism}
      backoffLimitPerIndex: 2
      podFailurePolicy:
        rules:
        - action: Ignore
          onPodConditions:
          - type: DisruptionTarget
      template:
        spec:
          restartPolicy: Never
          terminationGracePeriodSeconds: 120{selector}
          containers:
          - name: {name}
            image: {image}
            command: [bash, -c]
            args:
            - |
{script}{resources}
            volumeMounts:
            - name: shared
              mountPath: {path}
          volumes:
          - name: shared
            persistentVolumeClaim:
              claimName: {claim}
"""


def text(sweep: batch.Batch) -> str:
  """The manifest."""
  rows = _job(sweep, 'rows', sweep.jobs, sweep.at_once or len(sweep.jobs))
  report = _job(sweep, 'report', [[sweep.report]], 1, after='rows')
  name = re.sub('[^a-z0-9]+', '-', sweep.name.lower())[:30].rstrip('-')
  return (
    'apiVersion: jobset.x-k8s.io/v1alpha2\nkind: JobSet\n'
    f'metadata:\n  generateName: {name}-\nspec:\n  replicatedJobs:\n'
    + textwrap.indent(rows + report, '  ')
  )


def submit(sweep: batch.Batch, file: str) -> str:
  """The shell that submits `file`."""
  return f'kubectl create {sweep.flags + " " if sweep.flags else ""}-f {shlex.quote(file)}\n'


def _job(sweep, name, jobs, parallelism, after=''):
  if not sweep.image:
    raise ValueError(
      '--place=jobset needs --image: one whose working folder is this project, and whose python '
      'has requirements.txt and the jax of the accelerator.'
    )
  claim, _, path = sweep.volume.partition(':')
  if not claim or not path.startswith('/'):
    raise ValueError(
      '--place=jobset needs --volume=CLAIM:/path, a claim that many pods may write to '
      "(ReadWriteMany) and where it is mounted: the folder `workdir` of the image's project, or "
      'one that --workdir is below.'
    )
  resource, _, count = sweep.accelerators.rpartition(':')
  if sweep.accelerators and not (resource and count.isdigit()):
    raise ValueError(
      f'--accelerators={sweep.accelerators}: Kubernetes knows them by resource and number, as in '
      'nvidia.com/gpu:1 or google.com/tpu:4.'
    )
  pairs = [label.partition('=')[::2] for label in sweep.node_selector]
  labels = ''.join(f'\n            {k}: {json.dumps(v)}' for k, v in pairs)
  limits = f'{{limits: {{{json.dumps(resource)}: {count}}}}}'
  return _JOB.format(
    name=name,
    depends=f'\n  dependsOn:\n  - name: {after}\n    status: Complete' if after else '',
    completions=len(jobs),
    parallelism=min(parallelism, len(jobs)),
    selector=f'\n          nodeSelector:{labels}' if labels else '',
    image=json.dumps(sweep.image),
    script=textwrap.indent(batch.script('JOB_COMPLETION_INDEX', jobs), ' ' * 14).rstrip(),
    resources=f'\n            resources: {limits}' if resource else '',
    path=json.dumps(path),
    claim=json.dumps(claim),
  )
