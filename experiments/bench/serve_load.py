r"""The HTTP server under more load than it can bear, while models are swapped, killed and stopped.

  python -m experiments.bench.serve_load                # two minutes
  python -m experiments.bench.serve_load --seconds=5    # a quick look

Serves a DeepFM model of 7 features (int8 tables, vocabularies of up to 50,000 values) in a process
of its own and asks from this one, on the same machine:

  capacity   over 8 connections, each sending when it was answered: all that it can score
  overload   twice as many requests per second as that, whatever is answered
  swap       a quarter as many, while two artifacts take turns, and a damaged one in between
  stop       half as many, and SIGTERM in the middle
  kill       SIGKILL, and the time until another process answers

Every accepted answer is compared with the probabilities of the model that it names.
"""

import asyncio
import json
import os
import pathlib
import shutil
import signal
import tempfile
import time

import numpy as np
from absl import flags

from ctr_jax import serve
from experiments import common, report
from experiments.bench import serve_load_client, serve_load_model, serve_process

flags.adopt_module_key_flags(common)  # So that --help shows them.
_SECONDS = flags.DEFINE_float('seconds', 60.0, 'Of overload; the other parts take a sixth each.')
_REQUEST_ROWS = flags.DEFINE_integer('request_rows', 256, 'Rows of a request.')
_TIMES = flags.DEFINE_float('times', 2.0, 'Overload, as a multiple of the capacity.')
_LATENCY_MS = flags.DEFINE_float('latency_ms', 200.0, "The server's --max_latency_ms.")
_SCORER = flags.DEFINE_enum('serving', 'numpy', ['numpy', 'jax', 'onnx'], "The server's --scorer.")

_CONNECTIONS, _DISTINCT = 8, 40
_BEFORE_S, _DRAIN_S = 2, 1
# Probabilities of a batch are not those of its parts to the last bit: products round otherwise.
_TOLERANCE = 1e-5


class Asked:
  """Requests for the artifacts, and what each model answers."""

  def __init__(self, artifacts: list[pathlib.Path], rows: int):
    columns = [serve_load_model.raw(rows, seed) for seed in range(_DISTINCT)]
    self.bodies = [{'columns': x} for x in columns]
    scorers = [serve.open(folder) for folder in artifacts]
    self.versions = [scorer.version for scorer in scorers]
    self._want = {x.version: [x.predict(request) for request in columns] for x in scorers}

  def right(self, which: int, answer: dict) -> bool:
    """Whether an answer has the probabilities of the version that it names."""
    want = self._want[answer['version']][which]
    found = np.array(answer['probabilities'])
    return found.shape == want.shape and bool(np.abs(found - want).max() < _TOLERANCE)


class Served:
  """The link that is served, and the process that serves it."""

  def __init__(self, folder: pathlib.Path, asked: Asked):
    self.link, self.asked = folder / 'served', asked
    self.process: serve_process.Process | None = None

  def point(self, artifact: pathlib.Path) -> None:
    """Makes the link point to an artifact, at once."""
    new = self.link.with_suffix('.new')
    new.symlink_to(artifact)
    new.rename(self.link)

  def start(self) -> float:
    """Starts a server; returns the seconds until it scored a request."""
    began = time.perf_counter()
    self.process = serve_process.Process([
      'ctr_jax.serve.server', f'--artifact={self.link}', f'--scorer={_SCORER.value}', '--port=0',
      f'--max_latency_ms={_LATENCY_MS.value}', f'--drain_s={_DRAIN_S}',
    ])  # fmt: skip
    self.score()
    return time.perf_counter() - began

  def score(self) -> None:
    """Has one request scored."""
    body = json.dumps(self.asked.bodies[0])
    status, answer = self.process.get('/v1/score', body, **{'content-type': 'application/json'})
    if status != 200 or not self.asked.right(0, answer):
      raise RuntimeError(f'The server answered {status}: {answer}')

  def load(self, send, meanwhile=None) -> list[serve_load_client.Sent]:
    """What became of the requests of `send(client)`, with `meanwhile()` beside it."""

    async def both():
      client = serve_load_client.Client(self.process.port, self.asked.bodies, self.asked.right)
      sending = asyncio.create_task(send(client))
      if meanwhile:
        await asyncio.to_thread(meanwhile)
      sent = await sending
      await client.close()
      return sent

    return asyncio.run(both())

  def megabytes(self) -> float:
    """Memory of the process; its peak, in fact."""
    status = pathlib.Path(f'/proc/{self.process.process.pid}/status').read_text()
    line = next(line for line in status.splitlines() if line.startswith('VmHWM'))
    return round(int(line.split()[1]) / 2**10, 1)

  def cpu_seconds(self) -> float:
    """Of the process so far."""
    fields = pathlib.Path(f'/proc/{self.process.process.pid}/stat').read_text().rpartition(')')[2]
    return sum(map(int, fields.split()[11:13])) / os.sysconf('SC_CLK_TCK')


