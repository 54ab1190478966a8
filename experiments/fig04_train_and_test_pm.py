"""Bai et al. 2022, Fig 4: do the training PM and a PM of other data agree?

Claim: a policy's score by the PM that trains it and by one that learnt from the
other half of the conversations agree at first and part later, the training PM's
being higher (4.2: after about 150,000 samples, at a sqrt(KL) of 3 to 3.6).
Command: python -m experiments.fig04_train_and_test_pm \\
  --workdir=runs/policy_sweep [--scale=cpu]
Cost: none after Fig 13, whose runs these are.
Expect: a gap that grows. Both scores are gains over the start, so constants are
gone; scales are not compared. Where they part: from there on the mean gap over
seeds is above half of its 95 % interval (Student's t). In the gold world gold
is drawn too, and whether it falls while the training PM rises is counted.
"""

from typing import Any

import numpy as np

from experiments import analysis, policy_runs
from experiments.policy_runs import Runs
from hh_jax.evals import figures, frontier

PAPER = 'sqrt(KL) 3 to 3.6, 150,000 samples (Fig 4)'
TRAIN, TEST, GOLD = policy_runs.SERIES
run = policy_runs.frontier_runs


def gaps(runs: Runs) -> np.ndarray:
  """Gain by the training PM less that by the test PM, [seeds, P]."""
  analysis.require(TEST in runs.series, 'policies with a held-out PM', 'this')
  return policy_runs.stack(
    [policy.gains[TRAIN] - policy.gains[TEST] for policy in runs.policies]
  )


def part(runs: Runs, gap: np.ndarray) -> dict[str, Any]:
  """Where the mean gap leaves its 95 % interval for good; nulls: nowhere."""
  found = [analysis.estimate(column) for column in gap.T]
  out = dict.fromkeys(('evaluation', 'samples', 'sqrt_kl', 'sqrt_kl_se'))
  if found[0].half is None:
    return out | {'because': 'one seed has no error'}
  means = [point.mean for point in found]
  halves = [point.half for point in found]
  index = frontier.parting(means, halves, z=1.0)
  if index is None:
    return out | {'because': 'the last gap is within its 95 % interval'}
  where = analysis.estimate([p.sqrt_kl[index] for p in runs.policies])
  return {
    'evaluation': index,
    'samples': int(runs.policies[0].samples[index]),
    'sqrt_kl': where.mean,
    'sqrt_kl_se': where.se,
    'because': 'from here on the gap is above its 95 % interval',
  }


def claims(runs: Runs, gap: np.ndarray) -> list[dict]:
  """Verdicts over seeds."""
  middle = gap.shape[1] // 2
  out = [
    policy_runs.no_failures(runs),
    analysis.claim(
      'the training PM gains more than the test PM by the end',
      gap[:, -1],
      paper='.24 at sqrt(KL) 5.75 (Fig 4)',
    ),
    analysis.claim(
      'the gap grows from the middle of training to its end',
      gap[:, -1] - gap[:, middle],
    ),
    analysis.claim(
      'the test PM still gains in the second half',
      [p.gains[TEST][-1] - p.gains[TEST][middle] for p in runs.policies],
    ),
  ]
  if GOLD in runs.series:
    out.append(
      analysis.claim(
        'gold still gains in the second half',
        [p.gains[GOLD][-1] - p.gains[GOLD][middle] for p in runs.policies],
      )
    )
  return out


def falls(runs: Runs, name: str) -> int:
  """Seeds whose score `name` falls from its peak while the training PM rises.

  By 3 and 2 standard errors over prompts (evals/frontier.fall_from_peak).
  """
  return sum(
    frontier.fall_from_peak(
      policy.gains[TRAIN],
      policy.gains[name],
      policy.errors[name],
      policy.errors[TRAIN],
    ).is_overoptimised
    for policy in runs.policies
  )


def plot(workdir: str) -> dict:
  """Writes fig04.png and fig04.json: gaps, where PMs part, verdicts."""
  runs = policy_runs.read(workdir)
  gap = gaps(runs)
  others = [name for name in runs.series if name != TRAIN]
  summary = {
    'runs': runs.num_runs,
    'diverged': runs.failures,
    'samples': runs.policies[0].samples.tolist(),
    'sqrt_kl': _columns([policy.sqrt_kl for policy in runs.policies]),
    'gains': {
      name: _columns([policy.gains[name] for policy in runs.policies])
      for name in runs.series
    },
    'gap': _columns(list(gap)),
    'part': part(runs, gap) | {'paper': PAPER},
    'seeds_that_fall_while_the_training_pm_rises': {
      name: falls(runs, name) for name in others
    },
    'claims': claims(runs, gap),
  }
  return analysis.write(workdir, 'fig04', summary, draw(runs, gap, summary))


def _columns(rows: list[np.ndarray]) -> list[dict[str, Any]]:
  """An estimate over seeds for each evaluation."""
  return [
    analysis.estimate(column).report() for column in policy_runs.stack(rows).T
  ]


def draw(runs: Runs, gap: np.ndarray, summary: dict[str, Any]):
  """Gains against samples and against sqrt(KL); the gap against samples."""
  drawing, (left, middle, right) = analysis.axes(
    'through training', 'against √KL', 'training PM less test PM'
  )
  samples = runs.policies[0].samples
  for name in runs.series:
    color, marker = figures.LOOKS[name]
    rows = policy_runs.stack([policy.gains[name] for policy in runs.policies])
    _band(left, samples, rows, color=color, marker=marker, label=name)
    for policy in runs.policies:
      middle.plot(policy.sqrt_kl, policy.gains[name], color=color, ms=3,
                  marker=marker, lw=0.8, alpha=0.7)  # fmt: skip
  for one in gap if len(gap) > 1 else ():
    right.plot(samples, one, color=figures.MUTED, lw=0.6, alpha=0.6)
  _band(right, samples, gap, color=figures.INK, marker='o',
        label=f'mean of {len(gap)} seeds')  # fmt: skip
  if (where := summary['part']['samples']) is not None:
    right.axvline(where, color=figures.ORANGE, lw=1, ls='--')
    right.annotate(f'apart from {where:,}', (where, 0), xytext=(3, 3),
                   textcoords='offset points', fontsize=8,
                   color=figures.ORANGE)  # fmt: skip
  for ax in (left, right):
    ax.set_xlabel('Samples')
    ax.legend(frameon=False, fontsize=8)
  middle.set_xlabel('√KL(policy ‖ start), √nats')
  for ax in (left, middle, right):
    ax.axhline(0, color=figures.FAINT, lw=0.8, zorder=0)
  left.set_ylabel('Gain over the start (bands: 1 s.e.)')
  return drawing


def _band(ax, x, rows: np.ndarray, *, color, marker, label) -> None:
  mean = rows.mean(axis=0)
  ax.plot(x, mean, color=color, marker=marker, ms=3, lw=1.3, label=label)
  if len(rows) > 1:
    se = rows.std(axis=0, ddof=1) / len(rows) ** 0.5
    ax.fill_between(x, mean - se, mean + se, color=color, alpha=0.2, lw=0)


if __name__ == '__main__':
  policy_runs.main(__doc__, run, plot)
