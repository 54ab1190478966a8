"""Bai et al. 2022, Fig 7: accuracy of preference models by data and size.

Claim: accuracy rises about linearly in the logarithms of comparisons D (.025 to
.029 a factor e for D of 10^4 to 10^5) and of parameters P (.010; both measured
from the figure); for helpful comparisons alone the paper's fit is eq A.1, .72 +
.007 ln(P / 10^11) + .015 ln(D / 80,000).
Command: python -m experiments.fig07_pm_accuracy_vs_data_and_size \\
  --workdir=runs/pm_sweep [--scale=cpu]
Cost: see results/README.md for scale cpu; Figs 31 and others read these runs.
Expect: both slopes above 0. In the gold world no model can pass an accuracy of
.80, so slopes are steep at first and shrink: theirs are a simulator's.
"""

import numpy as np

from experiments import analysis, sweep

PAPER = {
  'data': '.025 to .029 (Fig 7), .015 (helpful only, eq A.1)',
  'parameters': '.010 (Fig 7), .007 (helpful only, eq A.1)',
}


def run(config, workdir: str) -> None:
  """One preference model a size and seed; one epoch, constant rate."""
  sweep.by_size(config, workdir)


def read(workdir: str, name: str = 'mix') -> dict:
  """(size, seed) -> learning curve, of the seeds that all sizes have."""
  runs = sweep.finished(workdir, name)
  seeds = analysis.shared_seeds(runs)
  found = {
    key: analysis.curve(path) for key, path in runs.items() if key[1] in seeds
  }
  analysis.require(found, f'preference models {name!r}', workdir)
  return found


def claims(fits: dict[str, np.ndarray]) -> list[dict]:
  """Verdicts on the slopes [seeds] of analysis.scaling."""
  texts = {
    'data': 'accuracy rises with ln(comparisons)',
    'parameters': 'accuracy rises with ln(parameters)',
  }
  return [
    analysis.claim(text, fits[name], paper=PAPER[name])
    for name, text in texts.items()
    if name in fits
  ]


def last(
  workdir: str, name: str = 'mix', kind: str = 'all'
) -> dict[str, np.ndarray]:
  """size -> accuracy [seeds] after the last comparison.

  On the whole test set; points of a curve are on config.pm.eval_rows of it.
  """
  runs = sweep.finished(workdir, name)
  seeds = analysis.shared_seeds(runs)
  shared = {key: path for key, path in runs.items() if key[1] in seeds}
  found = analysis.by_size(shared, lambda x: analysis.accuracies(x)[kind])
  return {size: np.array(values) for size, values in found.items()}


def bend(curves: dict) -> dict[str, np.ndarray]:
  """Accuracy gained a factor e of comparisons, mean over sizes; [seeds].

  'early': from 1/16 to 1/4 of the comparisons, 'late': from there to the end.
  Equal on a line.
  """
  seeds = analysis.shared_seeds(curves)
  sizes = analysis.in_order(size for size, _ in curves)
  end = min(curve.pairs[-1] for curve in curves.values())
  heights = np.array(
    [
      [
        analysis.at(curves[size, s], end / np.array([16, 4, 1]))
        for size in sizes
      ]
      for s in seeds
    ]
  )  # [seeds, sizes, 3]
  early, late = np.moveaxis(np.diff(heights).mean(axis=1) / np.log(4), -1, 0)
  return {'early': early, 'late': late}


def plot(workdir: str) -> dict:
  """Writes fig07.png and fig07.json: fit, accuracies, verdicts."""
  curves = read(workdir)
  fits = analysis.scaling(curves)
  ends = last(workdir)
  summary = {
    'comparisons': int(max(c.pairs[-1] for c in curves.values())),
    'accuracy': analysis.reports(ends),
    'fit': analysis.reports(fits),
    'data_slope_by_part': analysis.reports(bend(curves)),
    'claims': claims(fits),
  }
  return analysis.write(workdir, 'fig07', summary, draw(curves, ends))


def draw(curves: dict, ends: dict[str, np.ndarray]):
  """Learning curves by size; accuracy at the end against parameters."""
  drawing, (left, right) = analysis.axes('by comparisons', 'by parameters')
  analysis.draw_curves(left, curves)
  left.legend(frameon=False, fontsize=8)
  left.set_ylabel('Accuracy on test comparisons')
  analysis.draw_estimates(
    right,
    [analysis.parameters(size) for size in ends],
    [analysis.estimate(values) for values in ends.values()],
    color='black',
    marker='o',
  )
  analysis.log_axis(right)
  right.set_xlabel('Parameters, embedding left out')
  return drawing


if __name__ == '__main__':
  sweep.main(__doc__, run, plot)
