"""Compiles phases, and says what they need of a chip and of its time."""

import dataclasses
import re
import time
from typing import Any

import jax

from hh_jax.plan import chips, costs, hlo
from hh_jax.plan import phases as phases_lib

RESOURCES = ('flops', 'memory', 'links')
# The TPU's compiler with least effort: the same products and collectives,
# no fewer temporaries, and more memory traffic (docs/scaling.md has how much).
QUICK = {'exec_time_optimization_effort': -1.0}


@dataclasses.dataclass(frozen=True)
class Measured:
  """One phase on one chip: bytes, FLOPs and seconds a call."""

  name: str
  calls: int | None
  compile_s: float
  is_quick: bool  # compiled with the least effort: see QUICK
  # bytes; temp is None where the compiler only said that it is too much
  arguments: int
  outputs: int | None
  temporaries: int | None
  resident: int  # arrays that are no arguments but stay
  # all together, results in place of arguments once; None: more than there is
  peak: float | None
  memory: float | None  # of the chip
  model_flops: float  # by the formula, of one chip's share
  flops: float | None  # of the compiled program
  memory_traffic: float | None
  sent: dict[str, float]  # bytes that leave the chip, by collective
  open_loops: int  # loops whose trips are a bound
  seconds: dict[str, float]  # lower bounds, by resource

  @property
  def fits(self) -> bool:
    if self.memory is None:
      return True
    return self.peak is not None and self.peak <= self.memory

  @property
  def might_fit(self) -> bool:
    """Whether it would without any temporaries."""
    return self.memory is None or self.arguments + self.resident <= self.memory

  @property
  def bound(self) -> str | None:
    """What takes longest."""
    return max(self.seconds, key=self.seconds.get) if self.seconds else None

  @property
  def time(self) -> float | None:
    return max(self.seconds.values()) if self.seconds else None

  @property
  def mfu_bound(self) -> float | None:
    """The most of the chip's peak that useful FLOPs can be.

    Where a kernel leaves out what a mask hides, no more than it computes.
    """
    if not self.time or not self.flops:  # or no products at all
      return None
    useful = min(self.model_flops / self.flops, 1.0) * self.seconds['flops']
    return useful / self.time


def needed_bytes(message: str, arguments: int) -> float | None:
  """What a compiler that ran out of memory says a program needs.

  Some say how much its temporaries do, and `arguments` come to them. None: it
  does not say.
  """
  units = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
  number = r'([\d.]+)([KMGT])'
  for before, beside in (
    (r'Used ', 0),
    (r'required for HLO temporaries \(', arguments),
  ):
    if found := re.search(before + number, message):
      return float(found.group(1)) * units[found.group(2)] + beside
  return None


def _resources(found: costs.Costs, chip: chips.Chip | None) -> dict[str, float]:
  """Seconds that each resource needs at its peak."""
  if chip is None:
    return {}
  seconds = (
    found.flops / chip.flops,
    found.memory / chip.memory_bandwidth,
    sum(found.collectives.values()) / chip.link_bandwidth,
  )
  return dict(zip(RESOURCES, seconds, strict=True))


def phase(
  of: phases_lib.Phase,
  topology: chips.Topology,
  seen: dict[str, Any],
  *,
  quick: bool = False,
) -> Measured:
  """Compiles one phase; its results go to `seen`, for those after it.

  What does not fit as QUICK compiles it is compiled again as a run would,
  unless what is there before it is too much.
  """
  found = _compile(of, topology, seen, quick=quick)
  if found.is_quick and not found.fits and found.might_fit:
    found = _compile(of, topology, seen, quick=False)
  return found


def _compile(
  of: phases_lib.Phase,
  topology: chips.Topology,
  seen: dict[str, Any],
  *,
  quick: bool,
) -> Measured:
  arguments = of.arguments(seen)
  start = time.perf_counter()
  lowered = of.jitted.lower(*arguments)
  try:
    compiled = lowered.compile(QUICK if quick else None)
  except jax.errors.JaxRuntimeError as e:
    if 'RESOURCE_EXHAUSTED' not in str(e):
      raise
    needed = needed_bytes(str(e), phases_lib.chip_bytes(arguments))
    seen[of.name] = phases_lib.in_rows(lowered.out_info, arguments)
    found = _too_big(arguments, needed)
  else:
    seen[of.name] = phases_lib.results(lowered, compiled)
    found = _of_compiled(compiled, of, topology)
  resident = phases_lib.chip_bytes(of.resident)
  return Measured(
    name=of.name,
    calls=of.calls,
    compile_s=time.perf_counter() - start,
    is_quick=quick,
    resident=resident,
    memory=topology.memory,
    model_flops=of.flops / topology.num_chips,
    **found | {'peak': found['peak'] and found['peak'] + resident},
  )


def _too_big(arguments: Any, needed: float | None) -> dict[str, Any]:
  """What is known where the compiler gave up."""
  return dict(
    arguments=phases_lib.chip_bytes(arguments),
    outputs=None,
    temporaries=None,
    peak=needed,
    flops=None,
    memory_traffic=None,
    sent={},
    open_loops=0,
    seconds={},
  )


def _of_compiled(
  compiled: Any, of: phases_lib.Phase, topology: chips.Topology
) -> dict[str, Any]:
  found = costs.of_program(
    hlo.parse(compiled.as_text()),
    topology.num_chips,
    open_trips=of.open_trips,
    inner_trips=of.inner_trips,
  )
  memory = compiled.memory_analysis()
  size = {
    name: getattr(memory, f'{name}_size_in_bytes')
    for name in ('argument', 'output', 'temp', 'alias', 'generated_code')
  }
  return dict(
    arguments=size['argument'],
    outputs=size['output'],
    temporaries=size['temp'],
    # results in the place of arguments count once
    peak=sum(size.values()) - 2 * size['alias'],
    flops=found.flops,
    memory_traffic=found.memory,
    sent=found.collectives,
    open_loops=found.open_loops,
    seconds=_resources(found, topology.chip),
  )
