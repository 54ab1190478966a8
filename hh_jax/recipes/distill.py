"""Distils a context into a language model (Bai et al. 2022, A.1)."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections

from hh_jax import sharding, types
from hh_jax import tokenizer as tokenizer_lib
from hh_jax import workdir as workdir_lib
from hh_jax.data import distillation, loader, prepared
from hh_jax.errors import InputError
from hh_jax.losses import context_distillation as loss_lib
from hh_jax.model import Transformer
from hh_jax.recipes import common, supervised, teacher
from hh_jax.types import Params

COUNTS = (  # config fields of 1 or more
  'row_length',
  'num_steps',
  'top_k',
  'head_chunk',
  'num_micro_batches',
  'teacher_batch_size',
  'exact_rows',
  'eval_texts',
  'eval_every',
  'save_every',
)


def check(config: ml_collections.ConfigDict) -> None:
  """Raises InputError for a field that is missing or out of its range."""
  common.check_positive(config, *COUNTS)
  common.check_checkpoints(config)
  common.check_range(config, 'row_length', 2)  # a token and its target
  common.check_range(config, 'num_texts', 0)
  common.check_range(config, 'answers_share', 0, 1)
  common.check_batches(config, common.make_mesh(config.mesh))
  if config.stored_dtype not in distillation.DTYPES:
    raise InputError(
      f'config.stored_dtype {config.stored_dtype!r} is none of '
      f'{distillation.DTYPES}'
    )
  distillation.read_context(config.context, config.context_file)


def load_rows(
  config: ml_collections.ConfigDict, tokenizer: tokenizer_lib.Tokenizer
) -> tuple[types.TokenBatch, types.TokenBatch, dict[str, float]]:
  """Training rows, held-out rows, and what the summary says of them."""
  sources = common.load_source(config.data), common.load_source(config.answers)
  rows, counts = [], {}
  for split, total in (
    ('train', config.num_texts),
    ('test', config.eval_texts),
  ):
    documents, answers = (source.documents(split) for source in sources)
    texts = distillation.mix(
      [distillation.opened(text) for text in documents],
      answers,
      answers_share=config.answers_share,
      total=total,
      seed=config.seed,
    )
    packed, num_cut = distillation.pack(
      texts, tokenizer, row_length=config.row_length
    )
    rows.append(packed)
    counts |= {f'{split}/texts': len(texts), f'{split}/texts_cut': num_cut}
  counts['train/padding_share'] = float((rows[0].segments == 0).mean())
  return *rows, counts


def make_evaluator(
  config: ml_collections.ConfigDict,
  model: Transformer,
  mesh: Mesh,
  held_out: types.DistillBatch,
  tutor: teacher.Teacher,
) -> Callable[[Params], dict[str, float]]:
  """params -> kl, stored categories on all held-out rows; exact_kl on a few.

  Of the teacher only its head stays: what it thinks of the few is computed
  here, once.
  """
  mean_kl = supervised.make_evaluate(
    loss_lib.distillation_loss(model, chunk=config.head_chunk),
    'kl',
    held_out,
    mesh,
    batch_size=config.batch_size,
  )
  few = loader.pad_rows(
    loader.spread(held_out.rows, config.exact_rows), config.exact_rows
  )
  few, hidden = sharding.place(mesh, few), tutor.hidden(few)
  head, its_model = {'embedding': tutor.params['embedding']}, tutor.model

  @jax.jit
  def exact(params: Params, head: Params, hidden: Any, rows: Any):
    return loss_lib.exact_kl(
      model, params, its_model, head, hidden, rows, chunk=config.head_chunk
    )

  def evaluate(params: Params) -> dict[str, float]:
    few_kl = float(exact(params, head, hidden, few))
    return mean_kl(params) | {'exact_kl': few_kl}

  return evaluate


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """The teacher's pass, then config.num_steps on it; returns the summary."""
  check(config)
  workdir_lib.open_run(
    workdir, config.to_dict(), 'distill', may_change=common.MAY_CHANGE
  )
  if workdir_lib.is_finished(workdir):
    return workdir_lib.read_summary(workdir)
  mesh = common.make_mesh(config.mesh)
  tokenizer = common.load_tokenizer(config.tokenizer)
  common.check_range(config, 'top_k', 1, tokenizer.vocab_size)
  model = common.make_model(config.model, tokenizer)
  common.read_link(config, 'init_from')
  tutor, card = teacher.load(config, tokenizer, mesh)
  train_rows, test_rows, counts = prepared.once(
    workdir, lambda: load_rows(config, tokenizer)
  )
  rows, held_out = (
    teacher.run(
      tutor,
      teacher.store_of(config, workdir, split, some, tutor, card),
      top_k=config.top_k,
      chunk=config.head_chunk,
      batch_size=config.teacher_batch_size,
      name=f'teacher ({split})',
    )
    for split, some in (('train', train_rows), ('test', test_rows))
  )
  evaluate = make_evaluator(config, model, mesh, held_out, tutor)
  del tutor  # it may be far larger than the student
  supervised.train_on_rows(
    config,
    workdir,
    name='distill',
    model=model,
    tokenizer=tokenizer,
    mesh=mesh,
    loss_fn=loss_lib.distillation_loss(model, chunk=config.head_chunk),
    rows=rows,
    num_epochs=None,
    num_steps=config.num_steps,
    counted=('tokens',),
    evaluate=evaluate,
    init_kinds=common.KINDS['init_from'],
  )
  kl = supervised.first_and_last(workdir, 'eval/kl', 'eval/exact_kl')
  summary = kl | {
    'eval/gap_closed': 1 - kl['eval/kl'] / kl['eval/kl_before'],
    'teacher/context_tokens': card['context_tokens'],
    'teacher/remainder': teacher.remainder(held_out),
    'train/steps': config.num_steps,
    'train/rows': loader.num_rows(rows),
    'train/epochs': config.num_steps
    * config.batch_size
    / loader.num_rows(rows),
    **counts,
  }
  workdir_lib.write_summary(workdir, summary)
  return summary
