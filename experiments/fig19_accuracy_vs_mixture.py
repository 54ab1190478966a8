"""Bai et al. 2022, Fig 19: accuracy against the share of helpful comparisons.

Claim: at a fixed total (42,000), preference models that learn from one kind of
comparison alone are far below chance on the other (.35 to .38); mixtures are
good at both, and larger models depend less on the mixture (5.1).
Command: python -m experiments.fig19_accuracy_vs_mixture \\
  --workdir=runs/pm_sweep [--scale=cpu]
Cost: see results/README.md for scale cpu; Fig 26 reads these runs.
Expect: both halves of the first claim. Whether size flattens the curves needs
sizes that are far apart. Normalised: divided by the accuracy of the model that
learns from this kind alone (our choice). Below chance is judged over seeds and
over conversations; other errors are over seeds.
"""

import pathlib

import numpy as np

from experiments import analysis, judged, sweep

MIXTURES = r'n(\d+)_helpful([\d.]+)'
# share -> size -> kind -> accuracies [seeds]
Found = dict[float, dict[str, dict[str, np.ndarray]]]
Paths = dict[float, dict[str, list[pathlib.Path]]]  # a run a seed


def run(config, workdir: str) -> None:
  """A preference model a share, size and seed, on config.mix_total pairs."""
  for size in config.mix_sizes:
    for seed in range(config.num_seeds):
      for share in config.shares:
        sweep.mixed(
          config,
          workdir,
          size=size,
          seed=seed,
          total=config.mix_total,
          share=share,
        )


def mixtures(workdir: str) -> Paths:
  """Runs of the mixtures of the total that has most of them, by share."""
  totals: dict[int, dict[float, str]] = {}
  for name, match in sweep.names(workdir, MIXTURES).items():
    totals.setdefault(int(match[1]), {})[float(match[2])] = name
  names = max(totals.values(), key=len, default={})
  analysis.require({0.0, 1.0} <= set(names), 'mixtures from 0 to 1', workdir)
  return shared_runs(workdir, {share: names[share] for share in sorted(names)})


def read(workdir: str) -> Found:
  """Accuracies of `mixtures`."""
  return columns(mixtures(workdir))


def shared_runs(workdir: str, names: dict[float, str]) -> Paths:
  """The runs of those names, of the seeds that all sizes have.

  Sizes are those that have a run of every name.
  """
  runs = {key: sweep.finished(workdir, name) for key, name in names.items()}
  shared = set.intersection(*map(set, runs.values()))
  sizes = analysis.in_order(size for size, _ in shared)
  seeds = analysis.shared_seeds(shared)
  analysis.require(seeds, f'seed of all of {[*names.values()]}', workdir)
  return {
    key: {size: [found[size, seed] for seed in seeds] for size in sizes}
    for key, found in runs.items()
  }


def columns(runs: Paths) -> Found:
  """Their accuracies on the whole test set."""
  out: Found = {}
  for key, by_size in runs.items():
    out[key] = {}
    for size, paths in by_size.items():
      rows = [analysis.accuracies(path) for path in paths]
      out[key][size] = {k: np.array([r[k] for r in rows]) for k in rows[0]}
  return out


def normalised(found: Found) -> Found:
  """Accuracy over that of the model that learns from this kind alone.

  The mean of both kinds over the highest of its means over seeds.
  """
  ends = {'helpful': 1.0, 'harmless': 0.0}
  out = {}
  for share, sizes in found.items():
    out[share] = {}
    for size, kinds in sizes.items():
      out[share][size] = {
        kind: kinds[kind] / found[end][size][kind] for kind, end in ends.items()
      }
      best = max(found[s][size]['mean'].mean() for s in found)
      out[share][size]['mean'] = kinds['mean'] / best
  return out


def spread(found: Found, size: str) -> np.ndarray:
  """Highest less lowest accuracy over shares, mean of both kinds; [seeds]."""
  ranges = [
    np.ptp(np.stack([found[share][size][kind] for share in found]), axis=0)
    for kind in analysis.KINDS
  ]
  return np.mean(ranges, axis=0)


def claims(found: Found, runs: Paths) -> list[dict]:
  """Verdicts by size, and on the largest against the smallest one."""
  sizes = list(found[0.0])
  out = []
  for size in sizes:
    for share, only, kind in (
      (1.0, 'helpful', 'harmless'),
      (0.0, 'harmless', 'helpful'),
    ):
      ones = {str(path): judged.read(path) for path in runs[share][size]}
      judged.check_same(ones)
      text = f'{size}: {only}-only models are below chance on {kind} pairs'
      paper = '.12 to .15 below'
      out.append(
        judged.below_chance(text, list(ones.values()), kind, paper=paper)
      )
  if len(sizes) > 1:
    out.append(
      analysis.claim(
        f'accuracy depends less on the mixture at {sizes[-1]} than at '
        f'{sizes[0]} (highest less lowest)',
        spread(found, sizes[0]) - spread(found, sizes[-1]),
      )
    )
  return out


def check(found: Found, workdir: str) -> None:
  """InputError where the test set has not both kinds."""
  kinds = next(iter(next(iter(found.values())).values()))
  analysis.require('mean' in kinds, 'tests of both kinds', workdir)


def plot(workdir: str) -> dict:
  """Writes fig19.png and fig19.json: accuracies by share, verdicts."""
  runs = mixtures(workdir)
  found = columns(runs)
  check(found, workdir)
  relative = normalised(found)
  summary = {
    'accuracy': analysis.reports(found),
    'normalised': analysis.reports(relative),
    'claims': claims(found, runs),
  }
  drawing = draw(found, relative, analysis.KINDS)
  return analysis.write(workdir, 'fig19', summary, drawing)


def draw(found: Found, relative: Found, kinds):
  """Raw and normalised accuracy against the share, an axes each by kind."""
  names = [
    'mean of both test sets' if kind == 'mean' else f'{kind} test set'
    for kind in kinds
  ]
  titles = [name + rest for rest in ('', ', normalised') for name in names]
  drawing, axes = analysis.axes(*titles, width=3.6)
  sizes = list(found[min(found)])
  for i, ax in enumerate(axes):
    values = (found, relative)[i // len(kinds)]
    kind = kinds[i % len(kinds)]
    for size, color in zip(sizes, analysis.colors(len(sizes)), strict=True):
      analysis.draw_estimates(
        ax,
        [100 * share for share in values],
        [analysis.estimate(v[size][kind]) for v in values.values()],
        color=color,
        marker='o',
        label=size,
      )
    if i < len(kinds):
      ax.axhline(0.5, color='grey', lw=0.8, ls=':')
    ax.set_xlabel('Helpful comparisons (%)')
  axes[0].set_ylabel('Accuracy (bars: 1 s.e. over seeds)')
  axes[0].legend(frameon=False, fontsize=8)
  return drawing


if __name__ == '__main__':
  sweep.main(__doc__, run, plot)
