"""Fine-tunes a language model on chosen replies, or on replies in files."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import ml_collections

from hh_jax import dialogue, types
from hh_jax import tokenizer as tokenizer_lib
from hh_jax import workdir as workdir_lib
from hh_jax.data import dialogues, loader, prepared, sources
from hh_jax.data.dialogues import Dialogue
from hh_jax.errors import InputError
from hh_jax.losses import language_model
from hh_jax.recipes import common, comparisons, supervised

COUNTS = (  # config fields of 1 or more
  'row_length',
  'num_epochs',
  'head_chunk',
  'num_micro_batches',
  'eval_rows',
  'eval_every',
  'save_every',
)


def check(config: ml_collections.ConfigDict) -> None:
  """Raises InputError for a field that is missing or out of its range."""
  common.check_positive(config, *COUNTS)
  common.check_checkpoints(config)
  common.check_range(config, 'row_length', 2)  # a token and its target
  common.check_range(config, 'max_broken', 0, 1)
  common.check_batches(config, common.make_mesh(config.mesh))


def read(
  config: ml_collections.ConfigDict,
) -> tuple[list[Dialogue], list[Dialogue], dict[str, Any]]:
  """Training and held-out dialogues, and what was left out.

  Training ones are those of config.files where it names some, else the chosen
  replies of the source; the held-out ones are always the source's.
  """
  source = common.load_source(config.data)
  if isinstance(source, sources.WebPairs) and source.form == 'binarised':
    raise InputError(
      "config.data.options.form 'binarised' puts tags into replies: name ranked"
    )
  report: dict[str, Any] = {}
  pairs = source.pairs('test')
  if config.files:
    # by first human turn on both sides: all that the files tell
    pairs = [
      dataclasses.replace(p, conversation=dialogue.conversation_key(p.prompt))
      for p in pairs
    ]
    given = []
    for path in config.files:
      found, drops = dialogues.read(path, max_broken=config.max_broken)
      given += found
      report[str(path)] = drops.to_dict()
  else:
    given = dialogues.chosen(source.pairs('train'))
  train = dialogues.distinct(given)
  test = comparisons.held_out(
    pairs,
    train,
    drop_overlap=config.drop_overlap,
    trainee='the model',
  )
  comparisons.say_left_out(source.report())
  report |= source.report()
  return (
    train,
    dialogues.distinct(dialogues.chosen(test.pairs)),
    {
      'train': {'repeated': len(given) - len(train)},
      'test': test.counts,
      'source': report,
    },
  )


class Data(NamedTuple):
  """What a run trains on, and the rows it is judged on."""

  rows: types.TokenBatch
  eval_rows: types.TokenBatch  # config.eval_rows of them
  counts: dict[str, Any]  # kept, cut, left out: train, test, source
  padding_share: float  # of the tokens of rows


def load(
  config: ml_collections.ConfigDict, tokenizer: tokenizer_lib.Tokenizer
) -> Data:
  """The dialogues that config asks for, packed."""
  train, test, counts = read(config)
  rows, kept = dialogues.pack(train, tokenizer, row_length=config.row_length)
  held_out, eval_kept = dialogues.pack(
    test, tokenizer, row_length=config.row_length
  )
  counts['train'] |= kept
  counts['test'] |= eval_kept
  return Data(
    rows,
    loader.spread(held_out, config.eval_rows),
    counts,
    float((rows.segments == 0).mean()),
  )


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """Trains for config.num_epochs; returns the summary."""
  check(config)
  workdir_lib.open_run(
    workdir, config.to_dict(), 'sft', may_change=common.MAY_CHANGE
  )
  if workdir_lib.is_finished(workdir):
    return workdir_lib.read_summary(workdir)
  mesh = common.make_mesh(config.mesh)
  tokenizer = common.load_tokenizer(config.tokenizer)
  model = common.make_model(config.model, tokenizer)
  common.read_link(config, 'init_from')
  data = prepared.once(workdir, lambda: load(config, tokenizer))
  loss_fn = language_model.language_model_loss(model, chunk=config.head_chunk)
  steps_an_epoch = -(-loader.num_rows(data.rows) // config.batch_size)
  supervised.train_on_rows(
    config,
    workdir,
    name='sft',
    model=model,
    tokenizer=tokenizer,
    mesh=mesh,
    loss_fn=loss_fn,
    rows=data.rows,
    num_epochs=config.num_epochs,
    num_steps=config.num_epochs * steps_an_epoch,
    counted=('tokens',),
    evaluate=supervised.make_evaluate(
      loss_fn,
      'loss',
      data.eval_rows,
      mesh,
      batch_size=config.batch_size,
    ),
    init_kinds=common.KINDS['init_from'],
    notes=comparisons.cut_notes(
      {'training': data.counts['train'], 'test': data.counts['test']},
      row_length=config.row_length,
    ),
  )
  workdir_lib.write_json(
    pathlib.Path(workdir) / 'data_report.json', data.counts
  )
  summary = supervised.first_and_last(workdir, 'eval/loss') | {
    'train/dialogues': data.counts['train']['kept'],
    'train/steps': config.num_epochs * steps_an_epoch,
    'train/padding_share': data.padding_share,
  }
  workdir_lib.write_summary(workdir, summary)
  return summary
