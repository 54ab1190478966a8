"""What a checkpoint costs: seconds that one save adds to the steps beside it.

  python -m benchmarks.checkpoint --stage pm --layers 3 --d-model 128 \\
    --heads 4 --vocab 768 --seq-len 85 --batch 16 --arch gpt2 --steps 40

Prints one JSON object; a step is one of `pm_train`, or an iteration of `ppo`.
Rounds of --steps steps are timed by turns without a save and with one at their
beginning, until it is whole on the disk. `added_s` is the median difference of
neighbouring rounds: what the steps wait for it (`blocked_s`), what it takes
from their cores, and what is left of it when they are done. `share` is that
over the time of --every steps, the recipe's `save_every`. `checksum_s` is that
of SHA-256 over all files, which a save does once.
"""

from collections.abc import Callable
import contextlib
import itertools
import pathlib
import statistics
import tempfile
import time

from benchmarks import common

Advance = Callable[[], tuple[object, float]]  # a step: the state and the loss


def main(argv=None) -> dict:
  flags = common.parser(__doc__.splitlines()[0])
  flags.add_argument('--stage', choices=('pm', 'ppo'), default='pm')
  flags.add_argument(
    '--every', type=common.positive, help='of pm 500, of ppo 20'
  )
  flags.add_argument('--rounds', type=common.positive, default=5)
  flags.add_argument('--dir', help='where to save; default: a temporary folder')
  flags.add_argument('--prompt-len', type=common.positive, default=64)
  flags.add_argument('--response-len', type=common.positive, default=32)
  flags.add_argument('--minibatches', type=common.positive, default=4)
  flags.set_defaults(
    pairs=None, row_length=0, ppo_epochs=1, temperature=1.0,
    kl_coef=0.05, clip=0.0,
  )  # fmt: skip
  args = flags.parse_args(argv)
  args.every = args.every or {'pm': 500, 'ppo': 20}[args.stage]
  common.start(args)
  return measure(args)


def pm_steps(args) -> Advance:
  from benchmarks import pm_train
  from hh_jax.data import loader
  from hh_jax.losses import preference

  network = common.make_model(args)
  rows, per_step, *_ = pm_train.pack(args)
  state, step = common.make_step(
    args, network, preference.preference_loss(network)
  )
  batches = loader.train_batches(rows, batch_size=per_step, seed=args.seed)

  def advance():
    nonlocal state
    state, metrics, _ = step(state, next(batches))
    return state, metrics['loss']

  return advance


def ppo_steps(args) -> Advance:
  import jax

  from benchmarks import ppo

  loop, _ = ppo.make_loop(args, ppo.make_config(args))
  numbers = itertools.count()

  def advance():
    key = jax.random.fold_in(jax.random.key(args.seed), next(numbers))
    *_, metrics = loop.iteration(key)
    return loop.state, float(metrics['loss'][-1])

  return advance


def clocks():
  """Seconds of the wall, and of this process on all cores: [2]."""
  import numpy as np

  return np.array([time.perf_counter(), time.process_time()])


def measure(args) -> dict:
  import jax

  from hh_jax.checkpoints import integrity, native

  advance = {'pm': pm_steps, 'ppo': ppo_steps}[args.stage](args)
  times, losses, rounds = [], [], []

  def steps(num: int):
    for _ in range(num):
      begin = time.perf_counter()
      state, loss = advance()
      times.append(time.perf_counter() - begin)
      losses.append(loss)
    return state

  with tempfile.TemporaryDirectory(dir=args.dir) as folder:
    checkpoints = native.Checkpoints(folder, keep=2)
    state = steps(args.warmup)
    with contextlib.closing(checkpoints):
      for _ in range(args.rounds):
        marks = [clocks()]
        for save in (False, True):
          begin = time.perf_counter()
          if save:
            checkpoints.save(state, {})
            blocked = time.perf_counter() - begin
          state = steps(args.steps)
          checkpoints.wait()
          marks.append(clocks())
        plain, saving = (marks[i + 1] - marks[i] for i in (0, 1))
        rounds.append((*(saving - plain), plain[1], blocked))
    saved = pathlib.Path(folder, native.STEPS)
    newest = max(saved.iterdir(), key=lambda path: int(path.name))
    files = [p.stat().st_size for p in newest.rglob('*') if p.is_file()]
    begin = time.perf_counter()
    damage = integrity.damage(newest)
    checksum = time.perf_counter() - begin
  if damage:
    raise SystemExit(f'error: {damage}')
  added, added_cpu, cpu, blocked = (
    statistics.median(x) for x in zip(*rounds, strict=True)
  )
  step = statistics.median(times[args.warmup :])
  return common.report(
    'hh_jax_checkpoint',
    args,
    times,
    samples=1,
    tokens=1,
    num_params=sum(x.size for x in jax.tree.leaves(state.params)),
    losses=losses,
    unit='rates are steps',
    checkpoint_mib=sum(files) / 2**20,
    added_s=added,
    added_s_of_rounds=[float(x) for x, *_ in rounds],
    added_cpu_s=added_cpu,
    added_cpu_s_of_rounds=[float(x) for _, x, *_ in rounds],
    blocked_s=blocked,
    checksum_s=checksum,
    share=added / (args.every * step),
    cpu_share=added_cpu / (args.every * cpu / args.steps),
    blocked_share=blocked / (args.every * step),
  )


if __name__ == '__main__':
  main()
