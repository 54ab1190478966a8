"""Policies and best of n for Figs 4, 13, 33 and 36, once in one directory.

Beside the language models of experiments/sweep.py, WORKDIR holds

  pm/train_half/SIZE/seedN, pm/test_half/SIZE/seedN   halves of conversations
  ppo/own/SIZE/seedN          a policy against the training PM of its own size
  ppo/largest/SIZE/seedN      ... of the largest size (smaller policies alone)
  best_of_n/base/SIZE/seedN   the start of the policies, ranked by that PM
  judged/NAME/SIZE/by_PM_SIZE/seedN   replies by the test PM of any size

Every function returns the directory of a finished run, as sweep's do. Configs
are those of configs/policy_sweep.py. A seed decides which comparisons are
drawn and in which order, the order of prompts, what is sampled, and (with
config.language_models above 1) the language model; test prompts never change.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import json
import pathlib
from typing import Any

import numpy as np

from experiments import analysis, sweep
from hh_jax import metrics
from hh_jax import workdir as workdir_lib
from hh_jax.errors import InputError
from hh_jax.evals import frontier
from hh_jax.recipes import report_best_of
from hh_jax.recipes.report_best_of import BestOf

FILE = sweep.CONFIG.with_name('policy_sweep.py')
SERIES = report_best_of.SERIES  # as plots name them -> metric
FAILURE = 'failure.json'
main = functools.partial(sweep.main, file=FILE)
load = functools.partial(sweep.load, file=FILE)


def check(config: sweep.Config) -> None:
  """InputError for sizes or seeds of which no figure can be made."""
  if config.size not in config.sizes:
    raise InputError(
      f'config.size {config.size!r} is none of config.sizes {config.sizes}'
    )
  for name in ('num_seeds', 'language_models'):
    if config[name] < 1:
      raise InputError(f'config.{name} {config[name]} is not 1 or more')


def pm(
  config: sweep.Config, workdir: str, *, size: str, seed: int, half: str
) -> pathlib.Path:
  """The PM of a half: 'train' or 'test'."""
  part = ('train', 'test').index(half)
  return sweep.pm(
    config,
    workdir,
    size=size,
    seed=seed,
    name=f'{half}_half',
    part=part,
    num_parts=2,
  )


def _section(
  config: sweep.Config, workdir: str, stage: str, *, size: str, seed: int
) -> sweep.Config:
  section = config[stage].copy_and_resolve_references()
  section.seed = seed
  section.tokenizer = str(sweep.tokenizer(config, workdir))
  section.model.size = size
  return section


def ppo(
  config: sweep.Config,
  workdir: str,
  *,
  size: str,
  seed: int,
  pm_size: str | None = None,
) -> pathlib.Path:
  """A policy against the training PM of pm_size (None: its own size).

  A run that training itself refuses to continue (such as a loss that is not
  finite) is kept, with the reason in failure.json: it is counted, not hidden.
  """
  pm_size = pm_size or size
  section = _section(config, workdir, 'ppo', size=size, seed=seed)
  rate = config.rates[config.sizes.index(size)]
  section.optimizer.lr = config.ppo_rate * rate
  section.pm_model.size = pm_size
  section.init_from = str(sweep.pretrain(config, workdir, size=size, seed=seed))
  where = dict(size=pm_size, seed=seed)
  section.pm = str(pm(config, workdir, half='train', **where))
  section.heldout_pm = str(pm(config, workdir, half='test', **where))
  name = 'own' if pm_size == size else 'largest'
  path = sweep.place(workdir, 'ppo', name, size, seed)
  if (path / FAILURE).exists():
    return path
  try:
    return sweep.run_stage('ppo', section, path)
  except InputError as error:
    if not any(path.glob(metrics.METRICS)):
      raise  # it never began: a mistake, not a failure
    workdir_lib.write_json(path / FAILURE, {'error': str(error)})
    return path


def best_of_n(
  config: sweep.Config, workdir: str, *, size: str, seed: int
) -> pathlib.Path:
  """Best of n of the start of ppo/own, by the training PM of that size."""
  section = _section(config, workdir, 'best_of_n', size=size, seed=seed)
  section.pm_model.size = size
  section.run = str(sweep.pretrain(config, workdir, size=size, seed=seed))
  where = dict(size=size, seed=seed)
  section.pm = str(pm(config, workdir, half='train', **where))
  section.heldout_pm = str(pm(config, workdir, half='test', **where))
  path = sweep.place(workdir, 'best_of_n', 'base', size, seed)
  return sweep.run_stage('best_of_n', section, path)


def judged(
  config: sweep.Config,
  workdir: str,
  run: pathlib.Path,
  *,
  name: str,
  size: str,
  pm_size: str,
  seed: int,
) -> pathlib.Path:
  """Two replies of a run to each test prompt, by the test PM of pm_size."""
  section = _section(config, workdir, 'best_of_n', size=size, seed=seed)
  section.update(num_samples=2, ks=(1,), run=str(run))
  section.pm_model.size = pm_size
  section.pm = str(pm(config, workdir, size=pm_size, seed=seed, half='test'))
  path = sweep.place(workdir, 'judged', name, size, f'by_{pm_size}', seed)
  return sweep.run_stage('best_of_n', section, path)


def frontier_runs(config: sweep.Config, workdir: str) -> None:
  """What Figs 4, 13 and 36 read: a policy and best of n for every seed."""
  check(config)
  for seed in range(config.num_seeds):
    ppo(config, workdir, size=config.size, seed=seed)
    best_of_n(config, workdir, size=config.size, seed=seed)


@dataclasses.dataclass(frozen=True)
class Training:
  """The evaluations of one policy while it trained, [P] each."""

  path: pathlib.Path
  samples: np.ndarray  # replies trained on
  kl: np.ndarray  # exact, nats a reply
  gains: Mapping[str, np.ndarray]  # of SERIES, over the start
  errors: Mapping[str, np.ndarray]  # of the scores, over prompts
  failure: str | None  # why it counts as diverged

  @property
  def sqrt_kl(self) -> np.ndarray:
    return frontier.sqrt_kl(self.kl)

  @property
  def is_whole(self) -> bool:
    """Whether it trained to its end on finite numbers."""
    return self.failure in (None, BELOW_START)


BELOW_START = 'the held-out PM score ends below its start'


def read_training(path: str | pathlib.Path) -> Training:
  """A ppo run that has ended, or failed, from its JSON and JSONL."""
  path = pathlib.Path(path)
  config = workdir_lib.read_config(path)
  if config['recipe'] != 'ppo':
    raise InputError(f'{path} is a {config["recipe"]} run, not a ppo run')
  lines = metrics.read_metrics(path / metrics.METRICS)
  rows = [line for line in lines if 'eval/kl' in line]
  kl = np.array([row['eval/kl'] for row in rows])
  scores = {
    name: np.array([row[f'eval/{key}'] for row in rows])
    for name, key in SERIES.items()
    if rows and f'eval/{key}' in rows[0]
  }
  batch_size = config['config']['batch_size']
  gains = {name: values - values[0] for name, values in scores.items()}
  failure = _failure(path, config['config'], kl, gains)
  if failure in (None, BELOW_START) and len(rows) < 4:
    raise InputError(
      f'{path} has {len(rows)} evaluations: fits need the start and 3 more'
    )
  return Training(
    path=path,
    samples=batch_size * np.array([row['step'] for row in rows]),
    kl=kl,
    gains=gains,
    errors={
      name: np.array([row[f'eval/{SERIES[name]}_se'] for row in rows])
      for name in scores
    },
    failure=failure,
  )


def _failure(
  path: pathlib.Path, config: Mapping[str, Any], kl: np.ndarray, gains: Any
) -> str | None:
  """Why a run counts as diverged; None where it does not."""
  if (path / FAILURE).exists():
    return json.loads((path / FAILURE).read_text())['error']
  if not all(np.isfinite(x).all() for x in (kl, *gains.values())):
    return 'KL or scores are not finite'
  summary = workdir_lib.read_summary(path)
  if summary['train/iterations'] < config['num_iterations']:
    names = [key.partition('/')[2] for key in summary if 'alarms/' in key]
    return f'stopped by an alarm: {", ".join(names)}'
  if 'held-out PM' in gains and gains['held-out PM'][-1] < 0:
    return BELOW_START
  return None


def read_best_of(path: str | pathlib.Path) -> BestOf:
  """A finished best_of_n run with samples enough for fits."""
  best = report_best_of.read(path)
  if best.k.size < 4:
    raise InputError(f'{path}: fits need 4 samples a prompt')
  return best


@dataclasses.dataclass(frozen=True)
class Runs:
  """What Figs 4, 13 and 36 read: a policy and best of n for every seed."""

  seeds: tuple[int, ...]
  policies: tuple[Training, ...]  # those that trained to their end
  best_of: tuple[BestOf, ...]  # of the same seeds
  failures: Mapping[str, str]  # seed -> why it counts as diverged
  num_runs: int  # failed ones included

  @property
  def series(self) -> list[str]:
    """Names of SERIES that all runs have."""
    return [name for name in SERIES if name in self.policies[0].gains]


def read(workdir: str) -> Runs:
  """The runs of `frontier_runs` of the size that has most seeds."""
  root = pathlib.Path(workdir)
  by_size: dict[str, dict[int, Training]] = {}
  for path in sorted((root / 'ppo' / 'own').glob('*/seed*')):
    best = root / 'best_of_n' / 'base' / path.parent.name / path.name
    has_ended = workdir_lib.is_finished(path) or (path / FAILURE).exists()
    if has_ended and workdir_lib.is_finished(best):
      seed = int(path.name.removeprefix('seed'))
      by_size.setdefault(path.parent.name, {})[seed] = read_training(path)
  found = max(by_size.values(), key=len, default={})
  analysis.require(found, 'policies with best of n', workdir)
  size = next(iter(found.values())).path.parent.name
  best_of = {
    seed: read_best_of(root / 'best_of_n' / 'base' / size / f'seed{seed}')
    for seed in found
  }
  return gather(found, best_of)


def gather(
  policies: Mapping[int, Training], best_of: Mapping[int, BestOf]
) -> Runs:
  """By seed; InputError where no policy trained to its end."""
  whole = [seed for seed in sorted(policies) if policies[seed].is_whole]
  failures = {
    str(seed): run.failure
    for seed, run in sorted(policies.items())
    if run.failure is not None
  }
  if not whole:
    raise InputError(f'no policy trained to its end: {failures}')
  return Runs(
    seeds=tuple(whole),
    policies=tuple(policies[seed] for seed in whole),
    best_of=tuple(best_of[seed] for seed in whole),
    failures=failures,
    num_runs=len(policies),
  )


def no_failures(runs: Runs) -> dict[str, Any]:
  """The claim that no run diverges, with the count."""
  count = len(runs.failures)
  return {
    'claim': f'none of {runs.num_runs} policies diverges',
    'failures': count,
    'runs': runs.num_runs,
    'holds': count == 0,
    'because': '; '.join(f'seed {s}: {why}' for s, why in runs.failures.items())
    or 'KL and scores finite, no alarm, held-out score above its start',
  }


def stack(rows: Sequence[np.ndarray]) -> np.ndarray:
  """[seeds, P], of runs that were evaluated at the same points."""
  if len({row.shape for row in rows}) > 1:
    raise InputError('the seeds were not evaluated equally often')
  return np.stack(rows)
