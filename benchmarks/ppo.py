"""PPO iterations: sample, score, GAE, epochs of minibatches of updates.

  python -m benchmarks.ppo --layers 4 --d-model 256 --heads 8 --vocab 8192 \\
    --batch 16 --prompt-len 32 --response-len 32 --ppo-epochs 4 --threads 1

Prints one JSON object; one sample is one rollout, tokens are reply tokens. The
phases are those of the `ppo` recipe, separate policy and value network
included; a step is one of its iterations without the recipe's host work (log,
evaluation, checkpoint). No reply ends early. The compilation of the phases is
in `compile_s` and in the first step. --matmul N adds what the products of a
step would take at this device's rate for N x N matrices.
"""

import functools
import statistics
import time

from benchmarks import common

# With one minibatch an epoch the first update shares the scoring pass, and both
# are one phase: `learn` counts as the update, and score_s is 0.
PHASES = {
  'sample': 'generate', 'score': 'score', 'update': 'update', 'learn': 'update',
}  # fmt: skip


def main(argv=None) -> dict:
  flags = common.parser(__doc__.splitlines()[0])
  flags.add_argument('--prompt-len', type=common.positive, default=32)
  flags.add_argument('--response-len', type=common.positive, default=32)
  flags.add_argument('--ppo-epochs', type=common.positive, default=4)
  flags.add_argument('--minibatches', type=common.positive, default=1)
  flags.add_argument('--temperature', type=float, default=1.0)
  flags.add_argument('--kl-coef', type=float, default=0.05)
  flags.add_argument('--clip', type=float, default=0.0, help='0: no clipping')
  flags.add_argument('--matmul', type=int, default=0, help='0: not measured')
  args = flags.parse_args(argv)
  args.seq_len = args.prompt_len + args.response_len
  common.start(args)
  return measure(args)


def make_config(args):
  """The recipe's own config with the numbers of the flags."""
  from configs import ppo as defaults

  config = defaults.get_config()
  config.batch_size = config.eval_batch_size = args.batch
  config.num_epochs = args.ppo_epochs
  config.num_minibatches = args.minibatches
  config.kl_coef = args.kl_coef
  config.no_stop = 'keep'
  config.value_coef, config.value_clip = 0.1, 0.2
  return config


def make_nets(args, config):
  """One network for all four, as every reply has --response-len tokens."""
  from benchmarks import generate
  from hh_jax import sampling
  from hh_jax.rl import ensemble, rollout

  network = common.make_model(args)
  return rollout.Networks(
    policy=network,
    value=network,
    values='separate',
    pm=network,
    combine=functools.partial(ensemble.combine, how='mean', k=0.0),
    distribution=generate.make_distribution(
      sampling.SamplingDistribution, args, banned=(0,)
    ),
    max_reply=args.response_len,
    end_id=2,
    chunk=config.head_chunk,
  )


def make_params(args, network, mesh):
  """Policy, value and preference model; the last two have a head to read."""
  import jax

  from hh_jax import sharding

  def init(key):
    k_policy, k_value, k_pm, k_head = jax.random.split(key, 4)
    out = {
      'policy': network.init(k_policy),
      'value': network.init(k_value),
      'pm': network.init(k_pm),
    }
    heads = 0.02 * jax.random.normal(k_head, (2, args.d_model))
    out['value']['scalar_head'], out['pm']['scalar_head'] = heads
    return out

  key = jax.random.key(args.seed)
  shardings = sharding.tree_shardings(mesh, jax.eval_shape(init, key))
  return jax.jit(init, out_shardings=shardings)(key)


def make_prompts(args):
  """Endless batches of random ids, as torch's benchmark has them."""
  import numpy as np

  from hh_jax.types import Prompts

  rng = np.random.default_rng([args.seed, 0])
  shape = (args.batch, args.prompt_len)
  while True:
    yield Prompts(
      tokens=rng.integers(4, args.vocab, shape).astype(np.int32),
      lengths=np.full(args.batch, args.prompt_len, np.int32),
      ids=np.arange(args.batch, dtype=np.int32),
    )


def make_loop(args, config):
  """The recipe's loop at its start, and the network."""
  import jax
  import optax

  from hh_jax import sharding, train
  from hh_jax.errors import InputError
  from hh_jax.recipes import policy_training, ppo
  from hh_jax.rl import controls

  mesh = sharding.make_mesh()
  try:
    ppo.check_batches(config, mesh)
  except InputError as error:
    raise SystemExit(f'error: {error}') from None
  nets = make_nets(args, config)
  params = make_params(args, nets.policy, mesh)
  frozen = {'reference': params['policy'], 'pm_score': params.pop('pm')}
  tx = train.make_optimizer(
    optax.constant_schedule(args.lr),
    weight_decay=0.0, clip_norm=args.clip or float('inf'), b1=0.9, b2=0.999,
    eps=1e-8,
  )  # fmt: skip
  key = jax.random.key(args.seed)
  state, shardings = train.state_from(params, tx, key, mesh)
  return policy_training.Loop(
    config=config,
    mesh=mesh,
    frozen=frozen,
    phases=policy_training.make_phases(config, nets, tx, shardings),
    decode=lambda ids: '',  # no other turn begins in a reply
    prompts=make_prompts(args),
    text=None,
    state=state,
    controls=controls.Controls(args.kl_coef, 0.0, 1.0, 0),
  ), nets.policy