def capacity(served: Served, seconds: float) -> dict:
  """Requests and rows per second when nobody asks for more than that."""
  served.load(lambda client: client.in_turns(_CONNECTIONS, min(seconds, 2)))  # It learns its pace.
  sent = served.load(lambda client: client.in_turns(_CONNECTIONS, seconds))
  found = serve_load_client.summary(sent)
  per_second = found['accepted'] / seconds
  rows = round(found['rows'] / seconds)
  return found | {'requests_per_second': round(per_second, 1), 'rows_per_second': rows}


def overload(served: Served, per_second: float, seconds: float) -> dict:
  """Asks for more than the capacity."""
  cpu = served.cpu_seconds()
  sent = served.load(lambda client: client.at_rate(per_second, seconds))
  found = serve_load_client.summary(sent)
  served.score()  # It lives, and is right.
  return found | {
    'requests_per_second': round(per_second, 1),
    'rows_per_second': round(found['rows'] / seconds),
    'server_cpus': round((served.cpu_seconds() - cpu) / seconds, 2),
    'peak_mb': served.megabytes(),
  }


def swap(served: Served, artifacts, damaged, per_second: float, seconds: float) -> dict:
  """Models take turns under load."""
  swaps = refused = 0

  def meanwhile():
    nonlocal swaps, refused
    end = time.perf_counter() + seconds - 1
    while time.perf_counter() < end:
      swaps += 1
      served.point(artifacts[swaps % 2])
      served.process.process.send_signal(signal.SIGHUP)
      version = served.asked.versions[swaps % 2]
      served.process.until(lambda: served.process.get('/v1/model')[1]['version'] == version)  # noqa: B023
      refused += 1
      served.point(damaged)
      served.process.process.send_signal(signal.SIGHUP)
      line = f'ctr_model_loads_total{{outcome="refused"}} {refused}.0'
      served.process.until(lambda: line in served.process.get('/metrics')[1])  # noqa: B023
      time.sleep(1)

  sent = served.load(lambda client: client.at_rate(per_second, seconds), meanwhile)
  served.point(artifacts[0])
  found = serve_load_client.summary(sent)
  return found | {'swaps': swaps, 'damaged': refused, 'requests_per_second': round(per_second, 1)}


def stop(served: Served, per_second: float) -> dict:
  """SIGTERM under load: who got through is answered, and the process ends with status 0."""
  ended = {}

  def meanwhile():
    time.sleep(_BEFORE_S)
    began = time.perf_counter()
    ended['status'] = served.process.stop()
    ended['seconds'] = round(time.perf_counter() - began, 2)

  seconds = _BEFORE_S + 2 * _DRAIN_S
  sent = served.load(lambda client: client.at_rate(per_second, seconds), meanwhile)
  # Whoever comes later finds nobody to connect to.
  came = sent[: int(0.9 * per_second * (_BEFORE_S + _DRAIN_S))]
  return serve_load_client.summary(came) | ended


