"""The report card of a finished preference model, on held-out comparisons.

Scores the test comparisons of the PM's own data (or of config.data) and writes
summary.json, curves.json, hhh.jsonl (a margin an item), rewardbench.json (the
layout of RewardBench's result files), data_report.json, report_card.html and
plots/*.png. No output holds text of a transcript.

Files of others, by path; one that is not named is skipped, which is said and
recorded. Items that do not fit a row with their whole prompt, or leave nothing
to choose, are left out and counted:
  hhh: the HHH alignment evaluation. Candidates are shuffled.
  reward_bench: RewardBench's comparisons.
  xstest: XSTest. It holds prompts and no replies, so the probe scores fixed
    refusals and offers of help (evals/external.OPENINGS). The worth of a
    refusal by itself is that of our texts and means little; how much more it
    is worth on unsafe prompts than on safe ones is the finding.
  bbq: BBQ's files. Its answers are bare names, which no rater compares: the
    three are scored as one-phrase replies, and what the PM thinks of "cannot be
    known" as a phrase is in every number but pair_bias (evals/bbq.py).
  compare: result files in RewardBench's layout, shown beside this PM's.
Left out, since their files hold nothing to compare: AdvBench, HarmBench and
DangerousQA (harmful requests without safe contrasts or replies).
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from hh_jax import distributed, sharding
from hh_jax import workdir as workdir_lib
from hh_jax.data import examples, sources
from hh_jax.data.examples import Pair
from hh_jax.data.sources import Source
from hh_jax.errors import InputError
from hh_jax.evals import figures, preference, report_card, reward_bench
from hh_jax.evals.reward_bench import Result
from hh_jax.recipes import (
  common,
  comparisons,
  ensembles,
  pm,
  pm_report_judge,
  pm_report_outside,
  pm_report_page,
)
from hh_jax.recipes.pm_report_judge import Judge, Scores
from hh_jax.recipes.pm_report_page import Findings

CARD = ('thresholds', 'length_share', 'num_bins', 'histogram_bins',
        'num_samples')  # fmt: skip


class HeldOut(NamedTuple):
  """Test pairs, and what the PM's training pairs have to do with them."""

  pairs: list[Pair]
  counts: dict[str, int]  # left out, and why
  numbers: dict[str, float]  # train/..., shares of the training pairs
  trained: list[Pair] | None  # None: not known


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """Writes the card of the run config.pm; returns its flat numbers.

  Raises InputError for a missing, unfinished or other run, for bad files and
  settings, where there is nothing to score, and for scores that are not finite.
  """
  folder = workdir_lib.open_run(workdir, config.to_dict(), 'pm_report')
  if workdir_lib.is_finished(workdir):
    return workdir_lib.read_summary(workdir)
  there = common.read_link(config, 'pm')
  _check(config)
  outside, notes = pm_report_outside.read(config)
  notes += ensembles.notes(config)
  judge = pm_report_judge.make_judge(config, there['config'])
  for note in notes:
    distributed.say(note)
  held_out = _held_out(config, there['config'], notes)
  judged = judge(held_out.pairs)
  if not judged.ids.size:
    raise InputError(
      f'no test pair fits a row of {judge.row_length} tokens: {judged.counts}'
    )
  late = judged.notes('Test pairs', judge.row_length)
  rows = pm.judged_rows(held_out.pairs, judged.ids, *judged.scores.T)
  settings = {name: config[name] for name in (*CARD, 'seed')}
  card = report_card.card(rows, **settings)
  found = pm_report_outside.judge_all(
    outside, judge, num_samples=config.num_samples, seed=config.seed
  )
  numbers = {
    **card.numbers,
    **held_out.numbers,
    **_overlap(held_out, judged.ids),
    **_ceiling(config),
    **_invariance(config, judge, held_out.pairs, judged),
    **found.numbers,
  }
  name = config.name or ensembles.name(config)
  accuracies = _own_accuracies(rows) | found.accuracies
  results = [Result(name, accuracies), *outside.compare]
  late += [*found.notes, *card.notes, *_incomplete(results)]
  for note in late:
    distributed.say(note)
  findings = Findings(
    name=name,
    numbers=numbers,
    card=card,
    results=results,
    notes=notes + late,
    settings={'pm_report': workdir_lib.read_config(folder), 'pm': there},
  )
  _write(folder, findings, judged.counts | held_out.counts, found.hhh)
  return numbers


def _check(config: ml_collections.ConfigDict) -> None:
  """Settings that nothing below checks."""
  report_card.check(**{name: config[name] for name in CARD})
  common.check_positive(config, 'invariance_pairs')
  _ceiling(config)  # refuses a bad agreement
  for name in ('row_length', 'max_pairs'):
    common.check_range(config, name, 0)
  common.stream(config.seed, common.EVAL)  # refuses a bad seed
  if config.data is not None and not isinstance(
    config.data, ml_collections.ConfigDict
  ):
    raise InputError(
      f'config.data is {config.data!r}: name the data with the size of the '
      'config file, as in configs/pm_report.py:hh_rlhf'
    )


