"""Token ids of real comparisons for pm_train.py, as any framework can read.

  python -m benchmarks.make_pairs --data-dir DIR --out pairs.npz

DIR holds harmless-base/train.jsonl.gz of HH-RLHF. A sentencepiece tokenizer of
--vocab words is trained on its transcripts; pairs are shuffled. Keys: chosen,
chosen_offsets [N + 1], rejected, rejected_offsets; a transcript is
begin-of-text, tokens, end-of-context.
"""

import argparse
import pathlib
import tempfile

import numpy as np


def main(argv=None) -> None:
  flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  flags.add_argument('--data-dir', required=True)
  flags.add_argument('--out', required=True)
  flags.add_argument('--vocab', type=int, default=8192)
  flags.add_argument('--num-pairs', type=int, default=12_000)
  args = flags.parse_args(argv)
  from hh_jax.errors import InputError

  try:
    make(args)
  except InputError as error:
    raise SystemExit(f'error: {error}') from None


def read_pairs(data_dir: str) -> list:
  """Training pairs of harmless-base; InputError where they are missing."""
  from configs import common
  from hh_jax.data import sources

  data = common.hh_rlhf()
  data.options.update(
    data_dir=data_dir,
    train=('harmless-base',),
    test=('harmless-base',),
    download=False,
  )
  return sources.build(data.name, data.options.to_dict()).pairs('train')


def train_tokenizer(pairs: list, vocab: int):
  """A sentencepiece tokenizer of `vocab` words of their chosen transcripts."""
  from hh_jax import tokenizer as tokenizer_lib

  texts = [pair.prompt + pair.chosen for pair in pairs]
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'tokenizer.model'
    tokenizer_lib.train(texts[:20_000], path, vocab_size=vocab)
    return tokenizer_lib.Tokenizer.load(path)


def make(args: argparse.Namespace) -> None:
  """Writes args.out; InputError for what is missing or does not fit."""
  pairs = read_pairs(args.data_dir)
  tokenizer = train_tokenizer(pairs, args.vocab)
  order = np.random.default_rng(0).permutation(len(pairs))[: args.num_pairs]
  arrays = {}
  for side in ('chosen', 'rejected'):
    ids = tokenizer.encode_batch(
      [pairs[i].prompt + getattr(pairs[i], side) for i in order]
    )
    ids = [[tokenizer.bos_id, *x, tokenizer.eoc_id] for x in ids]
    arrays[side] = np.concatenate(ids).astype(np.int32)
    arrays[f'{side}_offsets'] = np.cumsum([0, *map(len, ids)])
  np.savez_compressed(args.out, **arrays)
  print(f'wrote {len(order)} pairs to {args.out}')


if __name__ == '__main__':
  main()
