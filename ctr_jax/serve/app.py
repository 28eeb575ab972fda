"""The routes of the service, as an ASGI application.

  POST /v1/score   raw values in, probabilities out: JSON or an Arrow IPC stream
  GET  /v1/model   the model that serves: columns, version, bytes
  GET  /healthz    200 while the process lives
  GET  /readyz     200 while it should be sent requests: a model is loaded, and it is not stopping
  GET  /metrics    Prometheus text

Every refusal is `{"error": a sentence}`; what is a client's fault is never a 500.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence

from starlette import applications, exceptions, requests, responses, routing

from ctr_jax.serve import batching, bodies, json_bodies, metrics, swap
from ctr_jax.serve.limits import Limits, Refused

_INLINE_BYTES = 1 << 16
"""A larger body is parsed in a thread, so that others are seen to meanwhile."""

_SCORE = '/v1/score'
_PATHS = (_SCORE, '/v1/model', '/healthz', '/readyz', '/metrics')


class Service:
  """What the routes share.

  Attributes:
    limits: see `Limits`.
    counts: the metrics.
    holder: of the model that serves.
    batcher: scores.
    draining: whether the service is stopping: `/readyz` says no, and connections are closed after
      their answer, so that clients go elsewhere.
  """

  def __init__(self, open_scorer, limits: Limits, tried_rows: Sequence[int] = (1,)):
    self.limits = limits.check()
    self.counts = metrics.Metrics()
    self.holder = swap.Holder(open_scorer, self.counts.loaded, tried_rows)
    self.batcher = batching.Batcher(limits, self.counts)
    self.draining = False
    self._held = 0

  async def read(self, request: requests.Request) -> bytes:
    """The body, within the limits of size, memory and time. `release` it afterwards."""
    limit = self.limits.max_body_bytes
    declared = request.headers.get('content-length', '')
    if declared.isascii() and declared.isdigit() and int(declared[:19]) > limit:
      raise _too_large(limit)
    chunks, size = [], 0
    try:
      async with asyncio.timeout(self.limits.body_timeout_s):
        async for chunk in request.stream():
          size += len(chunk)
          self._hold(len(chunk))
          chunks.append(chunk)
          if size > limit:
            raise _too_large(limit)
          if self._held > self.limits.max_held_bytes:
            raise Refused(503, 'Overloaded: too many bodies are in memory.', 'memory', 1.0)
      return b''.join(chunks)
    except BaseException as e:
      self._hold(-size)
      if isinstance(e, TimeoutError):
        seconds = self.limits.body_timeout_s
        raise Refused(408, f'The body did not arrive within {seconds:g} s.') from e
      raise

  def release(self, body: bytes) -> None:
    """Says that a body that was read is no longer in memory."""
    self._hold(-len(body))

  def _hold(self, nbytes):
    self._held += nbytes
    self.counts.held(self._held)


def make(service: Service):
  """The ASGI application of a service."""

  @contextlib.asynccontextmanager
  async def lifespan(app):
    del app
    scoring = asyncio.create_task(service.batcher.run())
    yield
    scoring.cancel()
    with contextlib.suppress(asyncio.CancelledError):
      await scoring

  def route(path, handler, method):
    async def endpoint(request):
      return await handler(service, request)

    return routing.Route(path, endpoint, methods=[method])

  app = applications.Starlette(
    routes=[
      route('/v1/score', _score, 'POST'),
      route('/v1/model', _model, 'GET'),
      route('/healthz', _alive, 'GET'),
      route('/readyz', _ready, 'GET'),
      route('/metrics', _metrics, 'GET'),
    ],
    lifespan=lifespan,
    exception_handlers={
      Refused: _refused(service),
      exceptions.HTTPException: _http_error,
      requests.ClientDisconnect: _gone,
      Exception: _failed,
    },
  )
  app.router.redirect_slashes = False
  return _watched(app, service)


async def _score(service, request):
  wanted_s = _wanted_s(request.headers.get('x-deadline-ms'))
  kind = bodies.media_type(
    request.headers.get('content-type'), request.headers.get('content-encoding')
  )
  scorer = _scorer(service)
  body = await service.read(request)
  try:
    deadline = service.batcher.deadline(wanted_s)
    arguments = kind, body, scorer.columns, service.limits
    if len(body) > _INLINE_BYTES:
      parsed = await asyncio.to_thread(bodies.parse, *arguments)
    else:
      parsed = bodies.parse(*arguments)
    answer = await service.batcher.score(scorer, parsed.columns, parsed.rows, deadline)
  finally:
    service.release(body)
  service.counts.answered(parsed.rows)
  return responses.Response(
    bodies.answer(kind, *answer), media_type=kind, headers={'x-model-version': answer.version}
  )


async def _model(service, request):
  del request
  scorer = _scorer(service)
  return responses.JSONResponse(
    {'version': scorer.version, 'columns': dict(scorer.columns), 'bytes': scorer.nbytes}
  )


async def _alive(service, request):
  del service, request
  return responses.JSONResponse({'alive': True})


async def _ready(service, request):
  del request
  if service.draining:
    raise Refused(503, 'The service is stopping.', 'stopping', 1.0)
  return responses.JSONResponse({'ready': True, 'version': _scorer(service).version})


async def _metrics(service, request):
  del request
  return responses.Response(service.counts.text(), headers={'content-type': metrics.CONTENT_TYPE})


def _scorer(service):
  if service.holder.current is None:
    raise Refused(503, 'The model is being loaded.', 'loading', 1.0)
  return service.holder.current


def _wanted_s(header):
  """Seconds that a client allows, from its header X-Deadline-Ms."""
  if header is None:
    return None
  if not (header.isascii() and header.isdigit() and len(header) < 10 and int(header)):
    raise Refused(400, 'X-Deadline-Ms must be a positive whole number of milliseconds.')
  return int(header) / 1000


def _too_large(limit):
  return Refused(413, f'The body is larger than {limit} bytes; send fewer rows at once.')


def _error(status, sentence, headers=None):
  return responses.Response(
    json_bodies.error(sentence), status, headers, media_type='application/json'
  )


def _refused(service):
  async def handler(request, refused):
    return _refusal(service, request.url.path, refused)

  return handler


def _refusal(service, path, refused):
  headers = {}
  if refused.status == 503:
    if path == _SCORE:
      service.counts.shed(refused.reason)
    headers['retry-after'] = str(math.ceil(refused.retry_after_s))
  if refused.status in (408, 413):
    headers['connection'] = 'close'  # The rest of the body will not be read.
  return _error(refused.status, str(refused), headers)


async def _http_error(request, error):
  sentences = {
    404: f'There is nothing at this path; there are {", ".join(_PATHS)}.',
    405: f'The method {request.method} is not for this path.',
  }
  return _error(error.status_code, sentences.get(error.status_code, error.detail), error.headers)


async def _gone(request, error):
  del request, error
  return responses.Response(status_code=499)  # Nobody reads it; it is counted.


async def _failed(request, error):
  del request, error  # The server logs it.
  return _error(500, 'The service failed; its log says how.')


def _watched(app, service):
  """Counts what is answered, and how fast; while draining asks clients to go elsewhere.

  What cannot be answered in time is refused here, before it is routed and a byte of its body read:
  under a load of many times the capacity, it is by far the most.
  """

  async def watched(scope, receive, send):
    if scope['type'] != 'http':
      await app(scope, receive, send)
      return
    path = scope['path'] if scope['path'] in _PATHS else 'other'
    began = time.perf_counter()

    async def counted(message):
      if message['type'] == 'http.response.start':
        seconds = time.perf_counter() - began if path == _SCORE else None
        service.counts.request(path, message['status'], seconds)
        if service.draining:
          message['headers'] = [*message['headers'], (b'connection', b'close')]
      await send(message)

    try:
      if path == _SCORE and scope['method'] == 'POST':
        service.batcher.admit(1, service.batcher.deadline())
      await app(scope, receive, counted)
    except Refused as refused:
      await _refusal(service, path, refused)(scope, receive, counted)

  return watched
