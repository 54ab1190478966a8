"""Bai et al. 2022, Fig 27: loss of helpful plus lambda times harmless pairs.

Claim: the mean of helpful and harmless accuracy is best at lambda 2 to 3; from
1 to 10 helpful accuracy falls, by 7.4 points at 13M and by 1.5 at 52B (5.1).
Command: python -m experiments.fig27_accuracy_vs_harmless_weight \\
  --workdir=runs/pm_sweep [--scale=cpu]
Cost: see results/README.md for scale cpu; lambda 1 is Fig 19's where that has
config.helpful_share.
Expect: harmless accuracy up and helpful accuracy down with lambda. The mean
moves by about a point, which takes more seeds than a CPU has time for.
"""

import numpy as np

from experiments import analysis, sweep
from experiments import fig19_accuracy_vs_mixture as fig19
from hh_jax.errors import InputError

KINDS = (*analysis.KINDS, 'mean')
Found = fig19.Found  # by lambda


def run(config, workdir: str) -> None:
  """A preference model a lambda, size and seed, at config.helpful_share.

  InputError where that leaves one kind of comparison alone.
  """
  if not 0 < config.helpful_share < 1:
    raise InputError(
      f'config.helpful_share {config.helpful_share} leaves nothing to weigh'
    )
  for size in config.mix_sizes:
    for seed in range(config.num_seeds):
      for weight in config.lambdas:
        sweep.mixed(
          config,
          workdir,
          size=size,
          seed=seed,
          total=config.mix_total,
          share=config.helpful_share,
          harmless_weight=weight,
        )


def read(workdir: str) -> Found:
  """Accuracies of the weights of the mixture that has most of them."""
  mixtures: dict[str, dict[float, str]] = {}
  pattern = rf'({fig19.MIXTURES})(?:_lambda([\d.]+))?'
  for name, match in sweep.names(workdir, pattern).items():
    weights = mixtures.setdefault(match[1], {})
    weights[float(match[4] or 1)] = name
  names = max(mixtures.values(), key=len, default={})
  analysis.require(len(names) > 1, 'weights', workdir)
  runs = fig19.shared_runs(workdir, {w: names[w] for w in sorted(names)})
  return fig19.columns(runs)


def claims(found: Found) -> list[dict]:
  """Verdicts by size, paired with lambda = 1 (the lowest weight)."""
  low, high = min(found), max(found)
  middle = [w for w in found if 2 <= w <= 3] or [high]
  out = []
  for size in found[low]:
    first, last = found[low][size], found[high][size]
    mean = np.mean([found[w][size]['mean'] for w in middle], axis=0)
    out += [
      analysis.claim(
        f'{size}: helpful accuracy falls from lambda {low:g} to {high:g}',
        first['helpful'] - last['helpful'],
        paper='.074 at 13M, .015 at 52B',
      ),
      analysis.claim(
        f'{size}: harmless accuracy rises from lambda {low:g} to {high:g}',
        last['harmless'] - first['harmless'],
      ),
      analysis.claim(
        f'{size}: the mean is higher at lambda 2 to 3 than at {low:g}',
        mean - first['mean'],
      ),
      analysis.claim(
        f'{size}: the mean is higher at lambda 2 to 3 than at {high:g}',
        mean - last['mean'],
      ),
    ]
  return out


def plot(workdir: str) -> dict:
  """Writes fig27.png and fig27.json: accuracies by lambda, verdicts."""
  found = read(workdir)
  fig19.check(found, workdir)
  summary = {'accuracy': analysis.reports(found), 'claims': claims(found)}
  return analysis.write(workdir, 'fig27', summary, draw(found))


def draw(found: Found):
  """Accuracy against lambda, an axes a kind."""
  drawing, axes = analysis.axes(*(f'{kind} accuracy' for kind in KINDS))
  sizes = list(found[min(found)])
  for ax, kind in zip(axes, KINDS, strict=True):
    for size, color in zip(sizes, analysis.colors(len(sizes)), strict=True):
      analysis.draw_estimates(
        ax,
        list(found),
        [analysis.estimate(v[size][kind]) for v in found.values()],
        color=color,
        marker='o',
        label=size,
      )
    ax.set_xscale('log')
    ax.set_xticks(list(found), [f'{w:g}' for w in found])
    ax.minorticks_off()
    ax.set_xlabel('λ, weight of harmless comparisons')
  axes[0].set_ylabel('Accuracy (bars: 1 s.e. over seeds)')
  axes[0].legend(frameon=False, fontsize=8)
  return drawing


if __name__ == '__main__':
  sweep.main(__doc__, run, plot)
