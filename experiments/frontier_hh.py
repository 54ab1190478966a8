"""Reward against sqrt(KL) of finished runs: policies, and best of n.

For runs that no sweep made, such as one large one on real prompts: the scores
of the training PM and of the held-out PM with a line each, their errors, where
the two part, and best of n of the same start on the same axes.
Command: python -m experiments.frontier_hh --workdir=runs/frontier \\
  --ppo RUN [RUN ...] --best_of_n RUN [RUN ...]
Cost: none; one best_of_n run a policy, of its start, PMs and sampling.
Expect: see experiments/fig13_reward_vs_sqrt_kl.py, whose fits these are.
Errors: of a line from its residuals (points of one run are not independent:
read them as lower bounds); of a `chord`, last gain over last sqrt(KL), over
prompts; over runs where there are several. The two PMs' errors at an
evaluation count as independent though both read the same replies: where they
part is found late rather than early.
"""

import argparse
from collections.abc import Sequence
import json
import pathlib
import sys
from typing import Any

import numpy as np

from experiments import analysis, policy_runs
from experiments import fig13_reward_vs_sqrt_kl as fig13
from experiments.policy_runs import Training
from hh_jax.errors import InputError
from hh_jax.evals import figures, frontier
from hh_jax.evals.figures import Series
from hh_jax.recipes import report_best_of

NUM_RESAMPLES = 2000


def chords(path: pathlib.Path) -> dict[str, dict[str, float]]:
  """Last gain over last sqrt(KL) by score, with errors over prompts."""
  start, last = (
    np.load(path / f'eval_{name}.npz') for name in ('start', 'last')
  )
  kl = last['kl'].mean(axis=1)
  rng = np.random.default_rng(0)
  index = rng.integers(kl.size, size=(NUM_RESAMPLES, kl.size))
  moved = frontier.sqrt_kl(kl[index].mean(axis=1))
  if kl.mean() <= 0 or (moved <= 0).any():
    return {}
  out = {}
  for name, key in policy_runs.SERIES.items():
    if key not in last.files:
      continue
    gain = (last[key] - start[key]).mean(axis=1)
    out[name] = {
      'chord': gain.mean() / np.sqrt(kl.mean()),
      'chord_se': (gain[index].mean(axis=1) / moved).std(ddof=1),
      'gain': gain.mean(),
      'gain_se': gain.std(ddof=1) / np.sqrt(gain.size),
    }
  return out


def part(policy: Training) -> dict[str, Any]:
  """The first evaluation from which the PMs differ by 2 standard errors."""
  train, test, *_ = policy_runs.SERIES
  if test not in policy.gains:
    return {'evaluation': None, 'because': 'there is no held-out PM'}
  gap = policy.gains[train] - policy.gains[test]
  error = np.hypot(policy.errors[train], policy.errors[test])
  index = frontier.parting(gap, error)
  numbers = {'last_gap': gap[-1], 'last_gap_se': error[-1]}
  if index is None:
    because = 'the last gap is within 2 standard errors'
    return {'evaluation': None, 'because': because} | numbers
  return {
    'evaluation': index,
    'samples': int(policy.samples[index]),
    'sqrt_kl': policy.sqrt_kl[index],
    'because': 'from here on above 2 standard errors',
  } | numbers


def summarise(runs: policy_runs.Runs) -> dict[str, Any]:
  """fig13's report, and chords and partings run by run."""
  out = fig13.report(runs)
  out['by_run'] = {
    str(policy.path): {
      'best_of_n': str(best.path),
      'samples': policy.samples.tolist(),
      'kl': policy.kl.tolist(),
      'gains': {k: v.tolist() for k, v in policy.gains.items()},
      'score_se': {k: v.tolist() for k, v in policy.errors.items()},
      'chords': chords(policy.path),
      'part': part(policy),
    }
    for policy, best in zip(runs.policies, runs.best_of, strict=True)
  }
  return out


def read(ppo: Sequence[str], best_of_n: Sequence[str]) -> policy_runs.Runs:
  """The runs, numbered in the order given."""
  if len(ppo) != len(best_of_n):
    raise InputError(
      f'{len(ppo)} ppo runs and {len(best_of_n)} best_of_n runs: one each'
    )
  policies = list(map(policy_runs.read_training, ppo))
  best_of = list(map(policy_runs.read_best_of, best_of_n))
  for policy, best in zip(policies, best_of, strict=True):
    report_best_of.check_same(policy.path, best.path)
  return policy_runs.gather(dict(enumerate(policies)), dict(enumerate(best_of)))


def draw(runs: policy_runs.Runs, summary: dict[str, Any]):
  """Both PMs in one plane (gold in its own): points, lines, best of n."""
  groups = [
    [name for name in runs.series if name != 'gold'],
    [name for name in runs.series if name == 'gold'],
  ]
  groups = [group for group in groups if group]
  drawing, axes = analysis.axes(*('' for _ in groups), width=6, height=4.4)
  for ax, group in zip(axes, groups, strict=True):
    for name in group:
      for i, policy in enumerate(runs.policies):
        _draw_policy(ax, policy, name, summary, is_first=i == 0)
      best = runs.best_of[0]
      figures.best_of_curve(
        ax, Series(name, best.sqrt_kl, best.gains[name], best.errors[name])
      )
    ax.axhline(0, color=figures.FAINT, lw=0.8, zorder=0)
    ax.set_xlabel('√KL(policy ‖ start), √nats')
    ax.set_ylabel('Gain over the start (score units)')
    ax.legend(frameon=False, fontsize=8)
  return drawing


def _draw_policy(
  ax, policy: Training, name: str, summary: dict[str, Any], *, is_first: bool
) -> None:
  """Points with errors of the scores over prompts; a line, 2 s.e. around it."""
  color, marker = figures.LOOKS[name]
  x, y = policy.sqrt_kl, policy.gains[name]
  fit = frontier.fit_line(x, y)
  fits = summary['fits'][name]
  se = fits['slope']['se']
  error = f'{fit.slope_se:.2g}' if se is None else f'{se:.2g} over runs'
  label = f'PPO, {name}: slope {fits["slope"]["mean"]:.3g} ± {error}'
  ax.errorbar(x, y, policy.errors[name], color=color, fmt=marker, ms=4, lw=0.8,
              capsize=2)  # fmt: skip
  line = np.linspace(0, x.max(), 100)
  centre, band = fit.predict(line), 2 * fit.standard_error(line)
  ax.plot(line, centre, color=color, lw=1.2, label=label if is_first else None)
  ax.fill_between(line, centre - band, centre + band, color=color, alpha=0.12,
                  lw=0)  # fmt: skip


def run(workdir: str, ppo: Sequence[str], best_of_n: Sequence[str]) -> dict:
  """Writes frontier_hh.png and frontier_hh.json."""
  runs = read(ppo, best_of_n)
  summary = summarise(runs)
  pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
  return analysis.write(workdir, 'frontier_hh', summary, draw(runs, summary))


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--workdir', required=True)
  parser.add_argument('--ppo', nargs='+', required=True)
  parser.add_argument('--best_of_n', nargs='+', required=True)
  args = parser.parse_args(argv)
  try:
    print(json.dumps(run(args.workdir, args.ppo, args.best_of_n), indent=1))
  except InputError as error:
    print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
  main()