def step_flops(args, network) -> dict[str, float]:
  """FLOPs of the products of each phase, attention at mean contexts included.

  The update is three forward passes of policy and value; the head is paid for
  where a reply token is predicted.
  """
  body = 2 * network.config.num_matmul_params
  prompt, reply, both = args.prompt_len, args.response_len, args.seq_len
  head = 2 * args.vocab * args.d_model * reply

  def forward(tokens: int, context: float) -> float:
    return tokens * (body + 4 * context * args.d_model * args.layers)

  whole = forward(both, both / 2)
  update = 3 * args.ppo_epochs * (2 * whole + head)
  score = 4 * whole + 2 * head
  if args.minibatches == 1:  # one pass for both
    update, score = update + score - 2 * whole - head, 0.0
  # the last token drawn is read by no one
  sample = forward(prompt, prompt / 2) + forward(reply - 1, prompt + reply / 2)
  flops = {
    'generate': sample + head,
    'score': score,
    'update': update,
  }
  return {name: args.batch * x for name, x in flops.items()}


def iterate(args, loop):
  """Seconds of every iteration and of its phases; metrics of each, and last.

  SystemExit where the optimizer took other steps than were asked for.
  """
  import jax

  key = jax.random.key(args.seed)
  times, phases, losses = [], [], []
  for i in range(args.warmup + args.steps):
    begin = time.perf_counter()
    _, seen, metrics = loop.iteration(jax.random.fold_in(key, i))
    times.append(time.perf_counter() - begin)
    seconds = {PHASES[k]: x.seconds for k, x in loop.phases.items()}
    phases.append(dict.fromkeys(PHASES.values(), 0.0) | seconds)
    losses.append(float(metrics['loss'][-1]))
    if metrics['skipped'].any():
      raise SystemExit(f'error: iteration {i} has a non-finite update')
  steps = int(loop.state.step)
  wanted = len(times) * args.ppo_epochs * args.minibatches
  if steps != wanted:
    raise SystemExit(f'error: {steps} optimizer steps, {wanted} are asked for')
  last = {
    'kl': float(seen['kl_k1']),
    'score': float(seen['pm_score']),
    'pg': float(metrics['policy_loss'][-1]),
    'vl': float(metrics['value_loss'][-1]),
  }
  return times, phases, losses, last


def floor(args, flops: dict[str, float], step_s: float) -> dict[str, float]:
  """Seconds that products take at this device's rate, and their share."""
  rate = common.matmul_rate(args.dtype, size=args.matmul)
  return {
    'matmul_tflops_per_s': rate / 1e12,
    'mfu': sum(flops.values()) / rate / step_s,
    **{f'{name}_floor_s': x / rate for name, x in flops.items()},
  }


def measure(args) -> dict:
  import jax

  loop, network = make_loop(args, make_config(args))
  times, phases, losses, last = iterate(args, loop)
  median = {
    name: statistics.median(x[name] for x in phases[args.warmup :])
    for name in PHASES.values()
  }
  flops, more = step_flops(args, network), {}
  if args.matmul:
    more = floor(args, flops, statistics.median(times[args.warmup :]))
  memory = {PHASES[k]: x.memory for k, x in loop.phases.items() if x.memory}
  tokens = args.batch * args.response_len
  updated = args.batch * args.seq_len * args.ppo_epochs
  num_params = sum(x.size for x in jax.tree.leaves(loop.frozen['reference']))
  return common.report(
    'hh_jax_ppo',
    args,
    times,
    samples=args.batch,
    tokens=tokens,
    num_params=num_params,
    losses=losses,
    unit='one sample is one rollout; tokens are reply tokens',
    **{f'{name}_s': x for name, x in median.items()},
    generate_share=median['generate'] / sum(median.values()),
    gen_tokens_per_s=tokens / median['generate'],
    update_tokens_per_s=updated / median['update'],
    optimizer_steps=int(loop.state.step),
    compile_s=sum(phase.compile_s for phase in loop.phases.values()),
    temporary_mib={name: x['temp'] / 2**20 for name, x in memory.items()},
    step_gflop=sum(flops.values()) / 1e9,
    last=last,
    **more,
  )


if __name__ == '__main__':
  main()
