"""A task of planning and a plan: placements of all arrays, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ctr_jax import compress, predict
from ctr_jax.data import schema as schema_lib
from ctr_jax.tables import leaf as leaf_lib
from ctr_jax.tables import placement
from ctr_jax.train import mesh as mesh_lib
from ctr_jax.train import state as state_lib
from launch import costs
from launch import devices as devices_lib


class Task(NamedTuple):
  """What is planned.

  Attributes:
    schema: of a sample.
    rows: table → rows.
    net: a Flax module.
    dim: embedding dimension.
    recipe: how it learns.
    batch: samples of a step, of all devices.
    mesh: axis → devices.
    device: what the devices are.
    limit: bytes that a device may hold.
    host_limit: bytes of tables that a host may hold.
    rules: techniques by table.
    placements: by array, before any that is chosen.
    slack: of the buckets.
  """

  schema: schema_lib.Schema
  rows: Mapping[str, int]
  net: Any
  dim: int
  recipe: state_lib.Recipe
  batch: int
  mesh: Mapping[str, int]
  device: devices_lib.Device
  limit: int
  host_limit: int
  rules: compress.Rules = (('.*', compress.identity()),)
  placements: placement.Rules = ()
  slack: float = 1.25

  @property
  def devices(self) -> int:
    return self.mesh['data'] * self.mesh['model']

  def build(self, layout) -> predict.Model:
    return predict.build(self.schema, self.rows, self.rules, self.net, self.dim, layout=layout)


class Line(NamedTuple):
  """One stored array of a plan.

  Attributes:
    name: of the array.
    leaf: as it is stored, without the rows that fill hands.
    where: its placement.
    cost: of a device.
    why: it lies there, in words.
  """

  name: str
  leaf: leaf_lib.Leaf
  where: placement.Placement
  cost: costs.Cost
  why: str


class Plan(NamedTuple):
  """A placement for every array, and what they come to.

  Attributes:
    task: with the rules that the plan needs.
    model: what is trained.
    placements: rules that place it.
    lines: by array.
    net: cost of the net.
  """

  task: Task
  model: predict.Model
  placements: placement.Rules
  lines: tuple[Line, ...]
  net: costs.Net

  @property
  def tables(self) -> int:
    """Bytes of tables on a device."""
    return sum(x.cost.table for x in self.lines)

  @property
  def slots(self) -> int:
    """Bytes of the row optimizer's state on a device."""
    return sum(x.cost.slots for x in self.lines)

  @property
  def padding(self) -> int:
    """Bytes that the device's layout adds to all that lasts."""
    net = self.net.held - self.net.params - self.net.opt
    return net + sum(x.cost.held - x.cost.table - x.cost.slots for x in self.lines)

  @property
  def activations(self) -> int:
    """Bytes of a step's own: see `activations`."""
    return activations(self.task, self.net, [x.cost for x in self.lines])

  @property
  def total(self) -> int:
    """Bytes of a device."""
    lasting = self.tables + self.slots + self.net.params + self.net.opt + self.padding
    return lasting + self.activations

  @property
  def host(self) -> int:
    """Bytes of tables and their state in the host's memory."""
    return sum(x.cost.host for x in self.lines)

  def moves(self) -> list[tuple[str, costs.Move]]:
    """(what of, collective) of a step."""
    found = [(line.name, move) for line in self.lines for move in line.cost.moves]
    return found + [('net', move) for move in self.net.moves(self.task.devices)]

  def terms(self) -> dict[str, float]:
    """Seconds of a step by term; they add up to the expected time (launch/costs.py)."""
    device = self.task.device
    touched = sum(x.cost.touched for x in self.lines)
    net = max(self.net.products / device.products, self.net.touched / device.bandwidth)
    return {
      'tables': touched / device.bandwidth,
      'net': net,
      'exchange': sum(move.seconds(device) for _, move in self.moves()),
      'host': sum(x.cost.linked for x in self.lines) / device.host_link,
    }


def activations(task: Task, net: costs.Net, arrays) -> int:
  """Bytes that a device needs during a step and not after it.

  What the net keeps for its backward pass, its vectors and their gradients, the gradients of its
  parameters, and rows on their way. If the fast memory beside the large one has room for all, it
  takes none of the large one. With 65,536 samples a chip (DCNv2 on v5e:2x2) TPU's compiler takes
  1.62 GB, which is more: a chip that samples fill, not tables, is fuller than planned.
  """
  needed = net.kept + net.vectors + net.gradients + sum(x.buffers for x in arrays)
  return needed if needed > task.device.fast else 0


def columns(task: Task, batch: int) -> dict[str, np.ndarray]:
  """A batch of so many samples, of which only shapes matter."""
  found = {'label': np.zeros(batch, np.float32)}
  for feature in task.schema.features:
    shape = (batch, feature.width) if feature.kind == 'ids' else (batch,)
    found[feature.name] = np.zeros(shape, np.float32 if feature.kind == 'numeric' else np.int32)
  return found


def cluster(plan: Plan, mesh) -> mesh_lib.Cluster:
  """What trains the plan's model on a mesh of devices."""
  return mesh_lib.Cluster(mesh, plan.placements, slack=plan.task.slack)
