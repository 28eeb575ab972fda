"""A sweep as a Kubernetes JobSet: an indexed job of all rows, then a job that makes the report.

Rows of several hosts are an indexed job each, whose pods find the first of them by its name.
"""

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
  replicas: {replicas}
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
            image: {image}{environment}
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

# Kubernetes names pods JOBSET-JOB-REPLICA-INDEX, within a domain of the set's name.
_HOSTS = """
            env:
            - name: SET
              valueFrom:
                fieldRef:
                  fieldPath: metadata.labels['jobset.sigs.k8s.io/jobset-name']
            - name: ROW
              valueFrom:
                fieldRef:
                  fieldPath: metadata.labels['jobset.sigs.k8s.io/job-index']
            - name: JAX_COORDINATOR_ADDRESS
              value: $(SET)-{name}-$(ROW)-0.$(SET)
            - name: JAX_NUM_PROCESSES
              value: '{hosts}'"""


def text(sweep: batch.Batch) -> str:
  """The manifest."""
  if sweep.hosts > 1 and sweep.at_once:
    raise ValueError(
      '--jobs cannot limit rows of several --hosts in a JobSet, which makes all of them at once; '
      'Kueue queues them.'
    )
  rows = _job(sweep, 'rows', sweep.jobs, sweep.at_once or len(sweep.jobs), sweep.hosts)
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


def _job(sweep, name, jobs, parallelism, hosts=1, after=''):
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
  several = hosts > 1
  variable = 'ROW' if several else 'JOB_COMPLETION_INDEX'
  return _JOB.format(
    name=name,
    replicas=len(jobs) if several else 1,
    environment=_HOSTS.format(name=name, hosts=hosts) if several else '',
    depends=f'\n  dependsOn:\n  - name: {after}\n    status: Complete' if after else '',
    completions=hosts if several else len(jobs),
    parallelism=hosts if several else min(parallelism, len(jobs)),
    selector=f'\n          nodeSelector:{labels}' if labels else '',
    image=json.dumps(sweep.image),
    script=textwrap.indent(batch.script(variable, jobs), ' ' * 14).rstrip(),
    resources=f'\n            resources: {limits}' if resource else '',
    path=json.dumps(path),
    claim=json.dumps(claim),
  )
