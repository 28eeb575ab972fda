r"""How fast raw files are encoded, and in how much memory.

  python -m experiments.bench.encode --rows=2000000 --rows=8000000

Makes Criteo-shaped files (a label, 13 integers with gaps, 26 hexadecimal ids of power-law
frequency; tab-separated), and encodes each in a process of its own. Measured results are in
experiments/RESULTS.md.
"""

import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from absl import flags

from experiments import common, report

_ROWS = flags.DEFINE_multi_integer('rows', [2_000_000, 8_000_000], 'Rows of the files to encode.')
_MEMORY = flags.DEFINE_string('memory', '1GB', 'Memory limit of the database.')
_FOLDER = flags.DEFINE_string('folder', None, 'Folder for the files; default: a temporary one.')
flags.declare_key_flag('save_result')

# Distinct values of Criteo's 26 id columns, the largest cut to what a day of it holds.
_SIZES = (1460, 583, 5_000_000, 2_000_000, 305, 24, 12517, 633, 3, 93145, 5683, 4_000_000, 3194)
_SIZES += (27, 14992, 3_000_000, 10, 5652, 2173, 4, 3_500_000, 18, 15, 286181, 105, 142572)
_CHUNK = 100_000
_CHILD = """
import pathlib, resource, sys
from ctr_jax.data import encode
from ctr_jax.data.datasets import criteo
encode.encode(criteo.schema(), sys.argv[1], sys.argv[2], memory=sys.argv[3])
# Not ru_maxrss, which on Linux begins with that of the process that started this one.
status = pathlib.Path('/proc/self/status').read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith('VmHWM')))
"""


def make(path: pathlib.Path, rows: int, seed: int = 0):
  """Writes a Criteo-shaped file."""
  rng = np.random.default_rng(seed)
  options = pa_csv.WriteOptions(include_header=False, delimiter='\t', quoting_style='none')
  names = [str(i) for i in range(40)]
  with path.open('wb') as file:
    for start in range(0, rows, _CHUNK):
      n = min(_CHUNK, rows - start)
      label = pa.array((rng.random(n) < 0.25).astype(np.int8))
      integers = [pa.array(_integers(rng, n), mask=rng.random(n) < 0.1) for _ in range(13)]
      ids = [_ids(rng, n, size, field) for field, size in enumerate(_SIZES)]
      pa_csv.write_csv(pa.table([label, *integers, *ids], names=names), file, options)


def _integers(rng, n):
  """Long-tailed counts from -1."""
  return (np.floor(np.exp(rng.normal(1.5, 2.0, n))) - 1).astype(np.int64)


def _ids(rng, n, size, field):
  """Eight hexadecimal digits; value i has a frequency of about 1 / i. Some columns have gaps."""
  rank = np.minimum(size ** rng.random(n), size).astype(np.uint64)
  mixed = rank * np.uint64(2654435761) + np.uint64(field * 40503)
  nibbles = (mixed[:, None] >> np.arange(28, -1, -4, dtype=np.uint64)) & np.uint64(15)
  digits = np.frombuffer(b'0123456789abcdef', np.uint8)[nibbles]
  offsets = np.arange(0, 8 * n + 1, 8, dtype=np.int32)
  text = pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(digits.tobytes()))
  gaps = rng.random(n) < (0.0 if field % 3 else 0.1)
  return pc.if_else(pa.array(gaps), pa.scalar(None, pa.string()), text)


def measure(rows: int, folder: pathlib.Path, memory: str) -> dict:
  """Encodes one file in a process of its own; returns seconds and that process's peak memory."""
  raw, out = folder / f'raw_{rows}', folder / f'encoded_{rows}'
  raw.mkdir(parents=True, exist_ok=True)
  if not (raw / 'train.txt').exists():
    make(raw / 'train.txt', rows)
  shutil.rmtree(out, ignore_errors=True)
  # On a busy machine the seconds are others' too; the processor's own seconds are not.
  load = os.getloadavg()[0]
  began = time.monotonic()
  command = [sys.executable, '-c', _CHILD, str(raw), str(out), memory]
  child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
  with child.stdout:
    printed = child.stdout.read()
  # Not `wait`: only this tells the processor time of this one child.
  _, status, usage = os.wait4(child.pid, 0)
  child.returncode = os.waitstatus_to_exitcode(status)
  seconds = time.monotonic() - began
  if child.returncode:
    raise RuntimeError(f'Encoding {rows} rows failed with status {child.returncode}.')
  encoded = sum(p.stat().st_size for p in out.rglob('*') if p.is_file())
  return {
    'rows': rows,
    'seconds': round(seconds, 2),
    'rows_per_second': round(rows / seconds),
    'cpu_seconds': round(usage.ru_utime + usage.ru_stime, 2),
    'load_before': round(load, 1),
    'peak_mb': round(int(printed) / 2**10),
    'raw_mb': round((raw / 'train.txt').stat().st_size / 2**20),
    'encoded_mb': round(encoded / 2**20),
  }


def table(runs: list[dict]) -> str:
  """Markdown: a line per size."""
  header = (
    'rows',
    'rows/s',
    'seconds',
    'CPU seconds',
    'peak memory',
    'raw',
    'encoded',
    'load before',
  )
  return report.table(
    header,
    [
      (
        f'{x["rows"]:,}',
        f'{x["rows_per_second"]:,}',
        x['seconds'],
        x['cpu_seconds'],
        f'{x["peak_mb"]} MB ({x["peak_mb"] / runs[0]["peak_mb"]:.2f}×)',
        f'{x["raw_mb"]} MB',
        f'{x["encoded_mb"]} MB',
        x['load_before'],
      )
      for x in runs
    ],
  )


def caption(where: dict) -> str:
  return (
    f'Criteo-shaped rows, 40 columns, database limited to {_MEMORY.value}; `load before` is the '
    f"machine's load average when a run began (0 = idle); {where['cpu_cores']} cores, "
    f'duckdb {where["duckdb"]}, {where["date"]}. `{common.command("bench.encode")}`'
  )


def main() -> None:
  """Measures each size and writes the result."""
  folder = pathlib.Path(_FOLDER.value or tempfile.mkdtemp(prefix='bench_encode_'))
  runs = []
  for rows in _ROWS.value:
    runs.append(measure(rows, folder, _MEMORY.value))
    print(json.dumps(runs[-1]), flush=True)
  environment = common.environment() | {
    name: importlib.metadata.version(name) for name in ('ibis-framework', 'duckdb', 'tensorstore')
  }
  result = {
    'experiment': 'bench.encode',
    'command': common.command('bench.encode'),
    'environment': environment,
    'memory_limit': _MEMORY.value,
    'runs': runs,
    'table': table(runs),
    'caption': caption(environment),
  }
  print(f'\n{result["table"]}\n\n{result["caption"]}')
  common.save_bench('encode', result)
  if not _FOLDER.value:
    shutil.rmtree(folder)


if __name__ == '__main__':
  common.run(main)
