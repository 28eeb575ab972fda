"""launch/local.sh: the right sentence on the wrong machine, and arguments passed on untouched."""

import os
import pathlib
import subprocess
import sys

PROJECT = pathlib.Path(__file__).parent.parent
SCRIPT = PROJECT / 'launch' / 'local.sh'


def run(*arguments, **environment):
  return subprocess.run(
    ['bash', str(SCRIPT), *arguments],
    env=os.environ | environment,
    capture_output=True,
    text=True,
    check=False,
  )


def executable(path, text):
  path.write_text(f'#!/usr/bin/env bash\n{text}\n')
  path.chmod(0o755)
  return str(path)


def test_no_module_is_a_usage_message():
  done = run()
  assert done.returncode == 2
  assert 'usage: bash launch/local.sh MODULE' in done.stderr


def test_an_old_python_is_refused_in_words(tmp_path):
  script = 'if [ "$1" = -V ]; then echo Python 3.8.18; else exit 1; fi'
  old = executable(tmp_path / 'python3', script)
  done = run('pytest', PYTHON=old, CTR_JAX_VENV=str(tmp_path / 'venv'))
  assert done.returncode == 1
  assert 'needs Python 3.11 or newer' in done.stderr
  assert 'Python 3.8.18' in done.stderr
  assert not (tmp_path / 'venv').exists()


def test_a_missing_python_is_named(tmp_path):
  done = run('pytest', PYTHON='/nowhere/python3', CTR_JAX_VENV=str(tmp_path / 'venv'))
  assert done.returncode == 1
  assert "'/nowhere/python3' is not on the PATH" in done.stderr


def test_an_installed_environment_is_used_and_arguments_are_passed_on(tmp_path):
  (tmp_path / 'bin').mkdir()
  executable(tmp_path / 'bin' / 'python', 'printf "%s|" "$@"')
  (tmp_path / 'requirements.installed').write_text((PROJECT / 'requirements.txt').read_text())
  done = run('experiments.baseline', '--net=a b', PYTHON=sys.executable, CTR_JAX_VENV=str(tmp_path))
  assert done.returncode == 0, done.stderr
  assert done.stdout == '-m|experiments.baseline|--net=a b|'
