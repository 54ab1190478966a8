"""A plan: the phases of one config, compiled for one topology."""

from collections.abc import Iterator, Mapping
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections

from hh_jax import distributed, sharding
from hh_jax.errors import InputError
from hh_jax.plan import chips, measure
from hh_jax.plan import phases as phases_lib

Config = ml_collections.ConfigDict
Flags = dict[str, Any]  # dotted config key -> value


@dataclasses.dataclass(frozen=True)
class Asked:
  """What a plan depends on beside config and chips."""

  vocab_size: int
  steps: int | None = None  # of a recipe whose data decide how many there are
  quick: bool = False  # see measure.QUICK


@dataclasses.dataclass(frozen=True)
class Plan:
  """What was compiled, and what it takes."""

  topology: chips.Topology
  recipe: str
  vocab_size: int
  mesh: dict[str, int]
  num_params: int
  phases: list[measure.Measured]
  is_estimate: bool = False  # compiled for CPUs in place of GPUs
  refused: str = ''  # why the recipe would not start
  advice: tuple[str, ...] = ()
  fix: Flags | None = None  # what to change so that it fits
  fixed: 'Plan | None' = None
  tried: tuple[Flags, ...] = ()  # and did not fit

  @property
  def fits(self) -> bool:
    return not self.refused and all(of.fits for of in self.phases)

  @property
  def fullest(self) -> measure.Measured | None:
    """The phase with the highest peak, or one whose peak is not known."""
    unknown = float('inf')
    return max(
      self.phases,
      key=lambda of: unknown if of.peak is None else of.peak,
      default=None,
    )

  @property
  def seconds(self) -> dict[str, float]:
    """Of an iteration, a call of each phase: lower bounds, by resource."""
    if any(not of.seconds for of in self.phases):
      return {}
    return {
      name: sum(of.seconds[name] for of in self.phases)
      for name in (measure.RESOURCES if self.phases else ())
    }

  @property
  def time(self) -> float | None:
    """Seconds of an iteration, each phase at its bound."""
    return sum(of.time for of in self.phases) if self.seconds else None

  @property
  def bound(self) -> str | None:
    """The resource that binds for the largest part of an iteration."""
    if not self.time:
      return None
    parts = dict.fromkeys(measure.RESOURCES, 0.0)
    for of in self.phases:
      parts[of.bound] += of.time
    return max(parts, key=parts.get)

  @property
  def mfu_bound(self) -> float | None:
    """As of a phase, of an iteration."""
    if not self.time:
      return None
    return (
      sum((of.mfu_bound or 0.0) * of.time for of in self.phases) / self.time
    )

  @property
  def hours(self) -> float | None:
    """Of all calls at their bounds; None where something is not known."""
    if not self.time or any(not of.calls for of in self.phases):
      return None
    return sum(of.time * of.calls for of in self.phases) / 3600

  @property
  def chip_hours(self) -> float | None:
    return self.hours and self.hours * self.topology.num_chips


def compiled(
  config: Config,
  topology: chips.Topology,
  asked: Asked,
  *,
  whole: bool = True,
) -> Plan:
  """One config; unless `whole`, no further than to what does not fit."""
  recipe = phases_lib.recipe_of(config)
  config = changed(config, _attention(config, topology))
  devices = topology.devices()
  try:
    mesh = sharding.make_mesh(**config.mesh.to_dict(), devices=devices)
  except ValueError as e:
    raise InputError(f'config.mesh: {e}') from e
  phases = phases_lib.make(
    config, mesh, vocab_size=asked.vocab_size, steps=asked.steps
  )
  seen, done = {}, []
  for i, of in enumerate(phases, 1):
    distributed.say(f'compiling {of.name}, {i} of {len(phases)}')
    done.append(measure.phase(of, topology, seen, quick=asked.quick))
    if not whole and not done[-1].fits:
      break
  return Plan(
    topology=topology,
    recipe=recipe,
    vocab_size=asked.vocab_size,
    mesh=dict(mesh.shape),
    num_params=phases_lib.num_params(config, asked.vocab_size),
    phases=done,
    is_estimate=topology.kind == 'gpu' and jax.default_backend() == 'cpu',
    advice=tuple(_advice(config, done, mesh)),
  )


def refused(
  config: Config, topology: chips.Topology, asked: Asked, why: str
) -> Plan:
  """Of a config that the recipe itself would not start with."""
  recipe = phases_lib.recipe_of(config)
  size = phases_lib.num_params(config, asked.vocab_size)
  return Plan(topology, recipe, asked.vocab_size, {}, size, [], refused=why)


def _advice(
  config: Config, measured: list[measure.Measured], mesh: Mesh
) -> Iterator[str]:
  """What the numbers say should be set otherwise."""
  for of in measured:
    if of.name != 'sample' or of.bound != 'links':
      continue
    if config.slots and mesh.size > sharding.ways(mesh):
      yield (
        'sample moves rows from chip to chip where slots take new prompts and '
        'mesh.model or mesh.sequence split them: --config.slots=0 draws all at '
        'once, where they fit'
      )
    elif mesh.shape['fsdp'] > 1 and config.decode_params == 'split':
      yield (
        'sample gathers all parameters in every step: '
        '--config.decode_params=gathered does it once an iteration, where they '
        'fit'
      )


def changed(config: Config, flags: Mapping[str, Any]) -> Config:
  """A copy with other values."""
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(dict(flags))
  return config.lock()


def models(config: Config) -> list[str]:
  """The sections of the config that are networks."""
  return [name for name in ('model', 'pm_model') if name in config]


def _attention(config: Config, topology: chips.Topology) -> Flags:
  """What serves for GPUs that CPUs stand in for: no kernel of either."""
  if topology.kind != 'gpu' or jax.default_backend() != 'cpu':
    return {}
  return {
    f'{name}.attention': 'xla'
    for name in models(config)
    if config[name].attention in ('auto', 'cudnn')
  }
