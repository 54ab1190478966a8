"""Bai et al. 2022, Fig 33: test-PM score by policy size and test-PM size.

Claim: larger policies score higher, and the slope against policy size grows
with the size of the test PM (4.2, B.2), both for policies trained against the
largest PM and for those trained against a PM of their own size.
Command: python -m experiments.fig33_policy_and_pm_size \\
  --workdir=runs/policy_sweep [--scale=cpu]
Cost: at scale cpu about twice that of Fig 13, whose policies it takes.
Expect: sizes that are far apart are needed; at scale cpu they are a factor 4.
Scores are those of the last policy on held-out prompts less those of its own
start on the same prompts, so every PM's constant is gone; the paper subtracts
each PM's mean over held-out comparisons. A policy gains more partly because it
moves further: gains over sqrt(KL) are given too.
"""

import pathlib
from typing import Any

import numpy as np

from experiments import analysis, policy_runs, sweep
from hh_jax import workdir as workdir_lib
from hh_jax.errors import InputError
from hh_jax.evals import figures

SETS = {
  'largest': 'trained against the largest PM',
  'own': 'trained against a PM of its size',
}
# set -> policy size -> test-PM size -> what -> [seeds]
Found = dict[str, dict[str, dict[str, dict[str, np.ndarray]]]]


def run(config: sweep.Config, workdir: str) -> None:
  """Both sets of policies, and the replies of each by every test PM."""
  policy_runs.check(config)
  for seed in range(config.num_seeds):
    for size in config.sizes:
      where = dict(size=size, seed=seed)
      runs = {
        'start': sweep.pretrain(config, workdir, **where),
        'own': policy_runs.ppo(config, workdir, **where),
      }
      if size != config.sizes[-1]:
        runs['largest'] = policy_runs.ppo(
          config, workdir, pm_size=config.sizes[-1], **where
        )
      for name, path in runs.items():
        if (path / policy_runs.FAILURE).exists():
          continue
        for pm_size in config.sizes:
          policy_runs.judged(
            config, workdir, path, name=name, pm_size=pm_size, **where
          )


def score(path: pathlib.Path) -> float:
  """Mean PM score of the replies of a `judged` run."""
  return workdir_lib.read_summary(path)['curve/pm_score']['mean'][0]


def _one(
  root: pathlib.Path, name: str, size: str, pm_size: str, seed: int
) -> dict[str, float]:
  """Gain by that PM over the start, and the policy's last sqrt(KL)."""
  judged, at = root / 'judged', f'{size}/by_{pm_size}/seed{seed}'
  gain = score(judged / name / at) - score(judged / 'start' / at)
  policy = policy_runs.read_training(root / 'ppo' / name / size / f'seed{seed}')
  end = float(policy.sqrt_kl[-1])
  if not end:
    raise InputError(f'{policy.path} has not moved: its last KL is 0')
  return {'gain': gain, 'sqrt_kl': end, 'slope': gain / end}


def read(workdir: str) -> tuple[Found, dict[str, str]]:
  """Gains of seeds that all sizes have, and the runs that diverged.

  The policies of the largest size against the largest PM are those of 'own'.
  """
  root = pathlib.Path(workdir)
  places = {
    tuple(path.parts[-4:]): path
    for path in (root / 'judged').glob('*/*/by_*/seed*')
    if workdir_lib.is_finished(path)
  }
  analysis.require(places, 'judged policies', workdir)
  sizes = analysis.in_order(size for _, size, _, _ in places)
  found: Found = {}
  for name in SETS:
    names = {s: 'own' if s == sizes[-1] else name for s in sizes}
    seeds = _seeds(places, names)
    if not seeds or (name == 'largest' and len(sizes) == 1):
      continue  # of one size both sets are one
    found[name] = {}
    for size in sizes:
      found[name][size] = {}
      for pm_size in sizes:
        rows = [_one(root, names[size], size, pm_size, s) for s in seeds]
        found[name][size][pm_size] = {
          key: np.array([row[key] for row in rows]) for key in rows[0]
        }
  analysis.require(found, 'seed of all sizes', workdir)
  return found, diverged(root)


def _seeds(places: dict, names: dict[str, str]) -> list[int]:
  """Seeds whose start and policy of every size all test PMs judged."""
  per_size = [
    {
      int(seed.removeprefix('seed'))
      for name, at, by, seed in places
      if (name, at, by) == (kind, size, f'by_{pm_size}')
    }
    for size, policy in names.items()
    for kind in ('start', policy)
    for pm_size in names
  ]
  return sorted(set.intersection(*per_size))


def diverged(root: pathlib.Path) -> dict[str, str]:
  """SET/SIZE/seedN -> why that run counts as diverged."""
  out = {}
  for path in sorted((root / 'ppo').glob('*/*/seed*')):
    has_failed = (path / policy_runs.FAILURE).exists()
    if has_failed or workdir_lib.is_finished(path):
      failure = policy_runs.read_training(path).failure
      if failure is not None:
        out['/'.join(path.parts[-3:])] = failure
  return out


def by_policy_size(
  found: dict[str, dict[str, dict[str, np.ndarray]]], pm_size: str
) -> np.ndarray:
  """Gain a factor e of the policy's parameters by one test PM, [seeds]."""
  sizes = list(found)
  x = np.log([analysis.parameters(size) for size in sizes])
  y = np.stack([found[size][pm_size]['gain'] for size in sizes])
  return np.array([analysis.fit(column, x)[1] for column in y.T])


def claims(found: Found) -> list[dict]:
  """Verdicts over seeds; none for one size."""
  out = []
  for name, by_size in found.items():
    sizes = list(by_size)
    if len(sizes) < 2:
      continue
    slopes = {pm_size: by_policy_size(by_size, pm_size) for pm_size in sizes}
    out += [
      analysis.claim(
        f'{SETS[name]}: gains rise with policy size by the test PM {pm_size}',
        slope,
      )
      for pm_size, slope in slopes.items()
    ]
    out.append(
      analysis.claim(
        f'{SETS[name]}: they rise more by the test PM {sizes[-1]} than by '
        f'{sizes[0]}',
        slopes[sizes[-1]] - slopes[sizes[0]],
      )
    )
  return out


def plot(workdir: str) -> dict:
  """Writes fig33.png and fig33.json: gains by both sizes, verdicts."""
  found, failures = read(workdir)
  summary: dict[str, Any] = {
    'diverged': failures,
    'by_policy_and_test_pm': analysis.reports(found),
    'claims': claims(found),
  }
  return analysis.write(workdir, 'fig33', summary, draw(found))


def draw(found: Found):
  """Gain against policy size, a line a test PM; an axes a set."""
  drawing, axes = analysis.axes(*(SETS[name] for name in found))
  for ax, by_size in zip(axes, found.values(), strict=True):
    sizes = list(by_size)
    x = [analysis.parameters(size) for size in sizes]
    for pm_size, color in zip(sizes, analysis.colors(len(sizes)), strict=True):
      analysis.draw_estimates(
        ax,
        x,
        [analysis.estimate(by_size[s][pm_size]['gain']) for s in sizes],
        color=color,
        marker='o',
        label=f'test PM {pm_size}',
      )
    ax.axhline(0, color=figures.FAINT, lw=0.8, zorder=0)
    analysis.log_axis(ax)
    ax.set_xlabel('Parameters of the policy, embedding left out')
    ax.legend(frameon=False, fontsize=8)
  axes[0].set_ylabel('Gain over the start (bars: 1 s.e.)')
  return drawing


if __name__ == '__main__':
  policy_runs.main(__doc__, run, plot)
