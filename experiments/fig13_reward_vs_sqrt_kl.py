"""Bai et al. 2022, Fig 13: reward against sqrt(KL), with best of n.

Claims: the PM score of a policy rises linearly in sqrt(KL(policy || start))
(4.3; .25 PM units a root nat in Fig 4), at most by sqrt(2) times the score's
deviation within a prompt (what tilting by Gaussian scores gains); best of n,
which ranks by PPO's reward before KL, gains more at the same KL (Gao et al.
2022).
Command: python -m experiments.fig13_reward_vs_sqrt_kl \\
  --workdir=runs/policy_sweep [--scale=cpu]
Cost: at scale cpu about 3 minutes a seed on two CPU cores; Figs 4 and 36 read
these runs.
Expect: a slope below the bound, and best of n between policy and bound. The
gold world's numbers are a simulator's: --scale=cpu_hh has real comparisons, and
no gold score. Seeds change comparisons, networks and samples; a run that
diverges is counted and left out of the fits, one that ends below its start is
counted and kept.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments import analysis, policy_runs
from experiments.policy_runs import BestOf, Runs, Training
from hh_jax.evals import figures, frontier, overoptimisation

PAPER = '.25 (Fig 4: 52B, HH-RLHF)'
STRAIGHT = 0.3  # our choice: slopes of both halves within 30 %
NEAR = 1.0  # our choice: up to which sqrt(KL) a slope is that at 0
run = policy_runs.frontier_runs


def lines(policy: Training, best: BestOf, name: str) -> dict[str, Any]:
  """Every fit of one seed and score: line, Gao's forms, efficiency."""
  x, y = policy.sqrt_kl, policy.gains[name]
  fit = frontier.fit_line(x, y)
  out = {
    'slope': fit.slope,
    'slope_se': fit.slope_se,
    'intercept': fit.intercept,
    'r_squared': fit.r_squared,
    'residual_rms': fit.residual_rms,
    'gain': y[-1],
    'sqrt_kl': x[-1],
    'rl': overoptimisation.fit_bend(x, y, form='rl').report(),
    'best_of_n': overoptimisation.fit_bend(
      best.sqrt_kl, best.gains[name], form='best_of_n'
    ).report(),
    'best_of_n_gain': best.gains[name][-1],
    'best_of_n_lead': lead(policy, best, name),
  }
  if len(x) >= 5:
    out['slope_ratio'] = _ratio(x, y)
  if name == 'training PM':
    std, std_se = best.std
    out['efficiency'] = frontier.efficiency(fit.slope, std)
    out['efficiency_se'] = frontier.efficiency_se(
      fit.slope, fit.slope_se, std, std_se
    )
    near = (x > 0) & (x <= NEAR)
    if near.any():  # the bound is one on the slope at 0
      slope = x[near] @ y[near] / (x[near] @ x[near])
      out['efficiency_near_0'] = frontier.efficiency(slope, std)
    out['within_prompt_std'], out['within_prompt_std_se'] = std, std_se
  return out


def _ratio(x: np.ndarray, y: np.ndarray) -> float | None:
  """Slope of the upper half over that of the lower; None where none exists."""
  try:
    return frontier.slope_ratio(x, y)
  except ValueError:  # a half at one KL, or flat
    return None


def lead(policy: Training, best: BestOf, name: str) -> float | None:
  """Best of n's gain less the policy's, at the largest KL that both have.

  Linear between the points of each curve; None where the policy has no KL.
  """
  where = min(policy.sqrt_kl.max(), best.sqrt_kl.max())
  if where <= 0:
    return None
  mine = frontier.interpolate(policy.sqrt_kl, policy.gains[name], where)
  theirs = frontier.interpolate(best.sqrt_kl, best.gains[name], where)
  return theirs - mine


def by_seed(runs: Runs) -> dict[str, dict[int, dict[str, Any]]]:
  """series -> seed -> `lines`."""
  triples = list(zip(runs.seeds, runs.policies, runs.best_of, strict=True))
  return {
    name: {seed: lines(policy, best, name) for seed, policy, best in triples}
    for name in runs.series
  }


def over_seeds(fits: dict[int, dict[str, Any]]) -> dict[str, Any]:
  """Estimates of each number that all seeds have, and of Gao's a and b."""
  rows = list(fits.values())
  out = {
    key: analysis.estimate([row[key] for row in rows]).report()
    for key in rows[0]
    if all(isinstance(row[key], float) for row in rows)
    and not key.endswith('_se')
  }
  for form in overoptimisation.FORMS:
    out[form] = {
      key: analysis.estimate([row[form][key] for row in rows]).report()
      for key in ('a', 'b')
    }
    out[form]['seeds_with_a_bend'] = sum(row[form]['is_bent'] for row in rows)
  return out


