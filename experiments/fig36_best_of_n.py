"""Bai et al. 2022, Fig 36: best of k = 1, 4, 16, 64 against a policy.

Claim: ranking k samples of the start with the PM helps the more the larger k
is, and a policy trained against the same PM is about as good as k = 64 or
better (B.6; Elo by crowd workers).
Command: python -m experiments.fig36_best_of_n --workdir=runs/policy_sweep \\
  [--scale=cpu]
Cost: none after Fig 13, whose runs these are.
Expect: the first half for the PM that ranks, nearly by construction (it ranks
less PPO's penalty for replies that are cut); for others it is a finding. Judges
here are PMs and gold, no people; 1 PM unit would be 174 Elo (400 / ln 10) if PM
scores were right. The best-of-n estimates of one seed share samples; errors are
over seeds.
"""

from itertools import pairwise
from typing import Any

import numpy as np

from experiments import analysis, policy_runs
from experiments.policy_runs import Runs
from hh_jax.evals import figures

KS = (1, 4, 16, 64)
ELO = 400 / np.log(10)  # a PM unit (Bai et al. 2022, eq 2.1)
run = policy_runs.frontier_runs


def gains(runs: Runs, name: str) -> dict[int, np.ndarray]:
  """k -> gain of best of k over the start, [seeds]."""
  largest = min(int(best.k[-1]) for best in runs.best_of)
  return {
    k: np.array([best.gains[name][k - 1] for best in runs.best_of])
    for k in KS
    if k <= largest
  }


def last(runs: Runs, name: str) -> np.ndarray:
  """Gain of the policy at the end of training, [seeds]."""
  return np.array([policy.gains[name][-1] for policy in runs.policies])


def claims(runs: Runs) -> list[dict]:
  """Verdicts over seeds."""
  out = [policy_runs.no_failures(runs)]
  for name in runs.series:
    found = gains(runs, name)
    out += [
      analysis.claim(
        f'{name}: best of {b} is above best of {a}', found[b] - found[a]
      )  # fmt: skip
      for a, b in pairwise(found)
    ]
    k = max(found)
    out.append(
      analysis.claim(
        f'{name}: the policy is above best of {k}',
        last(runs, name) - found[k],
        paper='equal or above, k = 64 (Elo)',
      )
    )
  return out


def plot(workdir: str) -> dict:
  """Writes fig36.png and fig36.json: gains by k, the policy's, verdicts."""
  runs = policy_runs.read(workdir)
  best = runs.best_of[0]
  ends = {
    'gain': {name: last(runs, name) for name in runs.series},
    'sqrt_kl': np.array([policy.sqrt_kl[-1] for policy in runs.policies]),
  }
  summary: dict[str, Any] = {
    'runs': runs.num_runs,
    'diverged': runs.failures,
    'elo_per_pm_unit': ELO,
    'kl': {str(k): float(best.kl[k - 1]) for k in gains(runs, runs.series[0])},
    'log_k': {str(k): float(np.log(k)) for k in gains(runs, runs.series[0])},
    'best_of_n': {
      name: analysis.reports(gains(runs, name)) for name in runs.series
    },
    'policy': analysis.reports(ends),
    'claims': claims(runs),
  }
  return analysis.write(workdir, 'fig36', summary, draw(runs))


def draw(runs: Runs):
  """Gain against k by score; the policy's as a line with a band."""
  drawing, axes = analysis.axes(*runs.series)
  for ax, name in zip(axes, runs.series, strict=True):
    color, marker = figures.LOOKS[name]
    found = gains(runs, name)
    analysis.draw_estimates(
      ax,
      list(found),
      [analysis.estimate(values) for values in found.values()],
      color=color,
      marker=marker,
      label='best of k',
    )
    end = analysis.estimate(last(runs, name))
    ax.axhline(end.mean, color=figures.INK, lw=1.2, ls='--', label='PPO')
    if end.se is not None:
      ax.axhspan(end.mean - end.se, end.mean + end.se, color=figures.INK,
                 alpha=0.12, lw=0)  # fmt: skip
    ax.set_xscale('log', base=2)
    ax.set_xticks(list(found), [str(k) for k in found])
    ax.axhline(0, color=figures.FAINT, lw=0.8, zorder=0)
    ax.set_xlabel('k')
    ax.legend(frameon=False, fontsize=8)
  axes[0].set_ylabel('Gain over the start (bars: 1 s.e.)')
  return drawing


if __name__ == '__main__':
  policy_runs.main(__doc__, run, plot)
