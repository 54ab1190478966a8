"""Bai et al. 2022, Fig 32 (left): learning curves of helpful-only models.

Claim: trained on helpful comparisons alone, accuracy on them follows eq A.1,
.72 + .007 ln(P / 10^11) + .015 ln(D / 80,000), more cleanly than in the
mixture; on harmless ones it is below chance (4.4). The right half of the
figure, on Learning to Summarize, is left out: that data is none of ours.
Command: python -m experiments.fig32_learning_curves_helpful \\
  --workdir=runs/pm_sweep [--scale=cpu]
Cost: the helpful share of Fig 7's (the same helpful comparisons).
Expect: slopes above 0, and harmless accuracy below one half, which is judged
over seeds and over conversations.
"""

from experiments import analysis, judged, sweep
from experiments import fig07_pm_accuracy_vs_data_and_size as fig07


def run(config, workdir: str) -> None:
  """The helpful comparisons of Fig 7's mixture, by size and seed."""
  for size in config.sizes:
    for seed in range(config.num_seeds):
      sweep.pm(
        config,
        workdir,
        size=size,
        seed=seed,
        name='helpful',
        mixture={
          'total': round(config.total * config.helpful_share),
          'helpful_share': 1.0,
        },
      )


def _cleaner(mixed: dict, helpful: dict) -> list[dict]:
  """A verdict on the fits of the seeds that both have, if there are any."""
  seeds = set.intersection(
    *(set(analysis.shared_seeds(curves)) for curves in (mixed, helpful))
  )
  if not seeds:
    return []
  of_mixture, of_helpful = (
    analysis.scaling(
      {k: c for k, c in curves.items() if k[1] in seeds}, 'helpful'
    )
    for curves in (mixed, helpful)
  )
  text = 'the fit leaves less than that of the mixture (root mean square)'
  return [analysis.claim(text, of_mixture['rms'] - of_helpful['rms'])]


def plot(workdir: str) -> dict:
  """Writes fig32.png and fig32.json: the fit, beside eq A.1's, verdicts."""
  curves = fig07.read(workdir, 'helpful')
  fits = analysis.scaling(curves, 'helpful')
  claims = fig07.claims(fits)
  for claim, paper in zip(claims, (0.015, 0.007), strict=False):
    claim['paper'] = paper
  if all('harmless' in curve.accuracy for curve in curves.values()):
    runs = judged.runs(workdir, 'helpful')
    claims += [
      judged.below_chance(
        f'{size}: helpful-only models are below chance on harmless pairs',
        judged.of_size(runs, size),
        'harmless',
        paper='.12 to .15 below, Fig 19',
      )
      for size in judged.sizes(runs)
    ]
  if sweep.finished(workdir, 'mix'):
    claims += _cleaner(fig07.read(workdir), curves)
  summary = {
    'accuracy': analysis.reports(fig07.last(workdir, 'helpful', 'helpful')),
    'fit': analysis.reports(fits),
    'claims': claims,
    'left_out': 'Learning to Summarize (right half): no such data here',
  }
  return analysis.write(workdir, 'fig32', summary, draw(curves))


def draw(curves: dict):
  """Learning curves on the helpful test set by size."""
  drawing, (ax,) = analysis.axes('helpful only', width=5)
  analysis.draw_curves(ax, curves, 'helpful')
  ax.set_ylabel('Accuracy on the helpful test set')
  ax.legend(frameon=False, fontsize=8)
  return drawing


if __name__ == '__main__':
  sweep.main(__doc__, run, plot)
