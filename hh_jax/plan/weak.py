"""Weak scaling: rows a chip stay, chips grow.

The law: with g chips along 'fsdp', what a chip computes and sends in a phase is
a + b / g. What is gathered from or scattered to g chips costs (g - 1) / g of
it; rows a chip are the same. Memory traffic is an estimate that moves with what
the compiler fuses: beyond the slices compiled it stays that of the largest.
"""

from collections.abc import Sequence
import dataclasses

_BY_LAW = ('flops', 'links')
Seconds = dict[str, dict[str, float]]  # phase -> resource -> seconds


@dataclasses.dataclass(frozen=True)
class Point:
  """One size of slice; seconds of an iteration are lower bounds."""

  chips: int
  fsdp: int
  seconds: Seconds
  off: float | None = None  # the law's error in `links`; None: not compiled

  def of(self, resource: str) -> float:
    return sum(phase[resource] for phase in self.seconds.values())

  @property
  def overlapped(self) -> float:
    """Every phase takes as long as what binds it."""
    return sum(max(phase.values()) for phase in self.seconds.values())

  @property
  def in_turn(self) -> float:
    """Links and the chip wait for each other."""
    return sum(
      max(phase['flops'], phase['memory']) + phase['links']
      for phase in self.seconds.values()
    )


def by_law(first: Point, second: Point, fsdp: int) -> Seconds:
  """Seconds at `fsdp`, by the law through two points; not of memory."""

  def at(x: float, y: float) -> float:
    b = (x - y) / (1 / first.fsdp - 1 / second.fsdp)
    return x + b * (1 / fsdp - 1 / first.fsdp)

  return {
    phase: {name: at(of[name], second.seconds[phase][name]) for name in _BY_LAW}
    for phase, of in first.seconds.items()
  }


def points(compiled: Sequence[Point], beyond: Sequence[int]) -> list[Point]:
  """Those compiled, with the error of the law of the first two, and beyond.

  ValueError for fewer than three: the law would not be checked.
  """
  if len(compiled) < 3:
    raise ValueError(f'{len(compiled)} slices are too few to check a law by')
  first, second, *others = compiled
  out = [dataclasses.replace(x, off=0.0) for x in (first, second)]
  for x in others:
    law = Point(x.chips, x.fsdp, by_law(first, second, x.fsdp))
    off = law.of('links') / x.of('links') - 1
    out.append(dataclasses.replace(x, off=off))
  for chips in beyond:
    fsdp = chips * first.fsdp // first.chips
    largest = compiled[-1].seconds
    seconds = {
      phase: of | {'memory': largest[phase]['memory']}
      for phase, of in by_law(first, second, fsdp).items()
    }
    out.append(Point(chips, fsdp, seconds))
  return out
