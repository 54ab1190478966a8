"""A plan of a config, and of the configs that would fit in its place."""

from collections.abc import Iterator
import dataclasses
import sys
from typing import Any

import jax
import ml_collections

from hh_jax import sharding
from hh_jax.errors import InputError
from hh_jax.plan import chips, measure
from hh_jax.plan import phases as phases_lib

Config = ml_collections.ConfigDict
Flags = dict[str, Any]  # dotted config key -> value


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


def plan(
  config: Config,
  topology: chips.Topology,
  *,
  vocab_size: int,
  fix: bool,
  steps: int | None = None,
) -> Plan:
  """The plan; with `fix`, where it does not fit, also the first that does."""
  try:
    first = compiled(config, topology, vocab_size=vocab_size, steps=steps)
  except InputError as e:
    if not fix:
      raise
    recipe = phases_lib.recipe_of(config)
    size = phases_lib.num_params(config, vocab_size)
    first = Plan(topology, recipe, vocab_size, {}, size, [], refused=str(e))
  if first.fits or not fix:
    return first
  tried = []
  for flags in ladder(config, topology):
    print(f'plan: trying {flags}', file=sys.stderr, flush=True)
    try:
      other = compiled(
        changed(config, flags),
        topology,
        vocab_size=vocab_size,
        steps=steps,
        whole=False,
      )
    except InputError:  # a mesh or a batch that does not divide
      continue
    if other.fits:
      return dataclasses.replace(
        first, fix=flags, fixed=other, tried=tuple(tried)
      )
    tried.append(flags)
  return dataclasses.replace(first, tried=tuple(tried))


def compiled(
  config: Config,
  topology: chips.Topology,
  *,
  vocab_size: int,
  steps: int | None = None,
  whole: bool = True,
) -> Plan:
  """One config; unless `whole`, no further than to what does not fit.

  `steps` are those of a recipe whose data decide how many there are.
  """
  recipe = phases_lib.recipe_of(config)
  config = changed(config, _attention(config, topology))
  try:
    mesh = sharding.make_mesh(
      **config.mesh.to_dict(), devices=topology.devices()
    )
  except ValueError as e:
    raise InputError(f'config.mesh: {e}') from e
  phases = phases_lib.make(config, mesh, vocab_size=vocab_size, steps=steps)
  seen, done = {}, []
  for of in phases:
    done.append(measure.phase(of, topology, seen))
    if not whole and not done[-1].fits:
      break
  return Plan(
    topology=topology,
    recipe=recipe,
    vocab_size=vocab_size,
    mesh=dict(mesh.shape),
    num_params=phases_lib.num_params(config, vocab_size),
    phases=done,
    is_estimate=topology.kind == 'gpu' and jax.default_backend() == 'cpu',
    advice=tuple(_advice(config, done, mesh.shape['fsdp'])),
  )


def _advice(
  config: Config, measured: list[measure.Measured], fsdp: int
) -> Iterator[str]:
  """What the numbers say should be set otherwise."""
  for of in measured:
    splits = of.name == 'sample' and config.decode_params == 'split'
    if splits and fsdp > 1 and of.bound == 'links':
      yield (
        'sample gathers all parameters in every step: '
        '--config.decode_params=gathered does it once an iteration, where they '
        'fit'
      )


def changed(config: Config, flags: Flags) -> Config:
  """A copy with other values."""
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(flags)
  return config.lock()


def _models(config: Config) -> list[str]:
  return [name for name in ('model', 'pm_model') if name in config]


def _attention(config: Config, topology: chips.Topology) -> Flags:
  """What 'auto' is on the chips, which are not those of this process."""
  if topology.kind == 'cpu':
    return {}
  return {
    f'{name}.attention': 'xla'
    for name in _models(config)
    if config[name].attention == 'auto'
  }


def ladder(config: Config, topology: chips.Topology) -> Iterator[Flags]:
  """Changes that save memory, each on top of those before it.

  From what costs least: bfloat16 products, recomputation, micro-batches; then
  all of it with heads and MLP split over more chips, which every product pays.
  """
  savings = [
    {
      f'{model}.{name}': worth
      for model in _models(config)
      if config[model][name] != worth
    }
    for name, worth in (('dtype', 'bfloat16'), ('remat', 'full'))
  ]
  micro = [
    {'num_micro_batches': num}
    for num in (2, 4, 8, 16)
    if 'num_micro_batches' in config and num > config.num_micro_batches
  ]
  both = savings[0] | savings[1]
  yield from (flags for flags in (savings[0], both) if flags)
  yield from (both | flags for flags in micro)
  degree = 2 * config.mesh.model
  while degree <= min(16, topology.num_chips):
    mesh = {'mesh.model': degree, 'mesh.fsdp': -1}
    yield from (mesh | both | flags for flags in ({}, *micro))
    degree *= 2
