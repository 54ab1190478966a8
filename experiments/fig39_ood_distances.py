"""Bai et al. 2022, Fig 39: the relative distance against the plain one.

Claim: the simplified relative Mahalanobis distance is better at telling harmful
from helpful prompts than the Mahalanobis distance, at every layer and size
(B.9).
Command: python -m experiments.fig39_ood_distances --scale=cpu_hh \\
  --workdir=runs/ood --config.data_dir=DIR --config.language_models=3
Cost: that of fig22, whose runs it reads.
Expect: the claim to hold where most of the difference between the two kinds is
in how coordinates go together. Both distances share mean, covariance and ridge,
and are compared on the same splits; errors are over seeds of the language
model.
"""

from typing import Any

import numpy as np

from experiments import analysis, ood_runs, sweep
from experiments.ood_runs import PLAIN, SRM

NAMES = {SRM: 'relative', PLAIN: 'plain'}


def claims(found: ood_runs.Found) -> list[dict[str, Any]]:
  """One a size and layer, and whether all of them hold."""
  out = []
  for size in ood_runs.sizes(found):
    for layer in range(1, ood_runs.num_layers(size) + 1):
      relative, plain = (
        np.array(ood_runs.values(found, size, layer, method))
        for method in (SRM, PLAIN)
      )
      text = f'{size}, layer {layer}: relative is better than plain'
      out.append(analysis.claim(text, relative - plain, paper='all'))
  judged = [c['holds'] for c in out if c['holds'] is not None]
  verdict = {
    'claim': 'relative is better than plain at every layer and size',
    'holds': all(judged) if judged else None,
    'because': f'{sum(judged)} of {len(judged)} that have errors do',
  }
  return [verdict, *out]


def plot(workdir: str) -> dict[str, Any]:
  """Writes fig39.png and fig39.json, from JSONL alone."""
  found = ood_runs.read(workdir)
  summary = {
    'auroc': {
      size: {
        name: {
          str(layer): ood_runs.report(found, size, layer, method)
          for layer in range(1, ood_runs.num_layers(size) + 1)
        }
        for method, name in NAMES.items()
      }
      for size in ood_runs.sizes(found)
    },
    'claims': claims(found),
  }
  return analysis.write(workdir, 'fig39', summary, draw(summary))


def draw(summary: dict[str, Any]):
  """One pair of axes a size: AUROC of both distances by layer."""
  titles = list(summary['auroc'])
  drawing, axes = analysis.axes(*titles, width=3)
  lows = []
  for ax, size in zip(axes, titles, strict=True):
    for i, name in enumerate(NAMES.values()):
      by_layer = summary['auroc'][size][name]
      rows = list(by_layer.values())
      lows += [row['mean'] for row in rows]
      ax.errorbar(
        [int(layer) for layer in by_layer],
        [row['mean'] for row in rows],
        [row['sd_over_splits'] for row in rows],
        **dict(marker='os'[i], ms=4, lw=1.2, capsize=2, label=name),
      )
    ax.axhline(0.5, color='0.3', lw=1, ls='--', label='chance')
    ax.set_xticks([int(layer) for layer in by_layer])
    ax.set_xlabel('Layer')
  for ax in axes:
    ax.set_ylim(min(*lows, 0.5) - 0.05, max(*lows, 0.5) + 0.05)
  axes[0].set_ylabel('AUROC (bars: deviation over splits)')
  axes[0].legend(frameon=False, fontsize=8)
  return drawing


if __name__ == '__main__':
  sweep.main(__doc__, ood_runs.run, plot)
