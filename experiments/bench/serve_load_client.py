"""Sends requests to a server at a rate, whatever it answers, and remembers what came of each.

The rate is not the server's to choose (an open loop): a request is sent when it is due, on a
connection that is free, or on a new one. So a server that slows down is asked no less.
"""

import asyncio
import collections
import itertools
import json
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

_BACK_OFF_S = 0.05

Check = Callable[[int, dict], bool]
"""(number of the body, decoded answer) → whether the probabilities are right."""


class Sent(NamedTuple):
  """What came of one request.

  Attributes:
    status: of the answer; 0 if the connection broke before it, -1 if there was none to be had.
    seconds: from sending to the whole answer.
    late: how much later than it was due it was sent: the client's own slowness.
    right: whether the probabilities are those of the version that the answer names.
    version: of the model, of an accepted request.
    rows: scored.
  """

  status: int
  seconds: float
  late: float
  right: bool
  version: str
  rows: int


class Client:
  """Connections to one server, and the requests that go over them again and again."""

  def __init__(self, port: int, bodies: Sequence[dict], check: Check, most: int = 512):
    self._port = port
    self._check = check
    self._most = most
    self._open = 0
    self._free = collections.deque()
    self._requests = [_request(json.dumps(body).encode()) for body in bodies]

  async def at_rate(
    self, per_second: float, seconds: float, enough: Callable[[], bool] = lambda: True
  ) -> list[Sent]:
    """Sends at a rate for so many seconds, and on until `enough()`; waits for what is under way."""
    tasks = []
    began = time.perf_counter()
    while len(tasks) < int(per_second * seconds) or not enough():
      number = len(tasks)
      due = began + number / per_second
      if (left := due - time.perf_counter()) > 0:
        await asyncio.sleep(left)
      tasks.append(asyncio.create_task(self._send(number, due)))
    return await asyncio.gather(*tasks)

  async def in_turns(self, connections: int, seconds: float) -> list[Sent]:
    """Sends over so many connections, on each when it was answered (a closed loop).

    After a refusal it waits a little, as clients should: at once, they would ask for refusals only.
    """
    end = time.perf_counter() + seconds

    async def turns(number):
      found = []
      while (now := time.perf_counter()) < end:
        found.append(await self._send(number + connections * len(found), now))
        if found[-1].status == 503:
          await asyncio.sleep(_BACK_OFF_S)
      return found

    return list(itertools.chain(*await asyncio.gather(*map(turns, range(connections)))))

  async def close(self) -> None:
    """Closes the connections."""
    for _, writer in self._free:
      writer.close()
      await writer.wait_closed()
    self._free.clear()

  async def _send(self, number, due):
    which = number % len(self._requests)
    began = time.perf_counter()
    try:
      connection = await self._connection()
    except OSError:
      return Sent(-1, 0.0, began - due, False, '', 0)
    if connection is None:
      return Sent(-1, 0.0, began - due, False, '', 0)
    began = time.perf_counter()
    try:
      status, body, keep = await _exchange(*connection, self._requests[which])
    except (OSError, asyncio.IncompleteReadError):
      status, body, keep = 0, b'', False
    seconds = time.perf_counter() - began
    if keep:
      self._free.append(connection)
    else:
      connection[1].close()
      self._open -= 1
    if status != 200:
      return Sent(status, seconds, began - due, True, '', 0)
    answer = json.loads(body)
    right = self._check(which, answer)
    rows = len(answer['probabilities'])
    return Sent(status, seconds, began - due, right, answer['version'], rows)

  async def _connection(self):
    while self._free:
      reader, writer = self._free.pop()
      if not reader.at_eof():
        return reader, writer
      writer.close()
      self._open -= 1
    if self._open >= self._most:
      return None
    self._open += 1
    try:
      return await asyncio.open_connection('127.0.0.1', self._port)
    except OSError:
      self._open -= 1
      raise


def summary(sent: Sequence[Sent]) -> dict:
  """Counts, and milliseconds of the accepted and the refused."""
  statuses = collections.Counter(x.status for x in sent)
  return {
    'sent': len(sent),
    'accepted': statuses[200],
    'refused': statuses[503],
    'other': {str(k): v for k, v in sorted(statuses.items()) if k not in (200, 503)},
    'wrong': sum(not x.right for x in sent if x.status == 200),
    'rows': sum(x.rows for x in sent),
    'accepted_ms': _quantiles([x.seconds for x in sent if x.status == 200]),
    'refused_ms': _quantiles([x.seconds for x in sent if x.status == 503]),
    'late_ms': _quantiles([x.late for x in sent]),
    'versions': sorted({x.version for x in sent if x.version}),
  }


def _quantiles(seconds):
  if not seconds:
    return None
  found = np.quantile(seconds, (0.5, 0.99, 1.0)) * 1e3
  return dict(zip(('p50', 'p99', 'max'), found.round(2).tolist(), strict=True))


def _request(body):
  head = (
    'POST /v1/score HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n'
    f'content-length: {len(body)}\r\n\r\n'
  )
  return head.encode() + body


async def _exchange(reader, writer, request):
  """Status, body, and whether the connection may be used again."""
  writer.write(request)
  head = await reader.readuntil(b'\r\n\r\n')
  lines = head.lower().split(b'\r\n')
  headers = dict(line.split(b': ', 1) for line in lines[1:] if line)
  body = await reader.readexactly(int(headers[b'content-length']))
  return int(lines[0].split()[1]), body, headers.get(b'connection') != b'close'
