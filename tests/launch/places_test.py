"""What clusters are given: files of the right form, shell that runs and stops, the right calls."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from launch import batch, commands, jobset, skypilot, sweep

PROJECT = pathlib.Path(__file__).parent.parent.parent
yaml = pytest.importorskip('yaml', reason='PyYAML reads the manifests.')
NEEDS = {'name': 'fake-small', 'image': 'me/ctr:1', 'volume': 'claim:/ctr/workdir'}


def rows(tmp_path, *labels):
  found = [commands.Row(x, x.split(': ')[1], x.split(': ')[0]) for x in labels]
  return commands.Plan('fake-small', 'tests.launch.fake', (), tmp_path, [0], found)


@pytest.fixture
def three(tmp_path):
  """Two rows of one series, and one alone."""
  return rows(tmp_path, 'one: one_1', 'one: one_after', 'slow: slow_×2')


def jobs(found, *parts, python=sys.executable):
  """The commands of each part of the rows."""
  return [[shlex.join(found.command(row, python)) for row in part] for part in parts]


def shell(script, number, **environment):
  """A job with this number, which the shell runs as a cluster would."""
  environment = os.environ | {'NUMBER': number} | environment
  return subprocess.Popen(['bash', '-c', script], cwd=PROJECT, env=environment)


def correct(script):
  return subprocess.run(['bash', '-n', '-c', script], check=False).returncode == 0


def printed(capsys, found, place, **needs):
  """(the file, the shell that submits it) that --dry_run prints."""
  assert sweep.elsewhere(found, place, True, **(NEEDS | needs)) == 0
  text, submit = capsys.readouterr().out.split('\n# To submit it:\n')
  assert not list(found.workdir.iterdir())
  return text.partition('\n')[2], submit


def calls(tmp_path, monkeypatch, program, answer=''):
  """Puts a program on the PATH that notes what it is called with; the file of its notes."""
  folder = tmp_path / 'bin'
  folder.mkdir()
  file = tmp_path / 'calls'
  path = folder / program
  path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >> {file}\necho "{answer}"\n')
  path.chmod(0o755)
  monkeypatch.setenv('PATH', f'{folder}:/usr/bin:/bin')
  return file


def notes(folder):
  path = folder / 'notes'
  return path.read_text().splitlines() if path.exists() else []


def until(what, seconds=60):
  end = time.monotonic() + seconds
  while not what():
    assert time.monotonic() < end, 'waited in vain'
    time.sleep(0.05)


def test_slurm_script(three, capsys):
  text, submit = printed(capsys, three, 'slurm', at_once=1, accelerators='gpu:1', flags='-p big')
  options = [line.split()[1] for line in text.splitlines() if line.startswith('#SBATCH')]
  assert text.startswith('#!/usr/bin/env bash\n')
  assert '--array=0-1%1' in options
  assert '--gres=gpu:1' in options
  assert f'--output={three.workdir}/logs/%x-%A_%a.log' in options
  assert all(x.startswith('--') for x in options)
  assert all(map(correct, (text, submit)))
  assert 'sbatch --parsable -p big' in submit


def test_slurm_refuses_folders_that_its_options_cannot_name(tmp_path):
  found = rows(tmp_path / 'my work', 'one: one_1')
  with pytest.raises(ValueError, match=r'my work/logs has a blank.* give another --workdir'):
    sweep.elsewhere(found, 'slurm', True, **NEEDS)


@pytest.mark.parametrize(
  'number, status, expected',
  [
    ('0', 0, ['begin one_1', 'end one_1', 'begin one_after', 'end one_after']),
    ('1', 0, ['begin slow_×2', 'end slow_×2']),
    ('7', 1, []),
  ],
)
def test_a_job_runs_its_rows_in_order(three, number, status, expected):
  script = batch.script('NUMBER', jobs(three, three.rows[:2], three.rows[2:]))
  assert shell(script, number).wait(60) == status
  assert notes(three.workdir) == expected


def test_a_job_goes_on_after_a_row_that_fails_and_says_so(tmp_path):
  found = rows(tmp_path, 'bad: bad', 'one: one_1')
  script = batch.script('NUMBER', jobs(found, found.rows))
  assert shell(script, '0', FAKE_BAD='1').wait(60) == 1
  assert notes(tmp_path) == ['begin bad', 'begin one_1', 'end one_1']


def test_a_job_that_is_stopped_lets_its_row_save(tmp_path):
  found = rows(tmp_path, 'slow: slow_×2', 'one: one_1')
  job = shell(batch.script('NUMBER', jobs(found, found.rows)), '0', FAKE_SLOW='1')
  until(lambda: notes(tmp_path))
  job.send_signal(signal.SIGTERM)  # To the shell alone.
  assert job.wait(30) == 143
  assert notes(tmp_path) == ['begin slow_×2', 'saved slow_×2']


def test_slurm_submission_makes_the_report_depend_on_all_rows(tmp_path, monkeypatch):
  file = calls(tmp_path, monkeypatch, 'sbatch', answer='41;cluster')
  found = rows(tmp_path / 'work', 'one: one_1', 'slow: slow_×2')
  assert sweep.elsewhere(found, 'slurm', False, **NEEDS) == 0
  first, second = file.read_text().splitlines()
  assert first == f'--parsable {found.workdir}/sweep.sbatch'
  assert second.startswith('--dependency=afterok:41 --kill-on-invalid-dep=yes')
  assert second.endswith(f'-m tests.launch.fake --workdir={found.workdir}')
  assert (found.workdir / 'logs').is_dir()  # Slurm would not make it.


def test_jobset_manifest(three, capsys):
  text, submit = printed(
    capsys, three, 'jobset', accelerators='google.com/tpu:4', node_selector=('a.b/c=2x2',)
  )
  found = yaml.safe_load(text)
  assert (found['apiVersion'], found['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
  # Pods are called NAME-12345-rows-0-COMPLETION-12345: at most 63 characters, a letter first.
  assert found['metadata'] == {'generateName': 'fake-small-'}
  rows, report = found['spec']['replicatedJobs']
  assert report['dependsOn'] == [{'name': 'rows', 'status': 'Complete'}]
  assert 'dependsOn' not in rows
  for job, completions in ((rows, 2), (report, 1)):
    spec = job['template']['spec']
    assert spec['completionMode'] == 'Indexed'
    assert spec['completions'] == spec['parallelism'] == completions
    pod = spec['template']['spec']
    assert pod['restartPolicy'] == 'Never'  # As backoffLimitPerIndex and podFailurePolicy demand.
    assert pod['nodeSelector'] == {'a.b/c': '2x2'}
    (container,) = pod['containers']
    assert container['image'] == 'me/ctr:1'
    assert container['resources'] == {'limits': {'google.com/tpu': 4}}
    assert container['volumeMounts'] == [{'name': 'shared', 'mountPath': '/ctr/workdir'}]
    assert pod['volumes'] == [{'name': 'shared', 'persistentVolumeClaim': {'claimName': 'claim'}}]
    (script,) = container['args']
    assert correct(script)
    assert '$(' not in script  # Kubernetes would look for a variable of that name.
  script = rows['template']['spec']['template']['spec']['containers'][0]['args'][0]
  commands = jobs(three, three.rows[:2], three.rows[2:], python='python')
  assert script.split() == batch.script('JOB_COMPLETION_INDEX', commands).split()
  assert submit == f'kubectl create -f {three.workdir}/sweep.jobset.yaml\n'


def test_several_hosts_train_a_row_together(three, capsys):
  slurm, submit = printed(capsys, three, 'slurm', hosts=4)
  assert '#SBATCH --nodes=4\n#SBATCH --ntasks-per-node=1\n' in slurm
  assert slurm.count('row srun --kill-on-bad-exit ') == 3
  assert 'srun' not in submit  # The report is made by one.
  assert correct(slurm)

  text, _ = printed(capsys, three, 'jobset', hosts=4)
  rows, report = yaml.safe_load(text)['spec']['replicatedJobs']
  assert (rows['replicas'], report['replicas']) == (2, 1)
  assert rows['template']['spec']['completions'] == 4
  assert rows['template']['spec']['parallelism'] == 4
  (pod,) = rows['template']['spec']['template']['spec']['containers']
  values = {x['name']: x.get('value') for x in pod['env']}
  # As JobSet names its pods; a variable stands before those that are made of it.
  assert values['JAX_COORDINATOR_ADDRESS'] == '$(SET)-rows-$(ROW)-0.$(SET)'
  assert values['JAX_NUM_PROCESSES'] == '4'
  assert list(values)[:2] == ['SET', 'ROW']
  assert 'case "$ROW" in' in pod['args'][0]
  assert 'env' not in report['template']['spec']['template']['spec']['containers'][0]

  text, _ = printed(capsys, three, 'skypilot', hosts=4, volume='gs://bucket')
  assert yaml.safe_load(text)['num_nodes'] == 4


@pytest.mark.parametrize('ips, number, said', [('a', '0', '- - -'), ('a\nb', '1', 'a:8476 2 1')])
def test_skypilot_tells_hosts_of_each_other(three, capsys, ips, number, said):
  text, _ = printed(capsys, three, 'skypilot', volume='gs://bucket')
  names = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
  head = yaml.safe_load(text)['run'].partition('failed=0')[0]
  show = head + 'echo ' + ' '.join(f'${{{name}:--}}' for name in names)
  environment = {'SKYPILOT_NODE_IPS': ips, 'SKYPILOT_NODE_RANK': number, 'PATH': os.environ['PATH']}
  shown = subprocess.run(['bash', '-c', show], env=environment, capture_output=True, text=True)
  assert shown.stdout.strip() == said


def test_jobset_names_are_those_of_dns():
  todo = batch.Batch(jobs=(('x',),), report='y', **(NEEDS | {'name': 'Big_Name.' * 9}))
  name = yaml.safe_load(jobset.text(todo))['metadata']['generateName']
  longest = f'{name}abcde-report-0-9999-abcde'
  assert len(longest) <= 63
  assert longest.replace('-', '').isalnum() and longest == longest.lower()


def test_skypilot_task(three, capsys):
  needs = {'volume': 'gs://bucket', 'accelerators': 'tpu-v6e-8', 'image': ''}
  text, submit = printed(capsys, three, 'skypilot', flags='--use-spot', **needs)
  found = yaml.safe_load(text)
  assert found['resources']['accelerators'] == 'tpu-v6e-8'
  assert found['file_mounts']['/ctr_jax_workdir'] == {
    'source': 'gs://bucket', 'mode': 'MOUNT_CACHED',
  }  # fmt: skip
  assert "'jax[tpu]'" in found['setup']
  assert found['envs'] == {'ROW': '0'}
  assert all(map(correct, (found['setup'], found['run'], submit)))
  one, two, note = submit.splitlines()
  file = three.workdir / 'sweep.sky.yaml'
  assert one == f'sky jobs launch -y -d -n fake-small-0 --env ROW=0 --use-spot {file}'
  assert '--env ROW=1' in two
  assert '--env ROW=2' in note and note.startswith("echo 'When all are done, the report:")


@pytest.mark.parametrize(
  'needs', [{'accelerators': 'H100:8'}, {'accelerators': 'tpu-v6e-8'}, {'image': 'me/ctr:1'}]
)
def test_skypilot_accepts_the_task(needs):
  sky = pytest.importorskip('sky', reason='pip install skypilot, to hold the task to its schema.')
  jobs = (('python -m one',), ('python -m two',))
  todo = batch.Batch('fake-small', jobs, report='y', volume='s3://bucket', **needs)
  config = yaml.safe_load(skypilot.text(todo))
  task = sky.Task.from_yaml_config({k: v for k, v in config.items() if k != 'file_mounts'})
  assert task.run == config['run']


@pytest.mark.parametrize(
  'place, needs, words',
  [
    (jobset, {'image': ''}, '--place=jobset needs --image'),
    (jobset, {'volume': ''}, '--place=jobset needs --volume=CLAIM:/path'),
    (jobset, {'volume': 'claim:relative'}, '--place=jobset needs --volume=CLAIM:/path'),
    (jobset, {'accelerators': 'H100'}, 'nvidia.com/gpu:1'),
    (jobset, {'hosts': 2, 'at_once': 1}, 'Kueue queues them'),
    (skypilot, {'volume': 'claim:/path'}, '--place=skypilot needs --volume=gs://BUCKET'),
  ],
)
def test_what_a_place_lacks_is_said(place, needs, words):
  todo = batch.Batch(jobs=(('x',),), report='y', **(NEEDS | needs))
  with pytest.raises(ValueError) as error:
    place.text(todo)
  assert words in str(error.value)


@pytest.mark.parametrize('place', ['slurm', 'jobset', 'skypilot'])
def test_without_the_program_nothing_is_written(three, monkeypatch, place):
  monkeypatch.setenv('PATH', str(three.workdir))
  with pytest.raises(ValueError, match=r'on the PATH\. .*--dry_run prints the file'):
    sweep.elsewhere(three, place, False, **(NEEDS | {'volume': 'gs://b:/x'}))
  assert not list(three.workdir.iterdir())


def test_nothing_is_submitted_when_all_is_done(three, capsys):
  for row in three.rows:
    path = three.workdir / row.folder / 'seed_0' / 'result.json'
    path.parent.mkdir(parents=True)
    path.touch()
  assert sweep.elsewhere(three, 'slurm', False, **NEEDS) == 0
  assert 'All 3 rows are already done; the report:' in capsys.readouterr().err


def test_flags_reach_the_place(three, monkeypatch, capsys):
  monkeypatch.setattr(commands, 'of', lambda module, flags: three._replace(flags=flags))
  arguments = ['--experiment=tests.launch.fake', '--data=x', '--seeds=2', '--dry_run', '--jobs=1']
  more = ['--image=i', '--volume=c:/w', '--node_selector=a=b,c=d', '--place_flags=-n here']
  assert sweep.main([*arguments, *more, '--place=jobset', '--', '--net=fm']) == 0
  text, submit = capsys.readouterr().out.split('# To submit it:\n')
  pod = yaml.safe_load(text)['spec']['replicatedJobs'][0]['template']['spec']
  assert pod['parallelism'] == 1
  assert pod['template']['spec']['nodeSelector'] == {'a': 'b', 'c': 'd'}
  assert 'python -m tests.launch.fake --data=x --seeds=2 --net=fm' in text
  assert submit.startswith('kubectl create -n here -f')


def _cluster():
  """Why there is no Slurm to submit to; '' where there is."""
  if not (shutil.which('sbatch') and shutil.which('sinfo')):
    return 'sbatch is not on the PATH'
  command = ['timeout', '5', 'sinfo', '-h', '-t', 'idle,mix,alloc']
  found = subprocess.run(command, capture_output=True, check=False)
  return '' if found.returncode == 0 and found.stdout else 'no node of Slurm answers'


def test_slurm_runs_stops_and_goes_on(three, monkeypatch, capfd):
  if why := _cluster():
    pytest.skip(f'Slurm did not run the script: {why}.')
  monkeypatch.chdir(PROJECT)
  monkeypatch.setenv('FAKE_SLOW', '1')

  def submitted():
    assert sweep.elsewhere(three, 'slurm', False, name='fake') == 0
    return capfd.readouterr().out.split('rows as job ')[1].split('.')[0]

  job = submitted()
  until(lambda: {'begin slow_×2', 'end one_after'} <= set(notes(three.workdir)))
  subprocess.run(['scancel', '--batch', '--signal=TERM', f'{job}_1'], check=True)
  until(lambda: 'saved slow_×2' in notes(three.workdir))
  submitted()
  until(lambda: (three.workdir / 'report.md').exists())
  assert notes(three.workdir)[-2:] == ['begin slow_×2', 'end slow_×2']