def _held_out(
  config: ml_collections.ConfigDict,
  there: Mapping[str, Any],
  notes: list[str],
) -> HeldOut:
  """Test pairs, compared by conversation with what the PM was trained on."""
  own = config.data is None
  source = _source_of(there) if own else common.load_source(config.data)
  pairs = list(source.pairs('test'))
  trained, numbers = None, {}
  try:
    trained = _trained(there, source if own else _source_of(there)) + [
      pair
      for run in config.ensemble.others
      for pair in _trained(workdir_lib.read_config(run)['config'])
    ]
  except InputError as error:
    text = f'overlap with the training conversations is not checked: {error}'
    notes.append(text)
    distributed.say(text)
  kept = comparisons.held_out(pairs, trained, drop_overlap=config.drop_overlap)
  notes += kept.notes
  if trained is not None:
    kinds = collections.Counter(report_card.kind(p.source) for p in trained)
    numbers = {f'train/{k}_share': n / len(trained) for k, n in kinds.items()}
  return HeldOut(kept.pairs, kept.counts, numbers, trained)


def _trained(
  there: Mapping[str, Any], source: Source | None = None
) -> list[Pair]:
  """What a run of that config was trained on; `source` is its own."""
  given = (source or _source_of(there)).pairs('train')
  return pm.training_pairs(ml_collections.ConfigDict(there), given)


def _overlap(held_out: HeldOut, ids: np.ndarray) -> dict[str, int]:
  """Test pairs of training conversations: `overlap/found` of all of them,
  `overlap/kept` of those that are scored; nothing where nobody knows."""
  if held_out.trained is None:
    return {}
  scored = [held_out.pairs[i] for i in ids]
  apart = examples.apart(scored, held_out.trained)
  return {
    'overlap/found': held_out.counts['in_training_conversations'],
    'overlap/kept': len(scored) - len(apart),
  }


def _source_of(there: Mapping[str, Any]) -> Source:
  """The data that the PM's run was given."""
  return sources.build(there['data']['name'], there['data']['options'])


def _ceiling(config: ml_collections.ConfigDict) -> dict[str, float]:
  """What config.rater_agreement says of the best possible accuracy."""
  if not config.rater_agreement:
    return {}
  low, high = preference.ceiling_bounds(config.rater_agreement)
  return {'ceiling/agreement': config.rater_agreement,
          'ceiling/low': low, 'ceiling/high': high}  # fmt: skip


def _invariance(
  config: ml_collections.ConfigDict,
  judge: Judge,
  pairs: Sequence[Pair],
  judged: Scores,
) -> dict[str, float]:
  """The same pairs in other rows, batches and orders: `invariance/...`."""
  last = judged.ids.size - 1
  some = np.unique(np.linspace(0, last, config.invariance_pairs).astype(int))
  same = [pairs[i] for i in judged.ids[some]]
  swapped = [
    dataclasses.replace(p, chosen=p.rejected, rejected=p.chosen) for p in same
  ]
  smallest = sharding.ways(judge.mesh)
  other = 2 * smallest if judge.batch_size == smallest else smallest
  variants = {
    'alone': dataclasses.replace(judge, max_pairs=1)(same).scores,
    'packed': judge(same).scores,
    'reordered': dataclasses.replace(judge, batch_size=other)(
      same[::-1]
    ).scores[::-1],
    'swapped': judge(swapped).scores[:, ::-1],
  }
  found = report_card.invariance(judged.scores[some], variants)
  return {f'invariance/{name}': value for name, value in found.items()}


def _incomplete(results: Sequence[Result]) -> list[str]:
  return [
    f'RewardBench’s {section} of {result.model} is left out: it lacks {n} of '
    f'{len(reward_bench.SECTIONS[section])} subsets.'
    for result in results
    for section, n in reward_bench.incomplete_sections(
      result.accuracies
    ).items()
  ]


def _own_accuracies(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Accuracy by source as RewardBench counts: a tie is no success."""
  wins = collections.defaultdict(list)
  for row in rows:
    wins[row['source']].append(row['score_chosen'] > row['score_rejected'])
  return {name: float(np.mean(values)) for name, values in wins.items()}


def _write(
  folder: pathlib.Path,
  findings: Findings,
  counts: Mapping[str, int],
  hhh: Sequence[Mapping[str, Any]],
) -> None:
  """Everything but the summary, which comes last: it marks the end."""
  plots = {
    name: figures.png(drawing)
    for name, drawing in pm_report_page.draw(findings).items()
  }
  (folder / 'plots').mkdir(exist_ok=True)
  for name, image in plots.items():
    workdir_lib.write_bytes(folder / 'plots' / f'{name}.png', image)
  page = pm_report_page.render(findings, plots)
  path = folder / 'report_card.html'
  workdir_lib.write_bytes(path, page.encode('utf-8'))
  results = [
    {'model': result.model, **reward_bench.section_scores(result.accuracies)}
    for result in findings.results
  ]
  curves = report_card.curves(findings.card) | {'reward_bench': results}
  workdir_lib.write_json(folder / 'curves.json', curves)
  workdir_lib.write_rows(folder / 'hhh.jsonl', hhh)
  ours = reward_bench.result_file(findings.results[0])
  workdir_lib.write_json(folder / 'rewardbench.json', ours)
  data = {'test': counts, 'left_out': findings.notes}
  workdir_lib.write_json(folder / 'data_report.json', data)
  workdir_lib.write_summary(folder, findings.numbers)
  print(path)
