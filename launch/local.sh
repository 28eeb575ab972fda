#!/usr/bin/env bash
# Runs a module of this project on this machine, making the virtual environment on first use.
#
#   bash launch/local.sh experiments.massive_to_compact --data=synthetic
#   bash launch/local.sh pytest
#
# PYTHON picks the interpreter (default python3), CTR_JAX_VENV the place of the environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
venv=${CTR_JAX_VENV:-.venv}

if [ "$#" -eq 0 ]; then
  echo "usage: bash launch/local.sh MODULE [--flag=value ...]   e.g. experiments.massive_to_compact" >&2
  exit 2
fi
if ! command -v "$python" >/dev/null; then
  echo "ctr_jax needs Python 3.11 or newer, and '$python' is not on the PATH: install it, or name one with PYTHON=/path/to/python3." >&2
  exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "ctr_jax needs Python 3.11 or newer, and '$python' is $("$python" -V 2>&1): name a newer one with PYTHON=/path/to/python3." >&2
  exit 1
fi

# The stamp holds the requirements that were installed: it is written last, so an interrupted
# install is repeated, and changed requirements are installed again.
if ! cmp -s requirements.txt "$venv/requirements.installed"; then
  echo "Installing requirements.txt into $venv ..." >&2
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
  cp requirements.txt "$venv/requirements.installed"
fi

# XLA takes tens of megabytes for each step and frees them after it; glibc gives such memory back to
# the system, which clears it again page by page: 18,000 page faults a step of the DCN. Told to keep
# it, glibc spares a fifth of the CPU time (experiments/bench/net_step.py). Others ignore these.
export MALLOC_ARENA_MAX=${MALLOC_ARENA_MAX:-1}
export MALLOC_MMAP_MAX_=${MALLOC_MMAP_MAX_:-0}
export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-4294967296}

exec "$venv/bin/python" -m "$@"
