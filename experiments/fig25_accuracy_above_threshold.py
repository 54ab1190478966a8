"""Bai et al. 2022, Fig 25: accuracy where both replies score above a threshold.

Claim: models judge pairs of good replies worse: from all pairs to those with
both scores above the mean the paper's 13M (52B) model falls from .657 to .611
(.721 to .656) on helpful and from .568 to .452 (.716 to .622) on harmless
comparisons (measured from the figure; 4.4).
Command: python -m experiments.fig25_accuracy_above_threshold \\
  --workdir=runs/pm_sweep [--scale=cpu]
Cost: none beside Fig 7's, whose runs it reads.
Expect: a fall. Scores are shifted so that every model's mean over the test
comparisons is 0. Thresholds that fewer than 30 pairs pass are left out.
Verdicts are over seeds and over conversations; bars are over seeds.
"""

import numpy as np

from experiments import analysis, judged, sweep

THRESHOLDS = np.array((-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0))
MIN_PAIRS = 30
PAPER = {'helpful': '.046 (13M) to .065 (52B)', 'harmless': '.116 to .094'}


def run(config, workdir: str) -> None:
  """The preference models of Fig 7."""
  sweep.by_size(config, workdir)


def above(one: judged.Judged, threshold: float) -> np.ndarray:
  """[N] bool: both scores are above threshold."""
  return np.minimum(one.chosen, one.rejected) > threshold


def curves(ones: list[judged.Judged]) -> dict[str, np.ndarray]:
  """Thresholds that all seeds pass [K], accuracies [K, seeds], pairs [K], and
  accuracies [seeds] on all pairs."""
  masks = np.array([[above(one, t) for one in ones] for t in THRESHOLDS])
  counts = masks.sum(axis=2)  # [thresholds, seeds]
  kept = (counts >= MIN_PAIRS).all(axis=1)
  accuracy = [
    [one.outcomes[mask].mean() for one, mask in zip(ones, row, strict=True)]
    for row in masks[kept]
  ]
  return {
    'threshold': THRESHOLDS[kept],
    'accuracy': np.array(accuracy).reshape(-1, len(ones)),
    'pairs': counts[kept].mean(axis=1),
    'all': np.array([one.outcomes.mean() for one in ones]),
  }


def by_kind(found: judged.Runs) -> dict[str, dict[str, list[judged.Judged]]]:
  """kind -> size -> the comparisons of that kind, one a seed."""
  first = next(iter(found.values()))
  return {
    kind: {
      size: [o.where(o.kinds == kind) for o in judged.of_size(found, size)]
      for size in judged.sizes(found)
    }
    for kind in analysis.KINDS
    if kind in first.kinds
  }


def fall(one: judged.Judged) -> float:
  """Accuracy on all pairs less that where both scores are above 0."""
  return one.outcomes.mean() - judged.mean(one.outcomes, above(one, 0))


def claims(parts: dict) -> tuple[list[dict], list[str]]:
  """Verdicts by kind on the largest size, and what cannot be said."""
  out, left_out = [], []
  for kind, by_size in parts.items():
    size, ones = list(by_size.items())[-1]
    if min(above(one, 0).sum() for one in ones) < MIN_PAIRS:
      left_out.append(f'{kind}: fewer than {MIN_PAIRS} pairs are above 0')
      continue
    text = f'{size}: accuracy on {kind} pairs falls from all to both above 0'
    falls = judged.of_each(ones, fall)
    conversations = ones[0].conversations
    out.append(judged.claim(text, falls, conversations, paper=PAPER[kind]))
  return out, left_out


def plot(workdir: str) -> dict:
  """Writes fig25.png and fig25.json: accuracies by threshold, verdicts."""
  parts = by_kind(judged.runs(workdir))
  found = {
    kind: {size: curves(ones) for size, ones in by_size.items()}
    for kind, by_size in parts.items()
  }
  summary = {
    kind: {
      size: {'all': analysis.estimate(one['all']).report()}
      | {
        f'{t:g}': analysis.estimate(values).report() | {'pairs': float(n)}
        for t, values, n in zip(
          *(one[k] for k in ('threshold', 'accuracy', 'pairs')), strict=True
        )
      }
      for size, one in by_size.items()
    }
    for kind, by_size in found.items()
  }
  summary['claims'], summary['left_out'] = claims(parts)
  return analysis.write(workdir, 'fig25', summary, draw(found))


def draw(found: dict):
  """An axes a kind; dotted: all pairs."""
  drawing, axes = analysis.axes(*(f'{kind} pairs' for kind in found))
  for ax, by_size in zip(axes, found.values(), strict=True):
    colors = analysis.colors(len(by_size))
    for color, (size, one) in zip(colors, by_size.items(), strict=True):
      estimates = [analysis.estimate(values) for values in one['accuracy']]
      style = dict(color=color, marker='o', label=size)
      analysis.draw_estimates(ax, one['threshold'], estimates, **style)
      ax.axhline(one['all'].mean(), color=color, lw=1, ls=':')
    ax.axhline(0.5, color='black', lw=1, ls='--')
    ax.set_xlabel('Both scores above (PM units; mean 0)')
    ax.legend(frameon=False, fontsize=8)
  axes[0].set_ylabel('Accuracy')
  return drawing


if __name__ == '__main__':
  sweep.main(__doc__, run, plot)
