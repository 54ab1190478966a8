"""Bai et al. 2022, Fig 14 (left): PM scores of the comparison data, by kind.

Claim: the left half states none; it shows what the right half is read against:
a policy's harmlessness scores lie in the upper tail of those of the red-team
data, because raters there kept the worse reply (4.4).
Command: python -m experiments.fig14_left_score_histograms \\
  --workdir=runs/pm_sweep [--scale=cpu]
Cost: none beside Fig 7's, whose runs it reads.
Expect: red-team replies score lower than helpful ones where the model learned
from both. Scores are of both replies of the test comparisons, less their mean;
the 95th percentile is where the upper tail begins. The verdict is over seeds
and over conversations; other errors are over seeds.
"""

import numpy as np

from experiments import analysis, judged, sweep


def run(config, workdir: str) -> None:
  """The preference models of Fig 7."""
  sweep.by_size(config, workdir)


def scores(one: judged.Judged) -> dict[str, np.ndarray]:
  """Kind -> scores of both replies."""
  return {
    kind: np.concatenate([part.chosen, part.rejected])
    for kind in sorted(set(one.kinds.tolist()), reverse=True)
    for part in [one.where(one.kinds == kind)]
  }


def gap(one: judged.Judged) -> float:
  """Mean score of helpful replies less that of red-team ones."""
  both = (one.chosen + one.rejected) / 2
  helpful, harmless = (
    judged.mean(both, one.kinds == kind) for kind in analysis.KINDS
  )
  return helpful - harmless


def plot(workdir: str) -> dict:
  """Writes fig14_left.png and fig14_left.json: means and spreads by kind."""
  found = judged.runs(workdir)
  summary, claims = {}, []
  trained = judged.trained_on(workdir)
  for size in judged.sizes(found):
    runs = judged.of_size(found, size)
    ones = [scores(one) for one in runs]
    summary[size] = {
      kind: {
        name: analysis.estimate([fn(one[kind]) for one in ones]).report()
        for name, fn in (
          ('mean', np.mean),
          ('std', np.std),
          ('percentile_95', lambda x: np.quantile(x, 0.95)),
        )
      }
      for kind in ones[0]
    }
    if len(ones[0]) > 1 and len(trained) > 1:
      claims.append(
        judged.claim(
          f'{size}: red-team replies score lower than helpful ones',
          judged.of_each(runs, gap),
          runs[0].conversations,
        )
      )
  result = {'trained_on': trained, 'scores': summary, 'claims': claims}
  return analysis.write(workdir, 'fig14_left', result, draw(found))


def draw(found: judged.Runs):
  """The largest size, all seeds: helpful and red-team scores."""
  size = judged.sizes(found)[-1]
  ones = [scores(one) for one in judged.of_size(found, size)]
  titles = {'helpful': 'helpful data', 'harmless': 'red-team data'}
  parts = {
    titles[kind]: np.concatenate([one[kind] for one in ones])
    for kind in ones[0]
  }
  title = f'{size}, both replies, seeds: {len(ones)}'
  drawing, (ax,) = analysis.axes(title, width=5.5)
  judged.histogram(ax, judged.bins(parts.values()), parts)
  ax.set_xlabel('Score (PM units; mean of the test set 0)')
  return drawing


if __name__ == '__main__':
  sweep.main(__doc__, run, plot)