def claims(runs: Runs, found: dict[str, dict[int, dict]]) -> list[dict]:
  """Verdicts over seeds."""

  def column(name: str, key: str) -> list[float] | None:
    values = [fit[key] for fit in found[name].values() if key in fit]
    whole = len(values) == len(found[name]) and None not in values
    return values if whole else None

  out = [policy_runs.no_failures(runs)]

  def add(text: str, values, fn: Callable, **more: Any) -> None:
    if values is not None:
      values = [fn(value) for value in values]
      out.append(analysis.claim(text, values, **more))

  for name in found:
    add(
      f'{name}: the score rises with sqrt(KL)',
      column(name, 'slope'),
      float,
      paper=PAPER if name == 'training PM' else None,
    )
    add(
      f'{name}: a line (slopes of both halves within {STRAIGHT:.0%})',
      column(name, 'slope_ratio'),
      lambda ratio: STRAIGHT - abs(ratio - 1),
    )
    add(
      f'{name}: best of n gains more than the policy at the same KL',
      column(name, 'best_of_n_lead'),
      float,
    )
  for key, where in (
    ('efficiency', 'over all'),
    ('efficiency_near_0', f'through 0 up to sqrt(KL) {NEAR:g}'),
  ):
    add(
      f'training PM: the slope {where} is below sqrt(2) deviations within '
      'prompts',
      column('training PM', key),
      lambda ratio: 1 - ratio,
    )
  return out


def report(runs: Runs) -> dict[str, Any]:
  """Fits by seed and over seeds, verdicts, and the points that are drawn."""
  found = by_seed(runs)
  return {
    'runs': runs.num_runs,
    'diverged': runs.failures,
    'fits': {name: over_seeds(fits) for name, fits in found.items()},
    'fits_by_seed': {
      name: {str(seed): fit for seed, fit in fits.items()}
      for name, fits in found.items()
    },
    'claims': claims(runs, found),
  }


def plot(workdir: str) -> dict:
  """Writes fig13.png and fig13.json: fits, efficiency, verdicts."""
  runs = policy_runs.read(workdir)
  summary = report(runs)
  return analysis.write(workdir, 'fig13', summary, draw(runs, summary))


def draw(runs: Runs, summary: dict[str, Any]):
  """An axes a score: policies, best of n, their mean lines and the bound."""
  drawing, axes = analysis.axes(*runs.series)
  for ax, name in zip(axes, runs.series, strict=True):
    color, marker = figures.LOOKS[name]
    for i, policy in enumerate(runs.policies):
      label = f'PPO, {len(runs.policies)} seeds' if i == 0 else None
      y = policy.gains[name]
      ax.plot(policy.sqrt_kl, y, marker, ms=3, color=color, alpha=0.6,
              label=label)  # fmt: skip
    _draw_best_of(ax, runs, name)
    fit = summary['fits'][name]
    end = max(policy.sqrt_kl.max() for policy in runs.policies)
    x = np.linspace(0, end, 50)
    slope = fit['slope']['mean']
    ax.plot(x, fit['intercept']['mean'] + slope * x, color=color, lw=1.3,
            label=f'slope {_pm(fit["slope"])}')  # fmt: skip
    if name == 'training PM':
      bound = 2**0.5 * fit['within_prompt_std']['mean']
      near = x[x <= max(1.0, max(best.sqrt_kl[-1] for best in runs.best_of))]
      ax.plot(near, bound * near, color=figures.MUTED, lw=1, ls=':',
              label=f'√2 std = {bound:.3g}')  # fmt: skip
    ax.axhline(0, color=figures.FAINT, lw=0.8, zorder=0)
    ax.set_xlabel('√KL(policy ‖ start), √nats')
    ax.legend(frameon=False, fontsize=8)
  axes[0].set_ylabel('Gain over the start (score units)')
  return drawing


def _draw_best_of(ax, runs: Runs, name: str) -> None:
  """Mean over seeds; a band of one standard error over them."""
  gains = policy_runs.stack([best.gains[name] for best in runs.best_of])
  x, mean = runs.best_of[0].sqrt_kl, gains.mean(axis=0)
  n = runs.best_of[0].k[-1]
  ax.plot(x, mean, color=figures.INK, lw=1.4, ls='--', label=f'best of 1 … {n}')
  if len(gains) > 1:
    se = gains.std(axis=0, ddof=1) / len(gains) ** 0.5
    ax.fill_between(x, mean - se, mean + se, color=figures.INK, alpha=0.15)


def _pm(estimate: dict[str, Any]) -> str:
  """Mean and standard error over seeds."""
  if estimate['se'] is None:
    return f'{estimate["mean"]:.3g}'
  return f'{estimate["mean"]:.3g} ± {estimate["se"]:.1g}'


if __name__ == '__main__':
  policy_runs.main(__doc__, run, plot)
