"""What a chip can do, by its public specification, and which chips are meant.

A bound on time divides by these numbers, so they are peaks: nothing real is
faster.
"""

import dataclasses
import math
import os
import re
from typing import Any

from hh_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peaks of one chip."""

  flops: float  # a second, dense bfloat16 products
  memory: float  # bytes
  memory_bandwidth: float  # bytes a second
  link_bandwidth: float  # bytes a second that leave the chip, over all links


GIB, GB = 2.0**30, 1e9
# TPUs: cloud.google.com/tpu/docs/v5e, /v5p and /v6e, the links at half of their
# 'bidirectional bandwidth'. H100 and H200 (SXM): NVIDIA's data sheets, without
# sparsity, NVLink at half of its 900 GB/s.
CHIPS = {
  'v5e': Chip(197e12, 16 * GIB, 819 * GB, 200 * GB),
  'v5p': Chip(459e12, 95 * GIB, 2765 * GB, 600 * GB),
  'v6e': Chip(918e12, 32 * GIB, 1638 * GB, 400 * GB),
  'h100': Chip(989e12, 80 * GB, 3350 * GB, 450 * GB),
  'h200': Chip(989e12, 141 * GB, 4800 * GB, 450 * GB),
}
TPUS = ('v5e', 'v5p', 'v6e')
GPUS = ('h100', 'h200')
# Axes of a slice; its links form a torus of as many.
_AXES = {'v5e': 2, 'v5p': 3, 'v6e': 2}
# No chip is used: no machine of the cloud is asked about chips, of which the
# compiler would warn, and several processes may compile at a time.
_NO_CLOUD = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_ACCELERATOR_TYPE': 'v5p-8',
}
KNOWN = 'v5e:4x4, v5p:4x8x8, v6e:4x4 and the like, gpu:h200x8, cpu, cpu:4'


@dataclasses.dataclass(frozen=True)
class Topology:
  """Chips that a program is compiled for."""

  name: str  # as typed
  kind: str  # 'tpu', 'gpu' or 'cpu'
  num_chips: int
  chip: Chip | None  # None: a CPU, which has no peaks here

  @property
  def memory(self) -> float | None:
    """Bytes of a chip that a program can have."""
    if self.chip is None:
      return None
    if self.kind == 'gpu':  # JAX takes this share of a GPU when it starts
      share = os.environ.get('XLA_PYTHON_CLIENT_MEM_FRACTION', '.75')
      return self.chip.memory * float(share)
    return self.chip.memory

  def devices(self) -> list[Any] | None:
    """Abstract chips of a TPU slice; None where those of this process serve."""
    if self.kind != 'tpu':
      return None
    from jax.experimental import topologies

    for name, value in _NO_CLOUD.items():
      os.environ.setdefault(name, value)
    try:
      slice_ = topologies.get_topology_desc(
        platform='tpu', topology_name=self.name
      )
    except Exception as e:  # of the compiler: it names what it cannot do
      reason = ' '.join(str(e).split())
      raise InputError(f'--topology {self.name}: {reason}') from e
    return list(slice_.devices)


def parse(name: str) -> Topology:
  """The topology of 'v5p:4x8x8', 'gpu:h200x8', 'cpu' or 'cpu:4'."""
  kind, _, rest = name.partition(':')
  if kind == 'cpu' and re.fullmatch(r'([1-9]\d*)?', rest):
    return Topology(name, 'cpu', int(rest or 1), None)
  if kind == 'gpu':
    chip, times, count = rest.partition('x')
    if chip in GPUS and re.fullmatch(r'[1-9]\d*' if times else '', count):
      return Topology(name, 'gpu', int(count or 1), CHIPS[chip])
  if kind in TPUS and re.fullmatch(r'[1-9]\d*(x[1-9]\d*)+', rest):
    sides = [int(n) for n in rest.split('x')]
    if len(sides) != _AXES[kind]:
      raise InputError(
        f'--topology {name!r}: slices of {kind} have {_AXES[kind]} sides'
      )
    return Topology(name, 'tpu', math.prod(sides), CHIPS[kind])
  raise InputError(f'--topology {name!r} is none of {KNOWN}')
