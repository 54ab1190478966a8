"""Trains a language model from scratch on the documents of a source."""

import jax
import ml_collections
import numpy as np

from hh_jax import tokenizer as tokenizer_lib
from hh_jax import types
from hh_jax import workdir as workdir_lib
from hh_jax.data import loader, packing, prepared
from hh_jax.losses import language_model
from hh_jax.recipes import common, supervised

COUNTS = (  # config fields of 1 or more
  'row_length',
  'num_steps',
  'head_chunk',
  'num_micro_batches',
  'eval_rows',
  'eval_every',
  'save_every',
)


def pack(
  documents, tokenizer: tokenizer_lib.Tokenizer, *, row_length: int
) -> types.TokenBatch:
  """Rows of documents, each opened by bos and closed by eos."""
  ids = tokenizer.encode_batch(list(documents))
  closed = [[tokenizer.bos_id, *doc, tokenizer.eos_id] for doc in ids]
  return packing.pack_documents(closed, row_length=row_length)


def load(
  config: ml_collections.ConfigDict, tokenizer: tokenizer_lib.Tokenizer
) -> tuple[types.TokenBatch, types.TokenBatch, float]:
  """Training rows, config.eval_rows test rows, padding share of the first."""
  source = common.load_source(config.data)
  rows, held_out = (
    pack(source.documents(split), tokenizer, row_length=config.row_length)
    for split in ('train', 'test')
  )
  held_out = loader.spread(held_out, config.eval_rows)
  return rows, held_out, float(np.mean(rows.segments == 0))


def check(config: ml_collections.ConfigDict) -> None:
  """Raises InputError for a field that is missing or out of its range."""
  common.check_positive(config, *COUNTS)
  common.check_checkpoints(config)
  common.check_range(config, 'row_length', 2)  # a token and its target
  common.check_batches(config, common.make_mesh(config.mesh))


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """Trains for config.num_steps; returns the summary."""
  check(config)
  workdir_lib.open_run(
    workdir, config.to_dict(), 'pretrain', may_change=common.MAY_CHANGE
  )
  if workdir_lib.is_finished(workdir):
    return workdir_lib.read_summary(workdir)
  mesh = common.make_mesh(config.mesh)
  tokenizer = common.load_tokenizer(config.tokenizer)
  model = common.make_model(config.model, tokenizer)
  rows, held_out, padding_share = prepared.once(
    workdir, lambda: load(config, tokenizer)
  )
  loss_fn = language_model.language_model_loss(model, chunk=config.head_chunk)
  evaluate = supervised.make_evaluate(
    loss_fn, 'loss', held_out, mesh, batch_size=config.batch_size
  )
  params = supervised.train_on_rows(
    config,
    workdir,
    name='pretrain',
    model=model,
    tokenizer=tokenizer,
    mesh=mesh,
    loss_fn=loss_fn,
    rows=rows,
    num_epochs=None,
    num_steps=config.num_steps,
    counted=('tokens',),
    evaluate=evaluate,
  )
  summary = {
    'eval/loss': evaluate(params)['loss'],
    'train/steps': config.num_steps,
    'train/rows': loader.num_rows(rows),
    'train/padding_share': padding_share,
    'params': sum(x.size for x in jax.tree.leaves(params)),
  }
  workdir_lib.write_summary(workdir, summary)
  return summary
