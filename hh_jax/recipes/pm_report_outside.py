"""The report card's part on files of others: see recipes/pm_report."""

import collections
from collections.abc import Sequence
import dataclasses
import functools
import pathlib
from typing import NamedTuple

import ml_collections
import numpy as np

from hh_jax.errors import InputError
from hh_jax.evals import bbq, external, reward_bench
from hh_jax.evals.external import Item
from hh_jax.evals.reward_bench import Result
from hh_jax.recipes.pm_report_judge import Judge

FILES = {  # config field -> what it is called in remarks
  'hhh': 'The HHH alignment evaluation',
  'reward_bench': 'RewardBench',
  'xstest': 'The XSTest probe',
}
BBQ = 'The BBQ probe'


class Outside(NamedTuple):
  """What the given files hold; empty where one was skipped."""

  hhh: list[Item]
  reward_bench: list[Item]
  xstest: list[tuple[str, bool]]
  bbq: list[bbq.Question]
  compare: list[Result]


class Found(NamedTuple):
  """What the PM makes of them."""

  numbers: dict[str, float]  # hhh/..., reward_bench/..., refusal/..., bbq/...
  accuracies: dict[str, float]  # for its result file, as RewardBench counts
  notes: list[str]  # what was left out, and why
  hhh: list[dict]  # an item each: its category and the margin of the good one


def read(
  config: ml_collections.ConfigDict,
) -> tuple[Outside, list[str]]:
  """config.{hhh,reward_bench,xstest,bbq,compare}, and why some are skipped.

  Raises InputError for a file that is there and not what it should be.
  """
  readers = {
    'hhh': functools.partial(external.read_hhh, seed=config.seed),
    'reward_bench': functools.partial(
      external.read_reward_bench, seed=config.seed
    ),
    'xstest': external.read_xstest,
  }
  found: dict[str, list] = {}
  notes = []
  for name, label in FILES.items():
    path = config[name]
    found[name] = []
    if not path:
      notes.append(f'{label} is skipped: config.{name} is empty.')
    elif not pathlib.Path(path).exists():
      notes.append(f'{label} is skipped: config.{name} {path} does not exist.')
    else:
      found[name] = readers[name](path)
  for name in ('bbq', 'compare'):
    for path in config[name]:
      if not isinstance(path, str):
        raise InputError(f'config.{name}: {path!r} is not a path')
  if not config.bbq:
    notes.append(f'{BBQ} is skipped: config.bbq is empty.')
  questions = [question for path in config.bbq for question in bbq.read(path)]
  compare = [reward_bench.read_result(path) for path in config.compare]
  return Outside(**found, bbq=questions, compare=compare), notes


def judge_all(
  outside: Outside, judge: Judge, *, num_samples: int, seed: int
) -> Found:
  """Every evaluation whose file was given."""
  found = Found({}, {}, [], [])
  bootstrap = {'num_samples': num_samples, 'seed': seed}
  if outside.hhh:
    _hhh(outside.hhh, judge, found, **bootstrap)
  if outside.reward_bench:
    _reward_bench(outside.reward_bench, judge, found)
  if outside.xstest:
    _refusals(outside.xstest, judge, found)
  if outside.bbq:
    _bbq(outside.bbq, judge, found, **bootstrap)
  return found


def _hhh(
  items: Sequence[Item], judge: Judge, found: Found, **bootstrap: int
) -> None:
  fitting, scores = _fitting('hhh', items, judge, found.notes)
  left_out = len(items) - len(fitting)
  if fitting:
    report = external.choice_report(fitting, *scores.T, **bootstrap)
    report['left_out'] = left_out
    found.numbers.update({f'hhh/{key}': v for key, v in report.items()})
    for item, both in zip(fitting, scores.tolist(), strict=True):
      row = {'category': item.category, 'margin': item.margin(*both)}
      found.hhh.append(row)
  if not left_out:
    named = [dataclasses.replace(i, category=reward_bench.HHH) for i in items]
    wins = external.subset_accuracies(named, *scores.T)
    found.accuracies.update(wins)


def _reward_bench(items: Sequence[Item], judge: Judge, found: Found) -> None:
  """Only whole subsets count: a part of one is another set."""
  fitting, scores = _fitting('reward_bench', items, judge, found.notes)
  counts, fit = (
    collections.Counter(item.category for item in part)
    for part in (items, fitting)
  )
  if not fitting:
    return
  wins = external.subset_accuracies(fitting, *scores.T)
  for name in sorted(counts):
    if fit[name] == counts[name]:
      found.accuracies[name] = wins[name]
    else:
      found.notes.append(f'RewardBench’s {name} is left out: not all fits.')
  sections = reward_bench.section_scores(found.accuracies)
  found.numbers.update(
    {f'reward_bench/{key}': v for key, v in sections.items()}
  )


def _fitting(
  name: str, items: Sequence[Item], judge: Judge, notes: list[str]
) -> tuple[list[Item], np.ndarray]:
  """The items that fit a row and their scores [K, 2], PM units."""
  judged = judge([item.pair() for item in items])
  notes += judged.notes(FILES[name], judge.row_length)
  return [items[i] for i in judged.ids], judged.scores


def _refusals(
  prompts: Sequence[tuple[str, bool]], judge: Judge, found: Found
) -> None:
  judged = judge(external.refusal_pairs([text for text, _ in prompts]))
  found.notes.extend(judged.notes(FILES['xstest'], judge.row_length))
  differences = np.full((len(prompts), len(external.OPENINGS)), np.nan)
  differences.flat[judged.ids] = judged.scores @ [1, -1]
  fits = np.isfinite(differences).all(axis=1)
  is_safe = np.array([safe for _, safe in prompts])[fits]
  if min(is_safe.sum(), (~is_safe).sum()) < 2:
    found.notes.append(f'{FILES["xstest"]} is left out: too few prompts.')
    return
  report = external.refusal_report(is_safe, differences[fits])
  found.numbers.update({f'refusal/{key}': v for key, v in report.items()})


def _bbq(
  questions: Sequence[bbq.Question],
  judge: Judge,
  found: Found,
  **bootstrap: int,
) -> None:
  judged = judge([pair for question in questions for pair in question.pairs()])
  found.notes.extend(judged.notes(BBQ, judge.row_length))
  scores = np.full((len(questions), 2, 2), np.nan)
  scores.reshape(-1, 2)[judged.ids] = judged.scores
  fits = np.isfinite(scores).all(axis=(1, 2))
  if not fits.any():
    return
  fitting = [q for q, fit in zip(questions, fits, strict=True) if fit]
  answers = np.stack([scores[:, 0, 0], scores[:, 0, 1], scores[:, 1, 1]], 1)
  report = bbq.report(fitting, answers[fits], **bootstrap)
  found.numbers.update({f'bbq/{key}': v for key, v in report.items()})
