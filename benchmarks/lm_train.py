"""Language-model training: forward, backward, AdamW, clipping by global norm.

  python -m benchmarks.lm_train --layers 4 --d-model 256 --heads 8

Prints one JSON object: samples (sequences) and tokens a second from the median
and from the fastest step, the time of the first step (compilation) apart, the
model FLOPs a second and, with --matmul N, their share of what this device
reaches on products of N x N matrices. `--threads 1` pins it to one core.
"""

import statistics

from benchmarks import common


def main(argv=None) -> dict:
  flags = common.parser(__doc__.splitlines()[0])
  flags.add_argument('--matmul', type=int, default=0)
  args = flags.parse_args(argv)
  common.start(args)
  return measure(args)


def forward_flops(args, network) -> float:
  """Of a token at mean context T / 2, the vocabulary head included."""
  c = network.config
  matmuls = 2 * (c.num_matmul_params + args.vocab * args.d_model)
  return matmuls + 2 * args.seq_len * args.d_model * args.layers


def measure(args) -> dict:
  import jax
  import numpy as np

  from hh_jax.losses import language_model
  from hh_jax.types import TokenBatch

  network = common.make_model(args)
  state, step = common.make_step(
    args, network, language_model.language_model_loss(network)
  )
  shape = (args.batch, args.seq_len)
  rng = np.random.default_rng([args.seed, 0])
  ones = np.ones(shape, np.int32)
  positions = np.broadcast_to(np.arange(args.seq_len, dtype=np.int32), shape)
  times, losses = [], []
  for _ in range(args.warmup + args.steps):
    tokens = rng.integers(4, args.vocab, shape).astype(np.int32)
    rows = TokenBatch(tokens, positions, ones, ones.astype(np.float32))
    state, metrics, seconds = step(state, rows)
    losses.append(metrics['loss'])
    times.append(seconds)
  tokens = args.batch * args.seq_len
  flops = 3 * forward_flops(args, network) * tokens
  rate = flops / statistics.median(times[args.warmup :])
  more = {'model_tflops_per_s': rate / 1e12}
  if args.matmul:
    peak = common.matmul_rate(args.dtype, size=args.matmul)
    more |= {'matmul_tflops_per_s': peak / 1e12, 'mfu': rate / peak}
  return common.report(
    'hh_jax_lm_train',
    args,
    times,
    samples=args.batch,
    tokens=tokens,
    num_params=sum(x.size for x in jax.tree.leaves(state.params)),
    losses=losses,
    **more,
  )


if __name__ == '__main__':
  main()