def kill(served: Served) -> dict:
  """SIGKILL, and another process."""
  served.process.stop(signal.SIGKILL)
  return {'restart_seconds': round(served.start(), 2)}


def measure(folder: pathlib.Path) -> dict:
  """All parts, one after another."""
  artifacts = serve_load_model.artifacts(folder)
  damaged = folder / 'damaged'
  shutil.copytree(artifacts[0], damaged)
  largest = max((p for p in damaged.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
  os.truncate(largest, largest.stat().st_size // 2)
  served = Served(folder, Asked(artifacts, _REQUEST_ROWS.value))
  served.point(artifacts[0])
  seconds = _SECONDS.value
  found = {'start': {'seconds': round(served.start(), 2)}}
  try:
    found['capacity'] = _said('capacity', capacity(served, max(seconds / 6, 1)))
    able = found['capacity']['requests_per_second']
    found['overload'] = _said('overload', overload(served, _TIMES.value * able, seconds))
    found['swap'] = _said('swap', swap(served, artifacts, damaged, able / 4, max(seconds / 6, 3)))
    found['kill'] = _said('kill', kill(served))
    found['stop'] = _said('stop', stop(served, able / 2))
  finally:
    if served.process.process.poll() is None:
      served.process.stop(signal.SIGKILL)
  return found


def _said(name, found):
  print(json.dumps({name: found}), flush=True)
  return found


def table(found: dict) -> str:
  """Markdown: a line for each part under load."""
  header = (
    'part', 'requests/s', 'accepted', 'refused (503)', 'lost', 'wrong', 'accepted p50', 'p99',
    'refused p99',
  )  # fmt: skip
  lines = []
  for part in ('capacity', 'overload', 'swap'):
    x = found[part]
    refused = f'{x["refused_ms"]["p99"]:.0f} ms' if x['refused_ms'] else '–'
    lines.append(
      (
        part,
        f'{x["requests_per_second"]:,.0f}',
        f'{x["accepted"]:,}',
        f'{x["refused"]:,}',
        sum(x['other'].values()),
        x['wrong'],
        f'{x["accepted_ms"]["p50"]:.0f} ms',
        f'{x["accepted_ms"]["p99"]:.0f} ms',
        refused,
      )
    )
  return report.table(header, lines)


def caption(found: dict, where: dict) -> str:
  stopped, other = found['stop'], found['stop']['other']
  return (
    f'{_REQUEST_ROWS.value} rows a request, {found["capacity"]["rows_per_second"]:,} rows/s at '
    f'capacity and {found["overload"]["rows_per_second"]:,} under overload for '
    f'{_SECONDS.value:g} s, answers within {_LATENCY_MS.value:g} ms, {_SCORER.value} scorer; '
    f'{found["swap"]["swaps"]} swaps and {found["swap"]["damaged"]} damaged artifacts under load; '
    f'serving again {found["kill"]["restart_seconds"]} s after SIGKILL; of {stopped["sent"]:,} '
    f'requests that came before SIGTERM and until the drain ended, {sum(other.values())} lost, and '
    f'status {stopped["status"]} after {stopped["seconds"]} s. Client and server on '
    f'{where["cpu_cores"]} cores, load average {where["load_average"]:.1f} at the end, '
    f'{where["date"]}. `{common.command("bench.serve_load")}`'
  )


def main() -> None:
  """Measures, prints and writes the result."""
  with tempfile.TemporaryDirectory(prefix='bench_serve_load_') as folder:
    found = measure(pathlib.Path(folder))
  where = common.environment()
  result = {
    'experiment': 'bench.serve_load',
    'command': common.command('bench.serve_load'),
    'environment': where,
    'parts': found,
    'table': table(found),
    'caption': caption(found, where),
  }
  print(f'\n{result["table"]}\n\n{result["caption"]}')
  common.save_bench('serve_load', result)


if __name__ == '__main__':
  common.run(main)
