"""What `plan` says of a recipe's device calls, and what they take.

  python -m benchmarks.planned --config configs/pm.py:810M --topology gpu:h200

Compiles the phases as `plan` does, then calls each on arrays that are all there
at once (what it takes, and what stays beside it), and prints one JSON object:
bytes of a device as planned and at the peak (goal: within 10 %), and the bound
on seconds beside the seconds, which it must not exceed. A backend that counts
no bytes (a CPU) gives null. A recipe needs a process of its own: a device's
peak is that since the process began.
"""

import argparse
import statistics
import time
from typing import Any

from benchmarks import common


def main(argv=None) -> dict[str, Any]:
  flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  flags.add_argument('--config', required=True, help='PATH:SIZE')
  flags.add_argument('--topology', required=True, help='what is here')
  flags.add_argument('--set', action='append', default=[], metavar='KEY=VALUE')
  flags.add_argument('--vocab', type=common.positive, default=2**16)
  flags.add_argument('--repeats', type=common.positive, default=5)
  flags.add_argument('--out', help='also write the JSON to this file')
  args = flags.parse_args(argv)
  from hh_jax.errors import InputError

  try:
    found = measure(args)
  except InputError as error:
    raise SystemExit(f'error: {error}') from None
  common.show(found, args.out)
  return found


def measure(args) -> dict[str, Any]:
  """Plans the phases, and calls them one after the other."""
  import jax

  from hh_jax import cli
  from hh_jax.plan import chips, measure, phases
  from hh_jax.recipes import common as recipes_common

  topology = chips.parse(args.topology)
  pairs = [text.partition('=')[::2] for text in args.set]
  config = cli.load_config(args.config, pairs)
  mesh = recipes_common.make_mesh(config.mesh)
  if mesh.size != topology.num_chips:
    raise SystemExit(
      f'error: --topology {args.topology} is not the {mesh.size} devices here'
    )
  seen, rows = {}, {}
  for phase in phases.make(config, mesh, vocab_size=args.vocab, steps=1):
    planned = measure.phase(phase, topology, seen)
    rows[phase.name] = {
      'planned_peak': planned.peak,
      'bound_s': planned.time,
      'bound_by': planned.bound,
    }
    if planned.fits:
      arguments = phase.arguments(seen)
      rows[phase.name] |= _called(phase, arguments, args.repeats)
  memory = jax.devices()[0].memory_stats() or {}
  peak = memory.get('peak_bytes_in_use')
  most = max(row['planned_peak'] or 0 for row in rows.values())
  return {
    'bench': 'planned',
    'config': args.config,
    'set': args.set,
    'planned_peak': most,
    'peak': peak,
    'peak_over_planned': peak and peak / most,
    'phases': rows,
    'device': str(jax.devices()[0].device_kind),
    'versions': {'jax': jax.__version__},
  }


def _called(phase, arguments, repeats: int) -> dict[str, float]:
  """Median seconds of a call, with what stays beside it on the device."""
  import jax

  beside = _made(phase.resident)
  times = []
  for _ in range(1 + repeats):
    given = jax.block_until_ready(_made(arguments))  # a call may donate them
    begin = time.perf_counter()
    out = jax.block_until_ready(phase.jitted(*given))
    times.append(time.perf_counter() - begin)
    del given, out
  del beside
  return {'seconds': statistics.median(times[1:]), 'first_s': times[0]}


def _made(shapes: Any) -> Any:
  """Arrays of these shapes in their places; 1, but 0 for weights of layers."""
  import jax
  import jax.numpy as jnp

  def of(shape):
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
      return jax.device_put(jax.random.key(0), shape.sharding)
    fill = jnp.ones if 0 < shape.ndim <= 2 else jnp.zeros
    return fill(shape.shape, shape.dtype, device=shape.sharding)

  return jax.tree.map(of, shapes)


if __name__ == '__main__':
  main()
