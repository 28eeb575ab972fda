"""What the service counts, as Prometheus text."""

import functools

import prometheus_client as prometheus

from ctr_jax import serve

CONTENT_TYPE = prometheus.CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_ROWS = tuple(4**i for i in range(9))


class Metrics:
  """Counters of one service; a registry of its own, so that two may live in one process."""

  def __init__(self):
    self.registry = prometheus.CollectorRegistry()
    counter, gauge, histogram = prometheus.Counter, prometheus.Gauge, prometheus.Histogram
    make = self._make
    self._requests = make(counter, 'requests', 'Requests answered.', 'path', 'status')
    self._shed = make(counter, 'shed', 'Requests refused with 503, by reason.', 'reason')
    self._rows = make(counter, 'rows', 'Rows scored and answered.')
    seconds = 'From the head of a scoring request to its answer, by status.'
    self._seconds = make(histogram, 'request_seconds', seconds, 'status', buckets=_SECONDS)
    self._queue = make(gauge, 'queue_rows', 'Rows that wait.')
    self._batch_rows = make(histogram, 'batch_rows', 'Rows scored together.', buckets=_ROWS)
    self._batch_seconds = make(histogram, 'batch_seconds', 'Time of a batch.', buckets=_SECONDS)
    self._held = make(gauge, 'held_bytes', 'Bodies of requests in memory.')
    self._loads = make(counter, 'model_loads', 'Artifacts opened, or refused.', 'outcome')
    self._model = make(gauge, 'model_info', '1 for the version that serves.', 'version')
    self._nbytes = make(gauge, 'model_bytes', 'Stored tables and parameters of the model.')

  @functools.cache  # noqa: B019 (kept as long as the service lives)
  def _children(self, path, status):
    return self._requests.labels(path, str(status)), self._seconds.labels(str(status))

  def _make(self, kind, name, text, *labels, **more):
    return kind(f'ctr_{name}', text, labels, registry=self.registry, **more)

  def text(self) -> bytes:
    """All of it, in Prometheus' text format."""
    return prometheus.generate_latest(self.registry)

  def request(self, path: str, status: int, seconds: float | None = None) -> None:
    """A request was answered; `seconds` if it is one whose time is watched."""
    counter, histogram = self._children(path, status)
    counter.inc()
    if seconds is not None:
      histogram.observe(seconds)

  def shed(self, reason: str) -> None:
    """A request was refused for lack of capacity."""
    self._shed.labels(reason).inc()

  def answered(self, rows: int) -> None:
    """So many rows were answered."""
    self._rows.inc(rows)

  def queue(self, rows: int) -> None:
    """So many rows wait."""
    self._queue.set(rows)

  def batch(self, rows: int, seconds: float) -> None:
    """A batch was scored."""
    self._batch_rows.observe(rows)
    self._batch_seconds.observe(seconds)

  def held(self, nbytes: int) -> None:
    """So many bytes of bodies are in memory."""
    self._held.set(nbytes)

  def loaded(self, scorer: serve.Scorer | None) -> None:
    """Another model serves, or was refused (None)."""
    self._loads.labels('served' if scorer else 'refused').inc()
    if scorer:
      self._model.clear()
      self._model.labels(scorer.version).set(1)
      self._nbytes.set(scorer.nbytes)
