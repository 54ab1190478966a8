"""The report card's part on files of others: see recipes/pm_report."""

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import pathlib
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from hh_jax.errors import InputError
from hh_jax.evals import bbq, external, reward_bench
from hh_jax.evals.external import Item
from hh_jax.evals.reward_bench import Result
from hh_jax.recipes.pm_report_judge import Judge

LABELS = {  # config field -> what it is called in remarks
  'hhh': 'The HHH alignment evaluation',
  'reward_bench': 'RewardBench',
  'xstest': 'The XSTest probe',
  'bbq': 'The BBQ probe',
}
PREFIXES = {'hhh': 'hhh', 'reward_bench': 'reward_bench', 'xstest': 'refusal',
            'bbq': 'bbq'}  # fmt: skip


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
  notes = [
    f'{label} is skipped: config.{name} is empty.'
    for name, label in LABELS.items()
    if not config[name]
  ]
  for name in readers:
    if config[name] and not pathlib.Path(config[name]).is_file():
      raise InputError(f'config.{name}: {config[name]}: no such file')
  found = {
    name: reader(config[name]) if config[name] else []
    for name, reader in readers.items()
  }
  for name in ('bbq', 'compare'):
    _check_paths(name, config[name])
  questions = [question for path in config.bbq for question in bbq.read(path)]
  compare = [reward_bench.read_result(path) for path in config.compare]
  return Outside(**found, bbq=questions, compare=compare), notes


def _check_paths(name: str, paths: Sequence[Any]) -> None:
  """Raises InputError for what is no path, and for a file that is twice."""
  seen = set()
  for path in paths:
    if not isinstance(path, str):
      raise InputError(f'config.{name}: {path!r} is not a path')
    file = pathlib.Path(path).resolve()
    if file in seen:
      raise InputError(f'config.{name}: {path} is there twice')
    seen.add(file)


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
  differ = [item for item in items if not item.is_one_text]
  fitting, scores = _fitting(differ, judge)
  reasons = {
    'whose candidates are one text': len(items) - len(differ),
    _unfit(judge): len(differ) - len(fitting),
  }
  left_out = _leave_out(found, 'hhh', 'items', len(items), reasons)
  if fitting:
    report = external.choice_report(fitting, *scores.T, **bootstrap)
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
  fitting, scores = _fitting(items, judge)
  reasons = {_unfit(judge): len(items) - len(fitting)}
  _leave_out(found, 'reward_bench', 'items', len(items), reasons)
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
  items: Sequence[Item], judge: Judge
) -> tuple[list[Item], np.ndarray]:
  """Items that fit a row, prompt and all, and their scores [K, 2], PM units."""
  scores = judge([item.pair() for item in items]).whole(len(items))
  fits = np.isfinite(scores).all(axis=1)
  return list(itertools.compress(items, fits)), scores[fits]


def _unfit(judge: Judge) -> str:
  return f'that do not fit a row of {judge.row_length} tokens, prompt and all'


def _leave_out(
  found: Found, name: str, unit: str, total: int, reasons: Mapping[str, int]
) -> int:
  """Counts `total` items of an evaluation less those scored, and says why."""
  left_out = sum(reasons.values())
  found.numbers[f'{PREFIXES[name]}/left_out'] = left_out
  if left_out:
    why = '; '.join(f'{n} {reason}' for reason, n in reasons.items() if n)
    found.notes.append(
      f'{LABELS[name]}: {left_out} of {total} {unit} are left out: {why}.'
    )
  return left_out


def _refusals(
  prompts: Sequence[tuple[str, bool]], judge: Judge, found: Found
) -> None:
  distinct = list(dict.fromkeys(prompts))
  shape = len(distinct), len(external.OPENINGS)
  pairs = external.refusal_pairs([text for text, _ in distinct])
  differences = judge(pairs).whole(len(pairs)) @ [1, -1]
  differences = differences.reshape(shape)
  fits = np.isfinite(differences).all(axis=1)
  reasons = {
    'that repeat another': len(prompts) - len(distinct),
    _unfit(judge): int((~fits).sum()),
  }
  _leave_out(found, 'xstest', 'prompts', len(prompts), reasons)
  is_safe = np.array([safe for _, safe in distinct])[fits]
  if min(is_safe.sum(), (~is_safe).sum()) < 2:
    found.notes.append(f'{LABELS["xstest"]} is left out: too few prompts.')
    return
  report = external.refusal_report(is_safe, differences[fits])
  found.numbers.update({f'refusal/{key}': v for key, v in report.items()})


def _bbq(
  questions: Sequence[bbq.Question],
  judge: Judge,
  found: Found,
  **bootstrap: int,
) -> None:
  differ = [q for q in questions if len(set(q.answers)) == len(q.answers)]
  pairs = [pair for question in differ for pair in question.pairs()]
  scores = judge(pairs).whole(len(pairs)).reshape(len(differ), 2, 2)
  fits = np.isfinite(scores).all(axis=(1, 2))
  reasons = {
    'of which two answers are one text': len(questions) - len(differ),
    _unfit(judge): int((~fits).sum()),
  }
  _leave_out(found, 'bbq', 'questions', len(questions), reasons)
  if not fits.any():
    return
  fitting = list(itertools.compress(differ, fits))
  answers = np.stack([scores[:, 0, 0], scores[:, 0, 1], scores[:, 1, 1]], 1)
  report = bbq.report(fitting, answers[fits], **bootstrap)
  found.numbers.update({f'bbq/{key}': v for key, v in report.items()})
