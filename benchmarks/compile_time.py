"""Compile time by depth: layers are a loop, so it should hardly grow.

  python -m benchmarks.compile_time --out results/compile_time_cpu.json

Compiles the recipes' own functions for this machine, a step of `pm` and the
phases of `ppo`, at every depth in turn, and takes the least of the rounds. CPU
seconds stand beside seconds: a busy machine lengthens the latter alone.
"""

import argparse
import json
import pathlib
import platform
import time
from typing import Any

import jax

from benchmarks import common
from configs import pm, ppo
from hh_jax import sharding, sizes
from hh_jax.plan import phases

VOCAB = 512


def make_configs(num_layers: int, d_model: int) -> dict[str, Any]:
  """The two recipes on short rows: how long they are, a loop does not see."""
  size = f'{num_layers} layers of {d_model}'
  sizes.SIZES[size] = (num_layers, d_model, 4)
  of = {'pm': pm.get_config(), 'ppo': ppo.get_config()}
  of['pm'].update(row_length=128, batch_size=4, max_pairs=4)
  of['ppo'].update(max_prompt=64, max_reply=32, batch_size=8, head_chunk=128)
  for config in (of['pm'].model, of['ppo'].model, of['ppo'].pm_model):
    config.size = size
  return of


def compile_all(config: Any) -> dict[str, dict[str, float]]:
  """Of each phase: seconds to trace and lower, to compile, CPU seconds."""
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  seen, out = {}, {}
  for of in phases.make(config, mesh, vocab_size=VOCAB, steps=1):
    arguments = of.arguments(seen)
    begin, cpu = time.perf_counter(), time.process_time()
    lowered = of.jitted.lower(*arguments)
    middle = time.perf_counter()
    compiled = lowered.compile()
    out[of.name] = {
      'lower_s': middle - begin,
      'compile_s': time.perf_counter() - middle,
      'cpu_s': time.process_time() - cpu,
    }
    seen[of.name] = phases.results(lowered, compiled)
  return out


def measure(args: argparse.Namespace) -> dict[str, Any]:
  least: dict[str, dict[str, float]] = {}
  for _ in range(args.rounds):
    for depth in args.layers:
      for recipe, config in make_configs(depth, args.d_model).items():
        for phase, found in compile_all(config).items():
          at = least.setdefault(f'{recipe}/{phase}/{depth}', found)
          at |= {name: min(at[name], value) for name, value in found.items()}
  first, last = min(args.layers), max(args.layers)
  names = dict.fromkeys(name.rpartition('/')[0] for name in least)
  return {
    'benchmark': 'hh_jax_compile_time',
    'args': {k: v for k, v in vars(args).items() if k != 'out'},
    'jax': jax.__version__,
    'python': platform.python_version(),
    'platform': jax.default_backend(),
    'phases': least,
    'growth': {
      name: {
        kind: least[f'{name}/{last}'][kind] / least[f'{name}/{first}'][kind]
        for kind in ('lower_s', 'compile_s', 'cpu_s')
      }
      for name in names
    },
  }


def main(argv=None) -> dict[str, Any]:
  flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  flags.add_argument(
    '--layers', type=common.positive, nargs='+', default=[4, 16, 64]
  )
  flags.add_argument('--d-model', type=common.positive, default=64)
  flags.add_argument('--rounds', type=common.positive, default=3)
  flags.add_argument('--out', help='also write the JSON to this file')
  args = flags.parse_args(argv)
  out = measure(args)
  if args.out:
    text = json.dumps(out, indent=2, sort_keys=True)
    pathlib.Path(args.out).write_text(f'{text}\n', encoding='utf-8')
  print(json.dumps(out))
  return out


if __name__ == '__main__':
  main()
