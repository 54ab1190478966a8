"""Preference-model training on pairs packed into rows, each prompt stored once.

  python -m benchmarks.make_pairs --data-dir DIR --out pairs.npz
  python -m benchmarks.pm_train --pairs pairs.npz --layers 4 --d-model 256 \\
    --heads 8 --vocab 8192 --seq-len 1024 --batch 16 --threads 1

Prints one JSON object; one sample is one pair. `--pairs` names an .npz of token
ids, flat with offsets: chosen, chosen_offsets [N + 1], rejected,
rejected_offsets. The first batch * (warmup + steps) of its pairs are packed
into rows of seq-len columns, and a step takes as many rows as hold `batch`
pairs on average: `pairs_per_s_total` is all pairs of the timed steps over
their time. Without --pairs the pairs are random ids, all of seq-len tokens, of
which the first half is the prompt.
"""

import statistics

from benchmarks import common


def main(argv=None) -> dict:
  flags = common.parser(__doc__.splitlines()[0])
  flags.add_argument('--pairs', help='.npz of token ids')
  flags.add_argument('--row-length', type=int, default=0, help='0: seq-len')
  args = flags.parse_args(argv)
  common.start(args)
  return measure(args)


def read_sides(path: str, num: int, vocab: int) -> list:
  """Ids of the first num transcripts: those chosen, then those rejected.

  SystemExit for a file that does not hold them, or an id that is not below
  `vocab`: the embedding has no row for it.
  """
  import zipfile

  import numpy as np

  sides = []
  try:
    data = np.load(path)
    for name in ('chosen', 'rejected'):
      ids, ends = data[name], data[f'{name}_offsets']
      if len(ends) - 1 < num:
        raise SystemExit(
          f'error: {path} has {len(ends) - 1} pairs, {num} are asked for'
        )
      sides.append([ids[ends[i] : ends[i + 1]].tolist() for i in range(num)])
  except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
    raise SystemExit(f'error: --pairs {path}: {error}') from None
  largest = max(i for side in sides for ids in side for i in ids)
  if largest >= vocab:
    raise SystemExit(
      f'error: {path} has the token id {largest}: --vocab {vocab} is too small'
    )
  return sides


def read_pairs(path: str, num: int, limit: int, vocab: int) -> list:
  """The first num pairs as PairTokens of at most `limit` tokens a transcript.

  The prompt is what the two begin with alike, all but the last token of either
  at most; it is what is cut, from its beginning.
  """
  from hh_jax.data import packing

  sides = read_sides(path, num, vocab)
  out = []
  for chosen, rejected in zip(*sides, strict=True):
    most, same = min(len(chosen), len(rejected)) - 1, 0
    while same < most and chosen[same] == rejected[same]:
      same += 1
    # both lose as many of the tokens that they share
    cut = max(len(chosen), len(rejected)) - limit
    cut = min(max(cut, 0), max(same - 1, 0))
    out.append(
      packing.PairTokens(chosen[cut:same], chosen[same:], rejected[same:])
    )
  return out


def random_pairs(args, num: int) -> list:
  """Pairs of random ids; the reply with more ids of the upper half wins."""
  import numpy as np

  from hh_jax.data import packing

  half = args.seq_len // 2
  shapes = (half, args.seq_len - half, args.seq_len - half)
  prompts, chosen, rejected = (
    np.random.default_rng([args.seed, salt]).integers(
      4, args.vocab, (num, length)
    )
    for salt, length in enumerate(shapes, start=1)
  )
  middle = (4 + args.vocab) // 2
  swap = (chosen >= middle).sum(1) < (rejected >= middle).sum(1)
  chosen[swap], rejected[swap] = rejected[swap], chosen[swap].copy()
  triples = zip(prompts, chosen, rejected, strict=True)
  return [packing.PairTokens(*(x.tolist() for x in t)) for t in triples]


def pack(args):
  """Rows, how many a step takes, and tokens of transcripts a pair."""
  from hh_jax.data import loader, packing

  num = args.batch * (args.warmup + args.steps)
  row_length = args.row_length or args.seq_len
  if args.pairs:
    pairs = read_pairs(args.pairs, num, args.seq_len, args.vocab)
  else:
    pairs = random_pairs(args, num)
    row_length = max(map(len, pairs))
  # two transcripts of seq-len with one prompt can still overflow a row
  fitting = [p for p in pairs if len(p) <= row_length]
  if not fitting:
    raise SystemExit(
      f'error: none of {len(pairs)} pairs fits {row_length} tokens'
    )
  rows = packing.pack_pairs(
    fitting, row_length=row_length, max_pairs=max(1, row_length // 16)
  )
  per_step = max(1, round(args.batch * loader.num_rows(rows) / len(fitting)))
  num_steps = loader.num_rows(rows) // per_step
  if num_steps <= args.warmup:
    raise SystemExit(
      f'error: {len(fitting)} pairs are {loader.num_rows(rows)} rows, '
      f'{num_steps} steps of {per_step}: none is left to time after '
      f'--warmup {args.warmup}; raise --batch or --steps'
    )
  num_rows = num_steps * per_step
  rows = loader.take(rows, slice(num_rows))  # whole batches only
  transcripts = sum(len(p) + len(p.prompt) for p in fitting) / len(fitting)
  return rows, per_step, transcripts, len(pairs) - len(fitting)


def measure(args) -> dict:
  import jax
  import numpy as np

  from hh_jax.data import loader
  from hh_jax.losses import preference

  network = common.make_model(args)
  rows, per_step, transcripts, dropped = pack(args)
  state, step = common.make_step(
    args, network, preference.preference_loss(network)
  )
  times, losses, pairs = [], [], []
  batches = loader.train_batches(
    rows, batch_size=per_step, seed=args.seed, num_epochs=1
  )
  for batch in batches:
    state, metrics, seconds = step(state, batch)
    times.append(seconds)
    losses.append(metrics['loss'])
    pairs.append(metrics['pairs'])
  total = sum(pairs[args.warmup :]) / sum(times[args.warmup :])
  samples = statistics.mean(pairs[args.warmup :])
  return common.report(
    'hh_jax_pm_train',
    args,
    times,
    samples=samples,
    tokens=samples * transcripts,
    num_params=sum(x.size for x in jax.tree.leaves(state.params)),
    unit='one sample is one pair',
    pairs_per_s_total=total,
    real_tokens_per_s_total=total * transcripts,
    padding_share=float(np.mean(rows.segments == 0)),
    rows_per_step=per_step,
    pairs_dropped=dropped,
    losses=losses,
  )


if __name__ == '__main__':
  main()
