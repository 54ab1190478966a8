"""Sampling with a KV cache: equal lengths, or real prompts and early ends.

  python -m benchmarks.generate --layers 4 --d-model 256 --heads 8 \\
    --vocab 8192 --batch 16 --prompt-len 32 --new-tokens 32 --threads 1
  python -m benchmarks.make_prompts --data-dir DIR --out prompts.npz
  python -m benchmarks.generate --prompts prompts.npz --layers 4 \\
    --d-model 256 --heads 8 --vocab 8192 --batch 16 --prompt-len 256 \\
    --new-tokens 128 --threads 1

Prints one JSON object; one sample is one reply, and tokens are new tokens.
Without --prompts nothing ends before --new-tokens; --prefill-only reads the
prompts and draws one token. With it a step is --pool prompts of the file (the
last --prompt-len tokens of each), `batch` replies at a time (slots), each of
the length that the file gives, so that another framework can do the same work.
--copy-mib measures the rate at which the device copies so many MiB, and says
how far a decode step is from reading weights and cache once.
"""

import statistics
import time

from benchmarks import common


def main(argv=None) -> dict:
  flags = common.parser(__doc__.splitlines()[0])
  flags.add_argument('--prompt-len', type=common.positive, default=32)
  flags.add_argument('--new-tokens', type=common.positive, default=32)
  flags.add_argument('--temperature', type=float, default=1.0)
  flags.add_argument('--prefill-only', action='store_true')
  flags.add_argument('--copy-mib', type=int, default=0, help='0: not measured')
  flags.add_argument('--prompts', help='.npz of make_prompts')
  flags.add_argument('--pool', type=common.positive, default=64)
  args = flags.parse_args(argv)
  if args.prompts and (args.prefill_only or args.copy_mib):
    raise SystemExit('error: --prompts has no --prefill-only or --copy-mib')
  if args.copy_mib and args.new_tokens == 1:
    raise SystemExit('error: --copy-mib needs --new-tokens 2 or more')
  args.seq_len = args.prompt_len + args.new_tokens
  common.start(args)
  return real(args) if args.prompts else fixed(args)


def make_params(args, network):
  """Parameters on the mesh, and the mesh."""
  import jax

  from hh_jax import sharding

  mesh = sharding.make_mesh()
  key = jax.random.key(args.seed)
  shardings = sharding.tree_shardings(mesh, jax.eval_shape(network.init, key))
  return jax.jit(network.init, out_shardings=shardings)(key), mesh


def make_distribution(kind, args, **fields):
  """`kind` at --temperature; no token of the model's ends a reply."""
  try:
    return kind(temperature=args.temperature, stop=(), **fields)
  except ValueError as error:
    raise SystemExit(f'error: {error}') from None


def surprise(samples) -> float:
  """Nats a drawn token, as the sampler says."""
  return -float((samples.logprobs * samples.reply_mask).sum()) / float(
    samples.reply_lengths.sum()
  )


