"""What a run needs of chips that are not here: bytes, FLOPs, hours, a fit.

  python -m hh_jax plan --config=configs/ppo.py:52B --topology=v5p:4x8x8

compiles the jitted functions of the recipe for that topology; no chip is
needed. JAX is imported once it is known how many devices it has to have. With
--sweep the config lists plans, and each has a process of its own: sweep.py.
"""

import importlib.util
import json
import os
from typing import Any

import ml_collections

from hh_jax import host
from hh_jax.errors import InputError

VOCAB = 2**16  # where --vocab names none: configs/tokenizer.py:64k


def run(config: ml_collections.ConfigDict, options: dict[str, Any]) -> int:
  """Prints the plan; 0 where it fits, 1 where it does not.

  `options` are those of the command line that recipes.OWN_OPTIONS has, as far
  as they were given.
  """
  if '--sweep' in options:
    from hh_jax.plan import sweep

    return sweep.run(config, options)
  _only_with_sweep(options)
  from hh_jax.plan import chips

  if '--topology' not in options:
    raise InputError(f'--topology is missing: it is one of {chips.KNOWN}')
  topology = chips.parse(options['--topology'])
  vocab = options.get('--vocab', VOCAB)
  for name in ('--vocab', '--steps'):
    if options.get(name, 1) < 1:
      raise InputError(f'{name} {options[name]} is not 1 or more')
  _start_jax(topology)
  from hh_jax.plan import fixes, plans, table

  plan = fixes.plan(
    config,
    topology,
    plans.Asked(vocab, options.get('--steps'), options.get('--quick', False)),
    fix=options.get('--fix', False),
  )
  if options.get('--json'):
    print(json.dumps(table.as_json(plan)))
  else:
    print(table.render(plan))
  return 0 if plan.fits else 1


def _only_with_sweep(options: dict[str, Any]) -> None:
  for name in ('--kept', '--fresh', '--write'):
    if name in options:
      raise InputError(f'{name} goes with --sweep')


def _start_jax(topology: Any) -> None:
  """JAX with as many CPU devices as there are chips.

  They stand in for the chips where a recipe asks how many devices there are.
  With as many GPUs as are planned for, these.
  """
  if topology.kind == 'tpu' and importlib.util.find_spec('libtpu') is None:
    raise InputError(
      f"--topology {topology.name} needs the TPU's compiler: pip install "
      "'hh_jax[plan]'"
    )
  if topology.kind != 'gpu' or host.num_gpus() != topology.num_chips:
    os.environ['JAX_PLATFORMS'] = 'cpu'
  import jax

  if jax.config.jax_num_cpu_devices != topology.num_chips:
    try:
      jax.config.update('jax_num_cpu_devices', topology.num_chips)
    except RuntimeError:  # it has started already: the count below says it
      pass
  if jax.device_count() != topology.num_chips:
    raise InputError(
      f'--topology {topology.name} is of {topology.num_chips} chips, and this '
      f'process has {jax.device_count()} devices'
    )
