"""What a plan has to know of an accelerator: memory, bandwidths, products per second; with sources.

Memory is what a program may use of it. For TPUs it is what the compiler says is available when a
program asks for too much (libtpu 0.0.42: 15.75 GiB of v5e's 16, 31.25 of v6e's 32, 95.74 of v5p;
for v4 twice the 15.25 of a core); for GPUs the 75 % that jax takes by default.

Sources:
  TPU      docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e: memory and its bandwidth, bf16
           products, interconnect of a chip (here by axis of the torus, both directions), chips and
           memory of a host. The pages do not say v4's and v5p's host memory (400 and 448 GB are
           those of the machine types ct4p and ct5p) nor the link to the host (PCIe: v6e's 5th
           generation; the 3rd, 16 GB/s, is assumed for the others).
  A100     NVIDIA's data sheet of the A100 80 GB SXM and of the DGX A100: TF32, NVLink 600 GB/s,
           a 200 Gb/s adapter for each GPU, PCIe 4.
  H100/200 NVIDIA's data sheets of the SXM modules and of the DGX: TF32 without sparsity, NVLink
           900 GB/s, a 400 Gb/s adapter for each GPU, PCIe 5.
  cpu      a device of the simulated mesh of the tests: orders of magnitude, for no machine.

Products are those of float32 at jax's default precision: bf16 passes on TPUs, TF32 on GPUs.
"""

from __future__ import annotations

from typing import NamedTuple

_GB, _GIB = 10**9, 1 << 30


class Device(NamedTuple):
  """One chip.

  Attributes:
    name: as `--device` says it.
    memory: bytes that a program may use.
    bandwidth: of its memory, bytes per second.
    products: floating-point operations per second, a product and a sum being two.
    link: bytes per second to its neighbours: along each axis of a torus, of both directions; of a
      switch, out and in at once.
    axes: of the torus; 0 for a switch.
    ring: sides of the torus that close: multiples of so many chips.
    far: bytes per second to devices on other hosts, where a switch ends at its host.
    hosted: devices of a host.
    host_memory: bytes of a host that tables may take, for each of its devices.
    host_link: bytes per second between a device and its host.
    fast: bytes beside the large memory where the compiler keeps what it can (TPU's VMEM).
    tiled: whether arrays are laid out in tiles (launch/layouts.py).
  """

  name: str
  memory: int
  bandwidth: float
  products: float
  link: float
  axes: int
  ring: int
  far: float
  hosted: int
  host_memory: int
  host_link: float
  fast: int = 0
  tiled: bool = False


def _tpu(name, gib, bandwidth, products, link, axes, ring, hosted, host_gb, host_link, fast):
  return Device(
    name, int(gib * _GIB), bandwidth, products, link, axes, ring, link, hosted,
    int(host_gb * _GB / hosted), host_link, fast << 20, tiled=True,
  )  # fmt: skip


def _gpu(name, gb, bandwidth, products, link, far, host_link):
  memory, host = int(0.75 * gb * _GB), 2000 * _GB // 8
  return Device(name, memory, bandwidth, products, link, 0, 0, far, 8, host, host_link)


DEVICES = {
  x.name: x
  for x in (
    _tpu('v4', 30.5, 1200e9, 275e12, 100e9, 3, 4, 4, 400, 16e9, 128),
    _tpu('v5e', 15.75, 819e9, 197e12, 100e9, 2, 16, 8, 549, 16e9, 128),
    _tpu('v5p', 95.74, 2765e9, 459e12, 200e9, 3, 4, 4, 448, 16e9, 128),
    _tpu('v6e', 31.25, 1638e9, 918e12, 200e9, 2, 16, 8, 1649, 64e9, 128),
    _gpu('a100', 80, 2039e9, 156e12, 600e9, 50e9, 32e9),
    _gpu('h100', 80, 3350e9, 495e12, 900e9, 100e9, 64e9),
    _gpu('h200', 141, 4800e9, 495e12, 900e9, 100e9, 64e9),
    Device('cpu', 4 * _GB, 10e9, 50e9, 5e9, 0, 0, 5e9, 8, 4 * _GB, 10e9),
  )
}
HOP = 1e-6
"""Seconds from a chip to its neighbour, or through a switch: the order of magnitude of ICI's hops
(jax-ml.github.io/scaling-book/sharding)."""


def parted(device: Device, devices: int) -> float:
  """Seconds for each byte that every device sends evenly to all (an all-to-all).

  Half of all bytes cross the middle of the torus, which 2 × links of its other sides join if the
  long side is closed, and half as many if it is not: v5e's 1.6 TB/s of 16×16 by this count.
  """
  if devices == 1:
    return 0.0
  if not device.axes:
    return 2 / _switched(device, devices)
  side = devices ** (1 / device.axes)
  wires = devices / side * (2 if side >= device.ring else 1)
  return devices / 4 / (wires * device.link / 2)


def gathered(device: Device, devices: int) -> float:
  """Seconds for each byte that every device gets from the others (an all-gather)."""
  if devices == 1:
    return 0.0
  if not device.axes:
    return 2 / _switched(device, devices)
  return 1 / (device.link * min(device.axes, max(1, devices.bit_length() - 1)))


def _switched(device, devices):
  return device.link if devices <= device.hosted else device.far


def hops(device: Device, devices: int) -> float:
  """Seconds that the first byte needs to the farthest device and back."""
  if devices == 1:
    return 0.0
  return HOP * (max(1.0, device.axes * devices ** (1 / device.axes) / 2) if device.axes else 1)