def fixed(args) -> dict:
  import jax
  import numpy as np

  from hh_jax import sampling, sharding
  from hh_jax.types import Prompts

  network = common.make_model(args)
  params, mesh = make_params(args, network)
  distribution = make_distribution(
    sampling.SamplingDistribution, args, banned=(0,)
  )
  num = args.warmup + args.steps
  tokens = np.random.default_rng([args.seed, 0]).integers(
    4, args.vocab, (num, args.batch, args.prompt_len)
  )

  def batch(i: int):
    return sharding.place(
      mesh,
      Prompts(
        tokens=tokens[i].astype(np.int32),
        lengths=np.full(args.batch, args.prompt_len, np.int32),
        ids=np.arange(args.batch, dtype=np.int32),
      ),
    )

  def compiled(max_reply: int):
    def sample(params, prompts, key):
      return sampling.sample(
        network, params, prompts, key,
        distribution=distribution, max_reply=max_reply, row_ids=prompts.ids,
      )  # fmt: skip

    begin = time.perf_counter()
    out = jax.jit(sample).lower(params, batch(0), jax.random.key(0)).compile()
    return out, time.perf_counter() - begin

  def run(program):
    times, nats = [], []
    for i in range(num):
      prompts, key = batch(i), jax.random.key(i)
      begin = time.perf_counter()
      samples = jax.device_get(program(params, prompts, key))
      times.append(time.perf_counter() - begin)
      nats.append(surprise(samples))
    return times, nats

  new = 1 if args.prefill_only else args.new_tokens
  program, compile_s = compiled(new)
  times, nats = run(program)
  more = {}
  if args.copy_mib:
    prefill = statistics.median(run(compiled(1)[0])[0][args.warmup :])
    seconds = statistics.median(times[args.warmup :]) - prefill
    more = floor(args, params, seconds / (args.new_tokens - 1))
  return common.report(
    'hh_jax_prefill' if args.prefill_only else 'hh_jax_generate',
    args,
    times,
    samples=args.batch,
    tokens=args.batch * (args.prompt_len if args.prefill_only else new),
    num_params=sum(x.size for x in jax.tree.leaves(params)),
    losses=nats,
    compile_s=compile_s,
    temporary_mib=program.memory_analysis().temp_size_in_bytes / 2**20,
    ms_per_decode_step=1e3 * statistics.median(times[args.warmup :]) / new,
    **more,
  )


def floor(args, params, step_s: float) -> dict:
  """A decode step of step_s seconds beside one pass over what it needs.

  Weights in --dtype, and the columns that are written on average: those of the
  prompt and half of the reply's.
  """
  import jax

  width = {'fp32': 4, 'bf16': 2}[args.dtype]
  weights = sum(x.size for x in jax.tree.leaves(params)) * width
  columns = args.prompt_len + args.new_tokens / 2
  cache = 2 * args.layers * args.batch * columns * args.d_model * width
  rate = common.copy_rate(args.copy_mib)
  floor_s = (weights + cache) / rate
  return {
    'decode_step_ms': 1e3 * step_s,
    'copy_gb_per_s': rate / 1e9,
    'floor_ms': 1e3 * floor_s,
    'floor_share': floor_s / step_s,
  }


def real(args) -> dict:
  import jax
  import numpy as np

  from benchmarks import ragged
  from hh_jax import generation, sampling

  data = ragged.read(args)
  network = common.make_model(args)
  params, mesh = make_params(args, network)
  generator = generation.Generator(
    model=network,
    distribution=make_distribution(
      ragged.EndsByChance, args, banned=(0, ragged.EOS), chance=data.chance
    ),
    max_reply=args.new_tokens,
    batch_size=args.pool,
    slots=args.batch,
    widths=sampling.default_widths(args.prompt_len),
    mesh=mesh,
  )
  times, nats = [], []
  for i in range(args.warmup + args.steps):
    pool = data.prompts[i * args.pool : (i + 1) * args.pool]
    begin = time.perf_counter()
    out = list(generator.samples(params, pool, jax.random.key(data.seed)))
    times.append(time.perf_counter() - begin)
    for where, samples in out:
      np.testing.assert_array_equal(samples.reply_lengths, data.lengths[where])
    nats.append(float(np.mean([surprise(x) for _, x in out])))
  tokens = int(data.lengths.sum())
  return common.report(
    'hh_jax_generate_ragged',
    args,
    times,
    samples=args.pool,
    tokens=tokens,
    num_params=sum(x.size for x in jax.tree.leaves(params)),
    losses=nats,
    unit='one sample is one reply',
    replies_per_s_total=args.pool * args.steps / sum(times[args.warmup :]),
    tokens_per_s_total=tokens * args.steps / sum(times[args.warmup :]),
    prompt_tokens=float(np.mean([len(x) for x in data.prompts])),
  )


if __name__ == '__main__':
  main()
