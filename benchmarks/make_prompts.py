"""Token ids of real prompts for generate.py, as any framework can read.

  python -m benchmarks.make_prompts --data-dir DIR --out prompts.npz

DIR holds harmless-base/train.jsonl.gz of HH-RLHF; tokenizer and order are
those of make_pairs.py. Keys: prompts (flat), offsets [N + 1], reply_lengths
[N], seed, eos_prob. A reply ends after every token with probability
--eos-prob: its length, the EOS included, is reply_lengths of its prompt's
place in a pool.
"""

import argparse

import numpy as np

LONGEST = 1024  # of reply_lengths


def main(argv=None) -> None:
  flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  flags.add_argument('--data-dir', required=True)
  flags.add_argument('--out', required=True)
  flags.add_argument('--vocab', type=int, default=8192)
  flags.add_argument('--num-prompts', type=int, default=4096)
  flags.add_argument('--eos-prob', type=float, default=1 / 50)
  flags.add_argument('--seed', type=int, default=0)
  args = flags.parse_args(argv)
  if not 0 <= args.eos_prob < 1:
    raise SystemExit(f'error: --eos-prob {args.eos_prob} is not in [0, 1)')
  from hh_jax.errors import InputError

  try:
    make(args)
  except InputError as error:
    raise SystemExit(f'error: {error}') from None


def make(args: argparse.Namespace) -> None:
  """Writes args.out; InputError for what is missing or does not fit."""
  from benchmarks import make_pairs, ragged

  pairs = make_pairs.read_pairs(args.data_dir)
  tokenizer = make_pairs.train_tokenizer(pairs, args.vocab)
  order = np.random.default_rng(0).permutation(len(pairs))[: args.num_prompts]
  ids = tokenizer.encode_batch([pairs[i].prompt for i in order])
  ids = [[tokenizer.bos_id, *x] for x in ids]
  np.savez_compressed(
    args.out,
    prompts=np.concatenate(ids).astype(np.int32),
    offsets=np.cumsum([0, *map(len, ids)]),
    reply_lengths=ragged.reply_lengths(
      len(ids), seed=args.seed, chance=args.eos_prob, longest=LONGEST
    ),
    seed=args.seed,
    eos_prob=args.eos_prob,
  )
  print(f'wrote {len(ids)} prompts to {args.out}')


if __name__ == '__main__':
  main()
