"""Batches of a source: shuffled, sharded by host, resumable at any step.

Each host owns one contiguous range of a split's rows and reads nothing else, so hosts are disjoint
and reading scales with their number. Host h of H has rows h n // H to (h + 1) n // H of n; all of
them take the same number of steps.

How a host's rows are shuffled: if they fit the window, they are read once, kept across epochs, and
each epoch is a full permutation. Otherwise each epoch permutes blocks of consecutive rows, reads
several blocks as one window, permutes its rows, and reads the next window meanwhile. All of it
follows from (seed, epoch, host), so an epoch can start at any step, without reading the windows
before it.
"""

import concurrent.futures
import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ctr_jax.data import columns as columns_lib

Batch = dict[str, np.ndarray]

# Rows: whole chunks of the stored columns, and what is read at a time.
_BLOCK = 1 << 16


class Batches:
  """The batches of one split, as one host sees them.

  With `shuffle` (training) an epoch drops the remainder, a different one in each epoch. Without
  (evaluation) rows keep their order, and the last batch is padded by repeating its first row; there
  'weight', float32, is 1 for samples and 0 for padding.
  """

  def __init__(
    self,
    source: columns_lib.Source,
    split: str,
    names: Sequence[str],
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    host: int = 0,
    hosts: int = 1,
    window: int = 1 << 22,
    block: int = _BLOCK,
  ):
    """
    Args:
      source: what to read.
      split: of the source.
      names: columns of a batch: features, 'label', and what else the source has.
      batch_size: samples of a batch over all hosts.
      seed: of the shuffling.
      shuffle: for training.
      host: this host's number.
      hosts: how many there are.
      window: rows held in memory at a time; two half windows if the host's rows do not fit.
      block: consecutive rows that stay in one window; whole chunks of the source's columns.
    """
    if not 0 <= host < hosts or batch_size < 1 or batch_size % hosts:
      raise ValueError(
        f'A batch of {batch_size} cannot be shared out to host {host} of {hosts}: hosts count from '
        '0, and the batch size must be a multiple of their number.'
      )
    known = (*source.schema.names, 'label', *source.extras)
    unknown = [name for name in names if name not in known]
    if unknown:
      raise ValueError(f'Source {source.schema.name!r} has no {unknown}; it has {list(known)}.')
    if window < 1 or block < 1:
      raise ValueError(f'window and block are at least one row, got {window} and {block}.')
    samples = source.num_samples(split)
    if samples < (batch_size if shuffle else 1):
      raise ValueError(
        f'Split {split!r} of {source.schema.name!r} has {samples} samples, less than one batch of '
        f'{batch_size}; use smaller batches.'
      )
    self._source, self._split, self._names = source, split, tuple(dict.fromkeys(names))
    self._seed, self._shuffle, self._host = seed, shuffle, host
    self._size = batch_size // hosts
    self._window, self._block = window, min(block, max(1, window // 2))
    self._start, self._stop = host * samples // hosts, (host + 1) * samples // hosts
    self._kept: Batch = {}
    if shuffle:
      self.steps_per_epoch = samples // batch_size
    else:  # Of the hosts with one row more, if there are any.
      self.steps_per_epoch = -(-samples // batch_size)

  def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
    """The batches of one epoch from step `start` on: name -> array [batch_size / hosts, ...]."""
    if not 0 <= start <= self.steps_per_epoch:
      raise ValueError(f'Step {start} is not in an epoch of {self.steps_per_epoch} steps.')
    return self._shuffled(epoch, start) if self._shuffle else self._in_order(start)

  def share(self, other: 'Batches') -> None:
    """Keeps rows that fit the window once for both, read by whichever comes first.

    Both are then read by one thread. For the same rows in other orders: another seed.

    Raises:
      ValueError: the other one has other rows or columns.
    """
    if self._rows() != other._rows() or self._source.checksum != other._source.checksum:
      raise ValueError('Only batches of the same columns and rows of one source can share them.')
    self._kept = other._kept

  def _rows(self):
    return self._split, self._names, self._start, self._stop

  def _shuffled(self, epoch, start):
    fits = self._stop - self._start <= self._window
    windows = (self._in_memory if fits else self._in_windows)(epoch, start * self._size)
    with contextlib.closing(windows):
      # A host with one row more than another stops with it.
      yield from itertools.islice(_cut(windows, self._size), self.steps_per_epoch - start)

  def _read(self, start: int, stop: int) -> Batch:
    columns = self._source.read(self._split, self._names, start, stop)
    return {name: columns[name] for name in self._names}

  def _rng(self, epoch: int, *what: int) -> np.random.Generator:
    return np.random.default_rng([self._seed, epoch, self._host, *what])

  def _in_memory(self, epoch, skip):
    if not self._kept:
      self._kept.update(self._read(self._start, self._stop))
    yield self._kept, self._rng(epoch).permutation(self._stop - self._start)[skip:]

  def _in_windows(self, epoch, skip):
    """Yields (columns, row numbers) of one window after the other, reading one ahead."""
    aligned = np.arange(-(-self._start // self._block) * self._block, self._stop, self._block)
    edges = np.unique([self._start, *aligned, self._stop])
    blocks = self._rng(epoch, 0).permutation(np.stack([edges[:-1], edges[1:]], axis=1))
    several = max(1, self._window // 2 // self._block)
    groups = [blocks[i : i + several] for i in range(0, len(blocks), several)]
    sizes = [int(np.diff(group).sum()) for group in groups]
    stops = np.cumsum(sizes)
    first = int(np.searchsorted(stops, skip, 'right'))

    with concurrent.futures.ThreadPoolExecutor(1, 'window') as reader:
      reads = (reader.submit(self._load, groups[n], sizes[n]) for n in range(first, len(groups)))
      following = next(reads, None)
      for number in range(first, len(groups)):
        columns = following.result()
        following = next(reads, None)
        seen = max(0, skip - int(stops[number] - sizes[number]))
        yield columns, self._rng(epoch, 1, number).permutation(sizes[number])[seen:]

  def _load(self, blocks, size: int) -> Batch:
    columns, at = {}, 0
    for start, stop in blocks.tolist():
      for name, part in self._read(start, stop).items():
        if name not in columns:
          columns[name] = np.empty((size, *part.shape[1:]), part.dtype)
        columns[name][at : at + len(part)] = part
      at += stop - start
    return columns

  def _in_order(self, start):
    size, until = self._size, 0
    several = max(1, self._block // size) * size
    for step in range(start, self.steps_per_epoch):
      first = self._start + step * size
      kept = min(max(self._stop - first, 0), size)
      if kept < size:
        batch = self._padded(first, kept)
      else:
        if first >= until:
          base, until = first, first + several
          columns = self._read(base, min(until, self._stop))
        batch = {name: column[first - base :][:size] for name, column in columns.items()}
      yield batch | {'weight': (np.arange(size) < kept).astype(np.float32)}

  def _padded(self, first: int, kept: int) -> Batch:
    """`kept` rows from `first` on and repetitions of the first, or of any if this host has none."""
    at = first if kept else max(self._stop - 1, 0)
    columns = self._read(at, at + max(kept, 1))
    numbers = np.arange(self._size)
    return _gather(columns, np.where(numbers < kept, numbers, 0))


def _gather(columns: Batch, rows: np.ndarray) -> Batch:
  return {name: column[rows] for name, column in columns.items()}


def _cut(windows: Iterable[tuple[Batch, np.ndarray]], size: int) -> Iterator[Batch]:
  """Cuts windows into batches of `size`; what is left of one begins the next."""
  rest, held = None, 0
  for columns, rows in windows:
    at = 0
    if held:
      at = size - held
      head = _gather(columns, rows[:at])
      rest = {name: np.concatenate([rest[name], head[name]]) for name in rest}
      held += min(at, len(rows))
      if held < size:
        continue
      yield rest
    whole = at + (len(rows) - at) // size * size
    for first in range(at, whole, size):
      yield _gather(columns, rows[first : first + size])
    rest, held = _gather(columns, rows[whole:]), len(rows) - whole


def prefetch(
  iterator: Iterable[Any], fn: Callable[[Any], Any] | None = None, depth: int = 2
) -> Iterator[Any]:
  """Runs `iterator`, and `fn` on each of its items, in a thread, up to `depth` items ahead.

  An exception in the thread is raised where its item would have come. Closing the generator, or an
  exception in the loop that reads it, stops the thread and closes the iterator.
  """
  if depth < 1:
    raise ValueError(f'prefetch needs a depth of at least 1, got {depth}.')
  ready, free, stopped = queue.SimpleQueue(), threading.Semaphore(depth), threading.Event()

  def work():
    try:
      for item in iterator:
        item = item if fn is None else fn(item)
        free.acquire()
        if stopped.is_set():
          return
        ready.put((item, None))
      ready.put((None, StopIteration()))
    except BaseException as error:  # Whatever it is, the consumer must not wait for ever.
      ready.put((None, error))
    finally:
      if hasattr(iterator, 'close'):
        iterator.close()

  thread = threading.Thread(target=work, name='prefetch', daemon=True)
  thread.start()
  try:
    while True:
      item, error = ready.get()
      if isinstance(error, StopIteration):
        return
      if error is not None:
        raise error
      free.release()
      yield item
  finally:
    stopped.set()
    free.release()
    thread.join()
