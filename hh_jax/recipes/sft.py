"""Fine-tunes a language model on chosen replies, or on replies in files."""

import dataclasses
import pathlib
from typing import Any

import ml_collections

from hh_jax import dialogue
from hh_jax import workdir as workdir_lib
from hh_jax.data import dialogues, loader, sources
from hh_jax.data.dialogues import Dialogue
from hh_jax.errors import InputError
from hh_jax.losses import language_model
from hh_jax.recipes import common, comparisons, supervised

COUNTS = (  # config fields of 1 or more
  'row_length',
  'num_epochs',
  'head_chunk',
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
  common.check_batch(config, common.make_mesh(config.mesh))


def load(
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


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """Trains for config.num_epochs; returns the summary."""
  check(config)
  workdir_lib.open_run(workdir, config.to_dict(), 'sft')
  if workdir_lib.is_finished(workdir):
    return workdir_lib.read_summary(workdir)
  mesh = common.make_mesh(config.mesh)
  tokenizer = common.load_tokenizer(config.tokenizer)
  model = common.make_model(config.model, tokenizer)
  common.read_link(config, 'init_from')
  train, test, data = load(config)
  rows, counts = dialogues.pack(train, tokenizer, row_length=config.row_length)
  held_out, eval_counts = dialogues.pack(
    test, tokenizer, row_length=config.row_length
  )
  loss_fn = language_model.language_model_loss(model, chunk=config.head_chunk)
  steps_an_epoch = -(-loader.num_rows(rows) // config.batch_size)
  supervised.train_on_rows(
    config,
    workdir,
    name='sft',
    model=model,
    tokenizer=tokenizer,
    mesh=mesh,
    loss_fn=loss_fn,
    rows=rows,
    num_epochs=config.num_epochs,
    num_steps=config.num_epochs * steps_an_epoch,
    counted=('tokens',),
    evaluate=supervised.make_evaluate(
      loss_fn,
      'loss',
      loader.spread(held_out, config.eval_rows),
      mesh,
      batch_size=config.batch_size,
    ),
    init_kinds=common.KINDS['init_from'],
    notes=comparisons.cut_notes(
      {'training': counts, 'test': eval_counts}, row_length=config.row_length
    ),
  )
  for split, of in (('train', counts), ('test', eval_counts)):
    data[split] |= of
  workdir_lib.write_json(pathlib.Path(workdir) / 'data_report.json', data)
  summary = supervised.first_and_last(workdir, 'eval/loss') | {
    'train/dialogues': counts['kept'],
    'train/steps': config.num_epochs * steps_an_epoch,
    'train/padding_share': float((rows.segments == 0).mean()),
  }
  workdir_lib.write_summary(workdir, summary)
  return summary
