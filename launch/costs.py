"""The cost model: bytes of a device, bytes that it sends, and the seconds that a step then takes.

Every number follows from the program that is trained (train/mesh.py, tables/sharded.py), whose
shapes are static: a device has n = min(its reads, rows + 1) distinct rows of an array, in buckets
of `slack · n / parts` for each owner, full or not. For s bytes of a stored row, f of its float32
gradient, P parts and C copies of each part, a device sends in a step

  rows        all-to-all   P·bucket·(4 + s)                   ids there, rows back
              all-to-all   P·bucket·(4 + f) + 4·P             ids and gradients; counts
              all-gather   C·P·bucket·(4 + f)                 where parts have copies
              all-reduce   4                                  whether all buckets suffice
  columns     all-gather   P·n·4, twice; all-to-all n·(s + f); the copies' share as above
  replicated  all-gather   devices·n·(4 + f), or if n > rows
              all-reduce   rows·(4 + f)
  net         all-reduce   its parameters' gradients

and a step takes

  step = tables + max(net's products, net's memory) + exchange + host
  tables      lines of memory that reading and writing rows and slots touches / bandwidth
  exchange    bytes / bandwidth of the links for that pattern + hops, collective after collective
  host        rows and slots there and back / bandwidth of its link

since the net needs the rows and the tables need the gradients. Not in it: what launching kernels,
sorting ids and rounds after the first take, nor whatever the compiler overlaps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctr_jax import predict
from ctr_jax.tables import leaf as leaf_lib
from ctr_jax.tables import sharded
from launch import devices as devices_lib
from launch import layouts

Slots = Mapping[str, leaf_lib.Leaf]


class Move(NamedTuple):
  """One kind of collective.

  Attributes:
    kind: its name.
    nbytes: that a device holds of it: what it sends and keeps, or gets.
    over: devices that take part.
    times: how many there are in a step.
  """

  kind: str
  nbytes: int
  over: int
  times: int = 1

  def seconds(self, device: devices_lib.Device) -> float:
    """On the links of a device, and their hops."""
    each = {'all-to-all': devices_lib.parted, 'all-gather': devices_lib.gathered}
    share = (self.over - 1) / self.over
    if self.kind == 'all-reduce':  # Everyone's sums of a part, then all parts.
      each, hops = 2 * devices_lib.gathered(device, self.over), 2 * self.times
    else:
      each, hops = each[self.kind](device, self.over), self.times
    return self.nbytes * share * each + hops * devices_lib.hops(device, self.over)


class Cost(NamedTuple):
  """What one array costs a device.

  Attributes:
    table: bytes of the array.
    slots: bytes of its optimizer state.
    held: both, in the device's layout.
    host: bytes of both in the host's memory, of all.
    buffers: bytes of a batch's rows on their way.
    touched: bytes of memory that a step reads and writes.
    moves: collectives.
    linked: bytes between the host and its devices.
  """

  table: int = 0
  slots: int = 0
  held: int = 0
  host: int = 0
  buffers: int = 0
  touched: int = 0
  moves: tuple[Move, ...] = ()
  linked: int = 0

  def seconds(self, device: devices_lib.Device) -> float:
    """Of a step."""
    moved = sum(move.seconds(device) for move in self.moves)
    return self.touched / device.bandwidth + moved + self.linked / device.host_link


def held(device: devices_lib.Device, shape, dtype) -> int:
  """Bytes of an array in a device's memory."""
  if device.tiled:
    return layouts.padded(shape, dtype)
  return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def array(
  leaf: leaf_lib.Leaf,
  slots: Slots | None,
  lie: sharded.Lie,
  reads: int,
  device: devices_lib.Device,
  devices: int,
  slack: float = 1.25,
) -> Cost:
  """Of one array.

  Args:
    leaf: describes it, with the rows that it has on the mesh.
    slots: of its row optimizer; None if no row optimizer moves it.
    lie: how it lies.
    reads: that a device has of it in a batch; 0 for arrays that are read whole.
    device, devices: what it lies on, and how many of them there are.
    slack: of the buckets.
  """
  stored = [_part(x, lie) for x in (leaf, *(slots or {}).values())]
  sizes = [int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for shape, dtype in stored]
  found = Cost(sizes[0], sum(sizes[1:]), sum(held(device, *x) for x in stored))
  if not reads:
    return found
  n = min(reads, leaf.rows + 1)
  row, slope = leaf.nbytes // leaf.rows, _floats(leaf)
  bucket = sharded.capacity(n, lie.parts, slack) if lie.split == 'rows' else n
  moves = _moves(leaf, lie, n, bucket, row, slope, slots is not None, devices)
  # Rows that an owner is asked for, and those that it updates.
  asked = lie.parts * bucket if lie.split != 'nothing' else n
  own = leaf.rows // lie.parts if lie.split == 'rows' else leaf.rows
  moved = 0 if slots is None else min(own, asked * (devices // lie.parts))
  lines = [_line(device, *x) for x in stored]  # Lines that are written in part are read before.
  touched = asked * lines[0] + (3 * moved * sum(lines) if slots is not None else 0)
  wide = _lanes(device, slope // 4) * 4
  stands = wide + _lanes(device, int(np.prod(leaf.shape[1:]))) * np.dtype(leaf.dtype).itemsize
  buffers = 2 * n * wide + (asked + moved) * stands
  return found._replace(touched=touched, moves=moves, buffers=buffers)


def _part(leaf, lie):
  shape = list(leaf.shape)
  if lie.split == 'rows':
    shape[0] //= lie.parts
  if lie.split == 'columns':
    shape[-1] //= lie.parts
  return tuple(shape), np.dtype(leaf.dtype)


def _floats(leaf):
  """Bytes of the gradient of one row: of all that `load` gives, fixed columns too."""
  loaded = jax.eval_shape(leaf.load, jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype))
  return loaded.size * loaded.dtype.itemsize


def _lanes(device, columns):
  """Columns of rows on their way, which do not lie as tables do: f32[320,16]{1,0:T(8,128)}."""
  return -(-columns // 128) * 128 if device.tiled else columns


def _line(device, shape, dtype):
  size = np.dtype(dtype).itemsize
  columns = int(np.prod(shape[1:], dtype=np.int64))
  if not device.tiled:  # Sectors of 32 bytes.
    return -(-columns * size // 32) * 32
  return layouts.lines(shape[0], columns, dtype) if len(shape) > 1 else layouts.LINE


def _moves(leaf, lie, n, bucket, row, slope, trained, devices):
  sent, parts, copies = lie.parts * bucket, lie.parts, devices // lie.parts
  if devices == 1:
    return ()
  if lie.split == 'nothing':
    if not trained:
      return ()
    if n > leaf.rows:
      return (Move('all-reduce', leaf.rows * (slope + 4), devices, 2),)
    return (Move('all-gather', devices * n * (slope + 4), devices, 2),)
  if lie.split == 'columns':
    found = [Move('all-gather', parts * n * 4, parts), Move('all-to-all', n * row, parts)]
    if trained:
      found += [Move('all-gather', parts * n * 4, parts), Move('all-to-all', n * slope, parts)]
      found += _copies(copies, parts * n * (4 + slope // parts))
    return tuple(found)
  found = [Move('all-to-all', sent * (4 + row) + 4 * parts, parts, 3)] if parts > 1 else []
  if bucket < n:
    found.append(Move('all-reduce', 4, devices))
  if trained:
    found += [Move('all-to-all', sent * (4 + slope), parts, 2)] if parts > 1 else []
    found += _copies(copies, sent * (4 + slope))
  return tuple(found)


def _copies(copies, nbytes):
  return [Move('all-gather', copies * nbytes, copies, 2)] if copies > 1 else []


def on_host(
  leaf: leaf_lib.Leaf,
  slots: Slots | None,
  reads: int,
  device: devices_lib.Device,
  devices: int,
  slack: float = 1.25,
) -> Cost:
  """Of one array in the host's memory: devices hold the rows that a batch can read, all of them."""
  n = min(reads * devices, leaf.rows + 1)
  nothing = sharded.Lie('nothing', (), 1, ())
  small = _rows(leaf, n)
  few = {name: _rows(x, n) for name, x in (slots or {}).items()}
  found = array(small, None if slots is None else few, nothing, reads, device, devices, slack)
  both = leaf.nbytes + sum(x.nbytes for x in (slots or {}).values())
  there = found.table + found.slots
  return found._replace(
    table=0, slots=0, host=both, buffers=found.buffers + found.held, held=0, linked=2 * there
  )


def _rows(leaf, n):
  return leaf_lib.Leaf(
    (n, *leaf.shape[1:]), leaf.dtype, leaf.axes, load=leaf.load, store=leaf.store, fixed=leaf.fixed
  )


class Net(NamedTuple):
  """What the net costs a device.

  Attributes:
    params: bytes of parameters and statistics, as they are and in the device's layout.
    opt: the same of the state of the optimizer.
    held: both, in the device's layout.
    products: floating-point operations of a step.
    kept: bytes that its backward pass needs of the forward one.
    vectors: bytes of what it reads, and of the gradients.
    gradients: bytes of its gradients.
  """

  params: int
  opt: int
  held: int
  products: float
  kept: int
  vectors: int
  gradients: int

  @property
  def touched(self) -> int:
    """Bytes of memory that a step reads and writes.

    Parameters: in both passes and by Adam, which reads the gradient and two moments and writes all
    three. What is kept is written and read, and so are its gradients.
    """
    return 2 * self.gradients + 7 * self.gradients + 4 * self.kept

  def moves(self, devices: int) -> tuple[Move, ...]:
    return (Move('all-reduce', self.gradients, devices),) if devices > 1 else ()


def net(model: predict.Model, opt: Callable, device: devices_lib.Device, batch: int) -> Net:
  """Of a model's net, for `batch` samples of a device. Nothing is computed or compiled.

  Args:
    model: its net and the shape of its vectors.
    opt: parameters → state of the optimizer, of the net and what else it moves.
    device: in whose layout.
    batch: samples.
  """
  variables = jax.eval_shape(lambda: predict.init_net(model, jax.random.key(0)))
  state = jax.eval_shape(opt, variables['params'])

  def loss(params, vectors, variables, label, key):
    given = variables | {'params': params}
    logit, _ = predict.of_vectors(model, given, vectors, train=True, rng=key)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logit, label))

  def shapes(batch):
    vectors = jax.ShapeDtypeStruct((batch, len(model.features), model.width), jnp.float32)
    label = jax.ShapeDtypeStruct((batch,), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return variables['params'], vectors, variables, label, key

  def kept(batch):
    def residuals(params, vectors, *rest):
      return jax.vjp(lambda params, vectors: loss(params, vectors, *rest), params, vectors)[1]

    return _nbytes(jax.eval_shape(residuals, *shapes(batch)))

  gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
  found = gradient.lower(*shapes(batch)).cost_analysis() or {}
  both = jax.tree.leaves((variables, state))
  return Net(
    params=_nbytes(variables),
    opt=_nbytes(state),
    held=sum(held(device, x.shape, x.dtype) for x in both),
    products=float(found.get('flops', 0)),
    kept=kept(2 * batch) - kept(batch),  # Without the parameters, which are kept too.
    vectors=2 * batch * len(model.features) * _lanes(device, model.width) * 4,
    gradients=_nbytes(variables['params']),
  )


def _nbytes(tree):
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
