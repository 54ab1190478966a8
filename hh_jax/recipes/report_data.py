"""The files of finished runs that the report reads, and curves from them.

P evaluations of the policy, in the order of training. Nothing is read but
JSON and JSONL, so the report can be redrawn anywhere.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib

import numpy as np

from hh_jax import workdir
from hh_jax.errors import InputError
from hh_jax.evals import frontier
from hh_jax.recipes import report_best_of
from hh_jax.recipes.report_best_of import BestOf

ROW_KEYS = (
  'source',
  'turns',
  'score_chosen',
  'score_rejected',
  'chosen_chars',
  'rejected_chars',
)
SCORES = {  # series -> its name in the summary, its metric
  'training PM': ('pm', 'eval/pm_score'),
  'held-out PM': ('heldout_pm', 'eval/heldout_pm_score'),
  'gold': ('gold', 'eval/gold_score'),
}


@dataclasses.dataclass(frozen=True)
class Runs:
  """Rows of the files of the runs; empty where an optional part is absent."""

  pretrain: list[dict]
  pm: list[dict]
  pm_pairs: list[dict]
  heldout_pairs: list[dict]
  ppo: list[dict]
  samples: list[dict]
  best_of: BestOf | None  # of the policy's start
  settings: dict[str, dict]  # config.json of each run
  summaries: dict[str, dict]


@dataclasses.dataclass(frozen=True)
class Evaluations:
  """The policy's evaluations on its fixed held-out prompts, [P] each."""

  steps: np.ndarray
  kl: np.ndarray  # nats a reply
  kl_se: np.ndarray | None
  sqrt_kl: np.ndarray
  scores: dict[str, np.ndarray]  # as written, by series
  score_se: dict[str, np.ndarray | None]

  def gain(self, name: str) -> np.ndarray:
    """Score minus the first evaluation's: what two PMs can be compared by."""
    return self.scores[name] - self.scores[name][0]


def finished_run(name: str, folder: str) -> pathlib.Path:
  """The run directory of config.<name>; InputError unless it is finished."""
  if not folder:
    raise InputError(f'config.{name} is empty: give a finished run directory')
  path = pathlib.Path(folder)
  if not path.is_dir():
    run, at, _ = folder.rpartition('@')
    if at and pathlib.Path(run).is_dir():
      raise InputError(
        f'config.{name} {folder}: a report is about runs, not about a '
        f'checkpoint of one: name {run}'
      )
    raise InputError(f'config.{name}: {path} is not a directory')
  if not workdir.is_finished(path):
    raise InputError(
      f'config.{name}: {path} has no summary.json: the run is not finished'
    )
  return path


def _optional(path: pathlib.Path, required: Sequence[str]) -> list[dict]:
  return workdir.read_rows(path, required) if path.is_file() else []


def _pairs(run: pathlib.Path) -> list[dict]:
  rows = workdir.read_rows(run / 'eval.jsonl', ROW_KEYS)
  if not rows:
    raise InputError(f'{run / "eval.jsonl"}: there are no held-out pairs')
  return rows


def _best_of(paths: Mapping[str, pathlib.Path]) -> BestOf | None:
  if 'best_of_n' not in paths:
    return None
  best_of = report_best_of.read(paths['best_of_n'])
  report_best_of.check_same(paths['ppo'], best_of.path)
  return best_of


def _check_pms(paths: Mapping[str, pathlib.Path]) -> None:
  """InputError for a PM that is not the one of that name of the policy's run.

  A run that has moved since cannot be compared, and is taken.
  """
  there = workdir.read_config(paths['ppo'])['config']
  for name in ('pm', 'heldout_pm'):
    named = there.get(name, '')
    run = pathlib.Path(named.rpartition('@')[0] or named)
    if not named or name not in paths or not run.is_dir():
      continue
    if run.resolve() != paths[name].resolve():
      raise InputError(
        f'config.{name} is {paths[name]}, that of {paths["ppo"]} is {named}'
      )


