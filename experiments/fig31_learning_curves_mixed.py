"""Bai et al. 2022, Fig 31: learning curves on helpful and harmless test sets.

Claim: preference models of the mixture improve with data and size on both test
sets; by size more on harmless comparisons (Fig 25 gives .148 from 13M to 52B,
.064 on helpful ones).
Command: python -m experiments.fig31_learning_curves_mixed \\
  --workdir=runs/pm_sweep [--scale=cpu]
Cost: none after Fig 7, whose runs these are.
Expect: slopes above 0 on both sets; the order of the two sets may differ in the
gold world, where refusing is an easy rule to learn. The two sets are compared
by accuracy at the end, over seeds and over conversations.
"""

import numpy as np

from experiments import analysis, judged, sweep
from experiments import fig07_pm_accuracy_vs_data_and_size as fig07


def run(config, workdir: str) -> None:
  """The preference models of Fig 7."""
  sweep.by_size(config, workdir)


def size_gain(found: judged.Runs) -> judged.OfRows:
  """Slope of harmless less helpful accuracy in ln(parameters), a seed each."""
  sizes = judged.sizes(found)
  x = np.log([analysis.parameters(size) for size in sizes])
  x -= x.mean()
  gaps = [judged.of_each(judged.of_size(found, size), _gap) for size in sizes]
  return lambda rows: x @ np.array([gap(rows) for gap in gaps]) / (x @ x)


def _gap(one: judged.Judged) -> float:
  helpful, harmless = (
    judged.mean(one.outcomes, one.kinds == kind) for kind in analysis.KINDS
  )
  return harmless - helpful


def plot(workdir: str) -> dict:
  """Writes fig31.png and fig31.json: a fit a test set, verdicts."""
  curves = fig07.read(workdir)
  kinds = [
    k for k in analysis.KINDS if all(k in c.accuracy for c in curves.values())
  ]
  fits = {kind: analysis.scaling(curves, kind) for kind in kinds}
  claims = [
    claim | {'claim': f'{kind} test set: {claim["claim"]}', 'paper': None}
    for kind in kinds
    for claim in fig07.claims(fits[kind])
  ]
  if len(kinds) == 2 and 'parameters' in fits['helpful']:
    runs = judged.runs(workdir)
    claims.append(
      judged.claim(
        'size helps more on the harmless than on the helpful test set',
        size_gain(runs),
        next(iter(runs.values())).conversations,
        paper='.018 less .008 a factor e of parameters (Fig 25)',
      )
    )
  ends = {kind: fig07.last(workdir, kind=kind) for kind in kinds}
  summary = {
    'accuracy': {k: analysis.reports(ends[k]) for k in kinds},
    'fit': analysis.reports(fits),
    'claims': claims,
  }
  return analysis.write(workdir, 'fig31', summary, draw(curves, kinds))


def draw(curves: dict, kinds: list[str]):
  """Learning curves by size, one axes a test set."""
  drawing, axes = analysis.axes(*(f'{kind} test set' for kind in kinds))
  for ax, kind in zip(axes, kinds, strict=True):
    analysis.draw_curves(ax, curves, kind)
  axes[0].set_ylabel('Accuracy')
  axes[0].legend(frameon=False, fontsize=8)
  return drawing


if __name__ == '__main__':
  sweep.main(__doc__, run, plot)
