"""What the benchmarks share: flags, the model they name, one JSON schema."""

import argparse
from collections.abc import Sequence
import json
import math
import os
import resource
import statistics
import time
from typing import Any

INTEGERS = {
  'layers': 2, 'd-model': 64, 'heads': 4, 'vocab': 512,
  'seq-len': 64, 'batch': 8, 'warmup': 2, 'steps': 5, 'threads': 0, 'seed': 0,
}  # fmt: skip


def parser(description: str) -> argparse.ArgumentParser:
  """The flags that all benchmarks have; d-ff is what `arch` has."""
  out = argparse.ArgumentParser(description=description)
  for name, default in INTEGERS.items():
    kind = positive if default else int
    out.add_argument(f'--{name}', type=kind, default=default)
  out.add_argument('--d-ff', type=positive)
  out.add_argument('--kv-heads', type=positive, help='as many as heads')
  out.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')
  out.add_argument('--arch', choices=('llama', 'gpt2'), default='llama')
  out.add_argument('--dtype', choices=('fp32', 'bf16'), default='fp32')
  out.add_argument('--remat', default='none')
  out.add_argument('--lr', type=float, default=1e-4)
  out.add_argument('--out', help='also write the JSON to this file')
  return out


def positive(text: str) -> int:
  """An integer of 1 or more, for argparse."""
  if (value := int(text)) < 1:
    raise argparse.ArgumentTypeError(f'{value} is not 1 or more')
  return value


def start(args: argparse.Namespace) -> None:
  """Device and threads: --threads cores, before jax makes its thread pools."""
  if args.kv_heads not in (None, args.heads):
    raise SystemExit(f'--kv-heads {args.kv_heads}: keys have all the heads')
  if args.device != 'auto':
    os.environ['JAX_PLATFORMS'] = args.device
  if args.threads:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.threads :])
  from hh_jax import host

  host.keep_freed_memory()


def make_model(args: argparse.Namespace):
  """The transformer of the flags; d_ff as llama and gpt2 have it."""
  from hh_jax import model

  is_llama = args.arch == 'llama'
  d_ff = (
    -(-(8 * args.d_model // 3) // 16) * 16 if is_llama else 4 * args.d_model
  )
  try:
    config = model.ModelConfig(
      num_layers=args.layers,
      d_model=args.d_model,
      num_heads=args.heads,
      d_mlp=args.d_ff or d_ff,
      vocab_size=args.vocab,
      mlp='swiglu' if is_llama else 'gelu',
      dtype={'fp32': 'float32', 'bf16': 'bfloat16'}[args.dtype],
      remat=args.remat,
      scan_unroll=args.layers,
    )
  except ValueError as error:
    raise SystemExit(f'error: {error}') from None
  return model.Transformer(config)


def make_step(args: argparse.Namespace, network, loss_fn):
  """A sharded TrainState, and one train step on a placed batch."""
  import jax
  import optax

  from hh_jax import sharding, train

  tx = train.make_optimizer(
    optax.constant_schedule(args.lr),
    weight_decay=0.0, clip_norm=1.0, b1=0.9, b2=0.95, eps=1e-8,
  )  # fmt: skip
  key = jax.random.key(args.seed)
  mesh = sharding.make_mesh()
  state, shardings = train.init_state(network.init, tx, key, mesh)
  step = train.make_train_step(loss_fn, tx, shardings)

  def timed(state, rows):
    begin = time.perf_counter()
    state, metrics = step(state, sharding.place(mesh, rows))
    metrics = {name: float(value) for name, value in metrics.items()}
    return state, metrics, time.perf_counter() - begin

  return state, timed


def matmul_rate(dtype: str, *, size: int) -> float:
  """The card's own rate for products of size x size matrices, FLOP/s."""
  import jax
  import jax.numpy as jnp

  kind = {'fp32': jnp.float32, 'bf16': jnp.bfloat16}[dtype]
  x = jax.random.normal(jax.random.key(0), (size, size), kind)
  chain = jax.jit(lambda x: jax.lax.fori_loop(0, 8, lambda _, y: y @ x, x))
  chain(x).block_until_ready()
  times = []
  for _ in range(5):
    begin = time.perf_counter()
    chain(x).block_until_ready()
    times.append(time.perf_counter() - begin)
  return 8 * 2 * size**3 / min(times)


def copy_rate(mib: int) -> float:
  """The device's own rate for copying `mib` MiB, bytes read and written/s."""
  import jax
  import jax.numpy as jnp

  x = jnp.zeros((mib, 2**18), jnp.float32)
  # a changed copy: the same values would be no copy at all
  copy = jax.jit(lambda x: x + 1)
  copy(x).block_until_ready()
  times = []
  for _ in range(10):
    begin = time.perf_counter()
    copy(x).block_until_ready()
    times.append(time.perf_counter() - begin)
  return 2 * x.nbytes / min(times)


def report(
  name: str,
  args: argparse.Namespace,
  times: Sequence[float],
  *,
  samples: float,
  tokens: float,
  num_params: int,
  losses: Sequence[float],
  **more: Any,
) -> dict[str, Any]:
  """Prints the result as one line of JSON and returns it.

  `times` are seconds a step, the warm-up included, and `losses` nats a step;
  `samples` and `tokens` are of one step. Rates are of the median and of the
  fastest step. SystemExit where the last loss is not finite.
  """
  import jax

  if not math.isfinite(losses[-1]):
    raise SystemExit(
      f'error: the loss is {losses[-1]} after {len(losses)} steps'
    )
  timed = times[args.warmup :]
  median, best = statistics.median(timed), min(timed)
  usage = resource.getrusage(resource.RUSAGE_SELF)
  out = {
    'bench': name,
    'samples_per_s': samples / median,
    'tokens_per_s': tokens / median,
    'samples_per_s_best': samples / best,
    'tokens_per_s_best': tokens / best,
    'step_s_median': median,
    'step_s_min': best,
    'step_s_max': max(timed),
    'first_step_s': times[0],
    'warmup_total_s': sum(times[: args.warmup]),
    'wall_s_timed': sum(timed),
    'steps': len(timed),
    'samples_per_step': samples,
    'tokens_per_step': tokens,
    'params': num_params,
    'loadavg': os.getloadavg()[0],
    'cpu_s': usage.ru_utime + usage.ru_stime,
    'peak_rss_mb': usage.ru_maxrss / 1024,
    'device': str(jax.devices()[0].device_kind),
    'versions': {'jax': jax.__version__},
    'loss_first': losses[0],
    'loss_last': losses[-1],
    'args': {k: v for k, v in vars(args).items() if k != 'out'},
    **more,
  }
  show(out, args.out)
  return out


def show(result: dict[str, Any], path: str | None) -> None:
  """Prints it as a line of JSON, which `path` is then made of too."""
  line = json.dumps(result)
  print(line)
  if path:
    with open(path, 'w') as file:
      file.write(line + '\n')