def load(folders: Mapping[str, str]) -> Runs:
  """Reads the runs {pretrain, pm, heldout_pm, ppo, best_of_n}; pretrain,
  heldout_pm and best_of_n may be ''. Raises InputError for a missing,
  unfinished or broken run, and for best of n or PMs of another policy."""
  optional = ('pretrain', 'heldout_pm', 'best_of_n')
  paths = {
    name: finished_run(name, folder)
    for name, folder in folders.items()
    if folder or name not in optional
  }
  _check_pms(paths)
  rows = {
    name: _optional(p / 'metrics.jsonl', ['step']) for name, p in paths.items()
  }
  pairs = {n: _pairs(paths[n]) for n in ('pm', 'heldout_pm') if n in paths}
  ppo = workdir.read_rows(paths['ppo'] / 'metrics.jsonl', ['step'])
  if not _evaluated(ppo):
    raise InputError(
      f'{paths["ppo"] / "metrics.jsonl"}: no evaluation line '
      '(one with eval/kl and eval/pm_score)'
    )
  return Runs(
    pretrain=rows.get('pretrain', []),
    pm=rows['pm'],
    pm_pairs=pairs['pm'],
    heldout_pairs=pairs.get('heldout_pm', []),
    ppo=ppo,
    samples=_optional(paths['ppo'] / 'samples.jsonl', ['step', 'index']),
    best_of=_best_of(paths),
    settings={n: workdir.read_config(p) for n, p in paths.items()},
    summaries={n: workdir.read_summary(p) for n, p in paths.items()},
  )


def number(row: Mapping, key: str) -> float | None:
  """row[key] as a finite float, else None."""
  value = row.get(key)
  is_number = isinstance(value, int | float) and math.isfinite(value)
  return float(value) if is_number else None


def curve(
  rows: Sequence[Mapping], y: str, x: str = 'step'
) -> tuple[np.ndarray, np.ndarray]:
  """The points that have both x and y, by rising x; a later line wins."""
  points = {
    number(r, x): number(r, y) for r in rows if number(r, y) is not None
  }
  points = sorted((a, b) for a, b in points.items() if a is not None)
  table = np.array(points, np.float64).reshape(-1, 2)
  return table[:, 0], table[:, 1]


def accuracy_curve(
  rows: Sequence[Mapping], name: str
) -> tuple[np.ndarray, np.ndarray]:
  """Accuracy `name` against pairs seen (> 0), where the file tells both."""
  steps, accuracy = curve(rows, name)
  known_steps, known_pairs = curve(rows, 'train/pairs')
  if not steps.size or not known_steps.size:
    return np.empty(0), np.empty(0)
  pairs = np.interp(steps, known_steps, known_pairs)
  return pairs[pairs > 0], accuracy[pairs > 0]


def _evaluated(rows: Sequence[Mapping]) -> list[Mapping]:
  keys = ('step', 'eval/kl', 'eval/pm_score')
  by_step = {
    row['step']: row
    for row in rows
    if None not in [number(row, key) for key in keys]
  }
  return [by_step[step] for step in sorted(by_step)]


def _column(rows: Sequence[Mapping], key: str) -> np.ndarray | None:
  """The metric of every row [P], or None unless every row has it."""
  values = [number(row, key) for row in rows]
  return None if None in values else np.array(values)


def evaluations(rows: Sequence[Mapping]) -> Evaluations:
  """The evaluation lines of a PPO run."""
  rows = _evaluated(rows)
  kl = _column(rows, 'eval/kl')
  scores = {name: _column(rows, key) for name, (_, key) in SCORES.items()}
  scores = {name: y for name, y in scores.items() if y is not None}
  return Evaluations(
    steps=np.array([row['step'] for row in rows]),
    kl=kl,
    kl_se=_column(rows, 'eval/kl_se'),
    sqrt_kl=frontier.sqrt_kl(kl),
    scores=scores,
    score_se={name: _column(rows, f'{SCORES[name][1]}_se') for name in scores},
  )
