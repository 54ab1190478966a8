"""Trains a preference model on comparisons and writes its report numbers."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, NamedTuple

from jax.sharding import Mesh
import ml_collections
import numpy as np

from hh_jax import dialogue, types
from hh_jax import tokenizer as tokenizer_lib
from hh_jax import workdir as workdir_lib
from hh_jax.data import examples, loader, prepared
from hh_jax.data.examples import Pair
from hh_jax.errors import InputError
from hh_jax.evals import preference as evals
from hh_jax.losses import preference
from hh_jax.model import Transformer
from hh_jax.recipes import common, comparisons, ranking, supervised
from hh_jax.types import Params

LOSS_OPTIONS = ('objective', 'label_smoothing', 'centring', 'lm_coef')
INIT_KINDS = {
  'pm': ('pretrain', 'pmp', 'distill', 'sft'),
  'pmp': ('pretrain',),
}
COUNTS = (  # config fields of 1 or more
  'row_length',
  'max_pairs',
  'num_epochs',
  'num_parts',
  'num_micro_batches',
  'eval_rows',
  'eval_every',
  'save_every',
)


def judged_rows(pairs: Sequence[Pair], ids, chosen, rejected) -> list[dict]:
  """What evals/preference.py reports on: one dict a held-out pair."""
  return [
    {
      'source': pairs[i].source,
      'conversation': pairs[i].conversation,
      'turns': pairs[i].prompt.count(dialogue.HUMAN),
      'score_chosen': float(a),
      'score_rejected': float(b),
      'chosen_chars': len(pairs[i].chosen),
      'rejected_chars': len(pairs[i].rejected),
      'p_chosen': pairs[i].p_chosen,
    }
    for i, a, b in sorted(zip(ids.tolist(), chosen, rejected, strict=True))
  ]


def quick_report(
  pairs: Sequence[Pair], ids, chosen, rejected
) -> dict[str, float]:
  """Accuracy and loss while training; accuracy by source as well."""
  margins = chosen - rejected
  of = np.array([pairs[i].source for i in ids.tolist()])
  by_source = {
    f'{source}/accuracy': evals.accuracy(margins[of == source])
    for source in sorted(set(of.tolist()))
  }
  loss = float(np.logaddexp(0, -margins).mean())
  return {'accuracy': evals.accuracy(margins), 'loss': loss, **by_source}


def training_pairs(
  config: ml_collections.ConfigDict, given: Sequence[Pair]
) -> list[Pair]:
  """The part, mixture and weights of the training pairs that config asks for.

  Weights: helpful + harmless_weight x harmless (Bai et al. 2022, Fig 27).
  Pairs of two identical transcripts are left out: they teach nothing.
  """
  pairs = examples.take_part(
    examples.distinct(given), part=config.part, num_parts=config.num_parts
  )
  if config.mixture.total:
    pairs = examples.mix(pairs, **config.mixture)
  if config.harmless_weight == 1:
    return pairs
  return [
    dataclasses.replace(p, weight=p.weight * config.harmless_weight)
    if examples.is_harmless(p)
    else p
    for p in pairs
  ]


class Data(NamedTuple):
  """What a run trains on and is judged on."""

  rows: types.PackedPairs
  held_out: list[Pair]
  held_out_rows: types.PackedPairs
  counts: dict[str, dict[str, Any]]  # kept, cut, left out: train, test, source
  padding_share: float  # of the tokens of rows


def load(
  config: ml_collections.ConfigDict, tokenizer: tokenizer_lib.Tokenizer
) -> Data:
  """Training and test pairs of the source, packed."""
  source = common.load_source(config.data)
  given = source.pairs('train')
  pairs = training_pairs(config, given)
  test = comparisons.held_out(
    source.pairs('test'), pairs, drop_overlap=config.drop_overlap
  )
  comparisons.say_left_out(source.report())
  same = len(given) - len(examples.distinct(given))
  shape = dict(row_length=config.row_length, max_pairs=config.max_pairs)
  rows, counts = ranking.pack(pairs, tokenizer, **shape)
  held_out_rows, eval_counts = ranking.pack(test.pairs, tokenizer, **shape)
  counts = {
    'train': counts | {'identical_replies': same},
    'test': eval_counts | test.counts,
    'source': source.report(),
  }
  padding_share = float(np.mean(rows.segments == 0))
  return Data(rows, test.pairs, held_out_rows, counts, padding_share)


def check(config: ml_collections.ConfigDict) -> None:
  """Raises InputError for a field that is missing or out of its range."""
  common.check_positive(config, *COUNTS)
  common.check_checkpoints(config)
  common.check_batches(config, common.make_mesh(config.mesh))
  common.check_range(config, 'label_smoothing', 0, 1)
  for name in ('centring', 'lm_coef', 'harmless_weight'):
    common.check_range(config, name, 0)
  for name, allowed in (
    ('objective', preference.OBJECTIVES),
    ('rank_by', ranking.RANKINGS),
  ):
    if config[name] not in allowed:
      raise InputError(f'config.{name} {config[name]!r} is none of {allowed}')


def judge(
  config: ml_collections.ConfigDict,
  model: Transformer,
  tokenizer: tokenizer_lib.Tokenizer,
  mesh: Mesh,
  params: Params,
  held_out: Sequence[Pair],
  rows: types.PackedPairs,
  scores: Callable[[Params, types.PackedPairs], ranking.Scores],
) -> tuple[ranking.Scores, dict[str, float]]:
  """The scores to report on, and the accuracy of every way to rank.

  A language model ('imitation') ranks by config.rank_by.
  """
  if config.objective != 'imitation':
    return scores(params, rows), {}
  bare, _ = ranking.pack(
    ranking.without_prompts(held_out),
    tokenizer,
    row_length=config.row_length,
    max_pairs=config.max_pairs,
  )
  found = ranking.rankings(
    model, mesh, params, rows, bare, batch_size=config.batch_size
  )
  accuracies = {
    f'eval/rank_by_{name}/accuracy': evals.accuracy(chosen - rejected)
    for name, (_, chosen, rejected) in found.items()
  }
  return found[config.rank_by], accuracies


def write_eval(
  workdir: str, judged: Sequence[Mapping], data: Mapping[str, Any]
) -> None:
  """Writes eval.jsonl, a line a held-out pair, and data_report.json."""
  path = pathlib.Path(workdir)
  workdir_lib.write_rows(path / 'eval.jsonl', judged)
  workdir_lib.write_json(path / 'data_report.json', data)


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """One pass (config.num_epochs) over the training pairs; the summary."""
  return train(config, workdir, recipe='pm')


def train(
  config: ml_collections.ConfigDict, workdir: str, *, recipe: str
) -> dict[str, float]:
  """What `pm` and `pmp` runs do; they start from runs of INIT_KINDS."""
  check(config)
  workdir_lib.open_run(
    workdir, config.to_dict(), recipe, may_change=common.MAY_CHANGE
  )
  if workdir_lib.is_finished(workdir):
    return workdir_lib.read_summary(workdir)
  mesh = common.make_mesh(config.mesh)
  tokenizer = common.load_tokenizer(config.tokenizer)
  model = common.make_model(config.model, tokenizer)
  data = prepared.once(workdir, lambda: load(config, tokenizer))
  quick_rows = loader.spread(data.held_out_rows, config.eval_rows)
  scores = ranking.make_scorer(
    model, mesh, batch_size=config.batch_size, objective=config.objective
  )

  def evaluate(params) -> dict[str, float]:
    return quick_report(data.held_out, *scores(params, quick_rows))

  steps_an_epoch = -(-loader.num_rows(data.rows) // config.batch_size)
  params = supervised.train_on_rows(
    config,
    workdir,
    name=recipe,
    init_kinds=INIT_KINDS[recipe],
    notes=comparisons.cut_notes(
      {'training': data.counts['train'], 'test': data.counts['test']},
      row_length=config.row_length,
    ),
    model=model,
    tokenizer=tokenizer,
    mesh=mesh,
    loss_fn=preference.preference_loss(
      model, **{name: config[name] for name in LOSS_OPTIONS}
    ),
    rows=data.rows,
    num_epochs=config.num_epochs,
    num_steps=config.num_epochs * steps_an_epoch,
    counted=('pairs',),
    evaluate=evaluate,
  )
  found, accuracies = judge(
    config, model, tokenizer, mesh, params, data.held_out, data.held_out_rows,
    scores,
  )  # fmt: skip
  judged = judged_rows(data.held_out, *found)
  write_eval(workdir, judged, data.counts)
  summary = evals.pm_report(judged) | accuracies
  summary['train/pairs'] = data.counts['train']['kept'] * config.num_epochs
  summary['train/padding_share'] = data.padding_share
  workdir_lib.write_summary(workdir, summary)
  return summary
