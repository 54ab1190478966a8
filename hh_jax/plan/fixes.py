"""A plan of a config, and of the configs that would fit in its place."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import sys

from hh_jax.errors import InputError
from hh_jax.plan import chips, plans
from hh_jax.plan.plans import Asked, Config, Flags, Plan

# Phases that compute gradients; the others have no activations to save.
_TRAINS = ('train', 'update', 'learn')
Attempt = Callable[[Flags], Plan | None]


@dataclasses.dataclass(frozen=True)
class Option:
  """One way to save memory: its values, from what costs least time."""

  values: tuple[Flags, ...]
  helps: tuple[str, ...] = ()  # the phases that it makes smaller; (): all


def plan(
  config: Config, topology: chips.Topology, asked: Asked, *, fix: bool
) -> Plan:
  """The plan; with `fix`, where it does not fit, also the first that does."""
  topology.devices()  # what is wrong with it no change of the config mends
  try:
    first = plans.compiled(config, topology, asked)
  except InputError as e:
    if not fix:
      raise
    first = plans.refused(config, topology, asked, str(e))
  if first.fits or not fix:
    return first
  tried: list[Flags] = []

  def attempt(flags: Flags) -> Plan | None:
    """None where the recipe would refuse, as what does not divide."""
    print(f'plan: trying {flags}', file=sys.stderr, flush=True)
    try:
      other = plans.compiled(
        plans.changed(config, flags), topology, asked, whole=False
      )
    except InputError:
      return None
    if not other.fits:
      tried.append(flags)
    return other

  for flags, other in _search(config, topology, first, attempt):
    if other.fits:
      return dataclasses.replace(
        first, fix=flags, fixed=other, tried=tuple(tried)
      )
  return dataclasses.replace(first, tried=tuple(tried))


def _search(
  config: Config, topology: chips.Topology, first: Plan, attempt: Attempt
) -> Iterator[tuple[Flags, Plan]]:
  """Plans of changed configs, until the caller has one that fits.

  Options by themselves, from what costs least; of one with several values the
  strongest first, since where that does not fit no other does. Then those that
  got further together, one after the other.
  """
  base: Flags = {}
  if first.refused:  # by the mesh, mostly: what divides is the start
    for flags in _degrees(config, topology).values:
      if other := attempt(flags):
        yield flags, other
        base, first = flags, other
        break
  useful = []
  for option in options(config, topology):
    if option.helps and not {x.name for x in _broken(first)} & {*option.helps}:
      continue
    *weaker, last = option.values
    while (strongest := attempt(base | last)) is None and weaker:
      last = weaker.pop()  # refused: it does not divide, and another one may
    if strongest is None:
      continue
    if strongest.fits:
      yield from _attempts(attempt, base, weaker)
      yield base | last, strongest
    if _reach(strongest) > _reach(first):
      useful.append((*weaker, last))
  for i, values in enumerate(useful):
    if i:
      yield from _attempts(attempt, base, values)
    base = base | values[-1]


def _attempts(
  attempt: Attempt, base: Flags, values: Sequence[Flags]
) -> Iterator[tuple[Flags, Plan]]:
  for flags in values:
    if other := attempt(base | flags):
      yield base | flags, other


def _broken(of: Plan) -> list:
  return [x for x in of.phases if not x.fits]


def _reach(of: Plan) -> tuple[int, float]:
  """To compare plans: phases up to one that does not fit, then its peak."""
  for i, phase in enumerate(of.phases):
    if not phase.fits:
      return i, -float('inf') if phase.peak is None else -phase.peak
  return len(of.phases), 0.0


def options(config: Config, topology: chips.Topology) -> list[Option]:
  """Those that the config has and does not use, from what costs least time.

  bfloat16 products and moments cost none; a smaller chunk of the head is more
  steps of a loop; micro-batches gather parameters again; recomputation is a
  third more FLOPs; parameters that decode as they are trained are gathered in
  every step; slots wait for a quarter of them to end; and a split of heads and
  MLP is paid by every product.
  """
  models = plans.models(config)
  offered = [
    Option(({f'{of}.dtype': 'bfloat16' for of in models
             if config[of].dtype != 'bfloat16'},)),
    Option(({'optimizer.moments_dtype': 'bfloat16'}
            if config.optimizer.moments_dtype != 'bfloat16' else {},)),
    Option(_lower(config, 'head_chunk', (1024, 256)), ('score', *_TRAINS)),
    Option(
      tuple(
        {'num_micro_batches': num}
        for num in (2, 4, 8, 16)
        if num > config.num_micro_batches
      ),
      _TRAINS,
    ),
    Option(({f'{of}.remat': 'full' for of in models
             if config[of].remat != 'full'},), _TRAINS),
    Option(({'decode_params': 'split'}
            if config.get('decode_params') == 'gathered' else {},),
           ('reshard', 'sample')),
    Option(_lower(config, 'slots', _slots(config)), ('sample',)),
    Option(({'mesh.model': 1, 'mesh.fsdp': -1}
            if config.mesh.model > 1 else {},)),
    _degrees(config, topology),
  ]  # fmt: skip
  return [option for option in offered if any(option.values)]


def _lower(
  config: Config, name: str, values: tuple[int, ...]
) -> tuple[Flags, ...]:
  """Values of a field below the present one; 0 means no limit."""
  if name not in config:
    return ()
  now = config[name] or float('inf')
  return tuple({name: value} for value in values if 0 < value < now)


def _slots(config: Config) -> tuple[int, ...]:
  """Replies at a time: a half, a quarter and an eighth of all."""
  return tuple(config.batch_size // n for n in (2, 4, 8))


def _degrees(config: Config, topology: chips.Topology) -> Option:
  """Heads and MLP over twice as many chips and more; fsdp takes the rest."""
  largest = min(16, topology.num_chips)
  degrees = (config.mesh.model * 2**n for n in range(1, 5))
  return Option(
    tuple({'mesh.model': n, 'mesh.fsdp': -1} for n in degrees if n <= largest)
  )
