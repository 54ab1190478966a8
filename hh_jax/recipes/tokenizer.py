"""Trains a sentencepiece tokenizer on the training documents of a source."""

import pathlib

import ml_collections

from hh_jax import distributed
from hh_jax import tokenizer as tokenizer_lib
from hh_jax import workdir as workdir_lib
from hh_jax.recipes import common


def check(config: ml_collections.ConfigDict) -> None:
  """Raises InputError for a field that is missing or out of its range."""
  common.check_positive(config, 'max_documents')


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """Writes workdir/tokenizer.model; returns the summary."""
  check(config)
  workdir_lib.open_run(workdir, config.to_dict(), 'tokenizer')
  if workdir_lib.is_finished(workdir):
    return workdir_lib.read_summary(workdir)
  source = common.load_source(config.data)
  documents = source.documents('train')[: config.max_documents]
  path = pathlib.Path(workdir) / 'tokenizer.model'
  tokenizer_lib.train(documents, path, vocab_size=config.vocab_size)
  tokenizer = tokenizer_lib.Tokenizer.load(path)

  held_out = source.documents('test')[:1000]
  ids = tokenizer.encode_batch(held_out)
  summary = {
    'vocab_size': tokenizer.vocab_size,
    'train_documents': len(documents),
    'eval/chars_per_token': sum(map(len, held_out)) / sum(map(len, ids)),
  }
  workdir_lib.write_summary(workdir, summary)
  distributed.say(
    f'{path}: {tokenizer.vocab_size} tokens, '
    f'{summary["eval/chars_per_token"]:.3g} characters a token'
  )
  return summary
