"""Bai et al. 2022, Fig 26: mean of helpful and harmless accuracy by mixture.

Claim: the mean of both accuracies is highest where a model learns from both
kinds of comparison, and flat in between, more so for larger models.
Command: python -m experiments.fig26_mean_accuracy_vs_mixture \\
  --workdir=runs/pm_sweep [--scale=cpu]
Cost: none after Fig 19, whose runs these are.
Expect: a plateau between the two ends. The mixture that is compared is the one
nearest to one half, not the best one, so nothing is selected.
"""

import numpy as np

from experiments import analysis, sweep
from experiments import fig19_accuracy_vs_mixture as fig19

run = fig19.run


def claims(found: fig19.Found) -> list[dict]:
  """Verdicts by size: half and half against the better of the two ends."""
  middle = min(found, key=lambda share: abs(share - 0.5))
  out = []
  for size in found[middle]:
    ends = [found[share][size]['mean'] for share in (0.0, 1.0)]
    out.append(
      analysis.claim(
        f'{size}: the mean accuracy of a mixture ({middle:g} helpful) is above '
        f'that of either kind alone',
        found[middle][size]['mean'] - np.maximum(*ends),
      )
    )
  return out


def plot(workdir: str) -> dict:
  """Writes fig26.png and fig26.json: mean accuracies by share, verdicts."""
  found = fig19.read(workdir)
  fig19.check(found, workdir)
  relative = fig19.normalised(found)
  summary = {
    'mean_accuracy': {
      str(share): {
        size: analysis.estimate(kinds['mean']).report()
        for size, kinds in sizes.items()
      }
      for share, sizes in found.items()
    },
    'claims': claims(found),
  }
  drawing = fig19.draw(found, relative, ('mean',))
  return analysis.write(workdir, 'fig26', summary, drawing)


if __name__ == '__main__':
  sweep.main(__doc__, run, plot)
