"""What the service takes on, and how it says no."""

from typing import NamedTuple


class Limits(NamedTuple):
  """Bounds on a request, on what waits, and on time.

  Attributes:
    max_batch_rows: rows that are scored together; a larger request is scored alone.
    max_wait_s: how long a request waits for others to be scored with.
    max_latency_s: from arrival to answer. A request that would take longer is refused at once.
    max_body_bytes: of one request.
    max_request_rows: of one request.
    max_queue_rows: rows that wait, over all requests.
    max_held_bytes: bodies in memory, over all requests.
    body_timeout_s: for the client to send its body.
  """

  max_batch_rows: int = 1024
  max_wait_s: float = 0.002
  max_latency_s: float = 0.2
  max_body_bytes: int = 8 << 20
  max_request_rows: int = 10_000
  max_queue_rows: int = 100_000
  max_held_bytes: int = 64 << 20
  body_timeout_s: float = 10.0

  def check(self) -> 'Limits':
    """These limits; a ValueError in words if they contradict each other."""
    for name, value in self._asdict().items():
      if value < 0 or (value == 0 and name != 'max_wait_s'):
        raise ValueError(f'The limit {name} must be positive, not {value}.')
    if self.max_request_rows > self.max_queue_rows:
      raise ValueError(
        f'A request may have {self.max_request_rows} rows (max_request_rows), more than may wait '
        f'({self.max_queue_rows}, max_queue_rows): it would always be refused.'
      )
    if self.max_body_bytes > self.max_held_bytes:
      raise ValueError(
        f'A body may have {self.max_body_bytes} bytes (max_body_bytes), more than all may have '
        f'together ({self.max_held_bytes}, max_held_bytes): it would always be refused.'
      )
    if self.max_wait_s >= self.max_latency_s:
      raise ValueError(
        f'Requests would wait {self.max_wait_s} s for others (max_wait_s), and must be answered '
        f'within {self.max_latency_s} s (max_latency_s): wait for less.'
      )
    return self


class Refused(Exception):
  """A request that is not scored: an HTTP status, and a sentence for the client.

  Attributes:
    status: of the answer.
    reason: one word for the metrics.
    retry_after_s: when the client may try again, of a 503.
  """

  def __init__(self, status: int, sentence: str, reason: str = '', retry_after_s: float = 0.0):
    super().__init__(sentence)
    self.status = status
    self.reason = reason
    self.retry_after_s = retry_after_s
