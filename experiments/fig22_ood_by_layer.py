"""Bai et al. 2022, Fig 22: telling harmful prompts apart without seeing any.

Claim: the simplified relative Mahalanobis distance of a prompt's activations
to those of helpful prompts tells harmless-tranche (red-team) prompts from
helpful ones, better for larger models (best AUROC about .85), and best at
middle layers of large ones (5.4).
Command: python -m experiments.fig22_ood_by_layer --scale=cpu_hh \\
  --workdir=runs/ood --config.data_dir=DIR --config.language_models=3
Cost: a language model a size and seed (configs/pm_sweep.py), then about a
minute each; fig23 and fig39 read the same runs.
Expect: an AUROC above 1/2 at all sizes. Language models of the paper had read
neither kind of dialogue; those of the cpu_hh scale have read red-team dialogues
and no helpful ones, for lack of others. Errors are over seeds of the language
model; sd_over_splits is over splits of one set of prompts.
"""

from typing import Any

import numpy as np

from experiments import analysis, ood_runs, sweep
from experiments.ood_runs import SRM
from hh_jax import workdir as workdir_lib

PAPER = 'best about .85; 52B at layer 32 of 64'
NUM_BINS = 40


def scores(workdir: str, size: str) -> tuple[np.ndarray, np.ndarray]:
  """Middle-layer distances of the first seed: tested inliers, outliers."""
  paths = ood_runs.paths(workdir)
  rows = workdir_lib.read_rows(
    paths[size, ood_runs.seeds(paths, size)[0]] / 'scores.jsonl',
    ('is_outlier', 'layers', SRM),
  )
  layer = ood_runs.middle(size)
  x = np.array([row[SRM][row['layers'].index(layer)] for row in rows])
  is_outlier = np.array([row['is_outlier'] for row in rows])
  return x[~is_outlier], x[is_outlier]


def claims(found: ood_runs.Found) -> list[dict[str, Any]]:
  middle = {size: ood_runs.middle(size) for size in ood_runs.sizes(found)}
  out = [
    analysis.claim(
      f'{size}: AUROC at the middle layer is above 1/2',
      np.array(ood_runs.values(found, size, layer, SRM)) - 0.5,
      paper=PAPER,
    )
    for size, layer in middle.items()
  ]
  out += ood_runs.larger(found, 'AUROC at the middle layer', SRM, middle)
  for size, layer in middle.items():
    if ood_runs.num_layers(size) > 2:
      ends = [
        ood_runs.values(found, size, end, SRM)
        for end in (1, ood_runs.num_layers(size))
      ]
      gain = ood_runs.values(found, size, layer, SRM) - np.max(ends, axis=0)
      text = f'{size}: the middle layer is better than the first and the last'
      out.append(analysis.claim(text, gain, paper='large models'))
  return out


def plot(workdir: str) -> dict[str, Any]:
  """Writes fig22.png and fig22.json, from JSONL alone."""
  found = ood_runs.read(workdir)
  sizes = ood_runs.sizes(found)
  known, strange = scores(workdir, sizes[-1])
  low, high = np.quantile(np.concatenate([known, strange]), [0.005, 0.995])
  edges = np.linspace(low, high, NUM_BINS + 1)
  histograms = {
    name: np.histogram(x, edges)[0].tolist()
    for name, x in (('helpful', known), ('harmless', strange))
  }
  summary = {
    'auroc': {
      size: {
        str(layer): ood_runs.report(found, size, layer, SRM)
        for layer in range(1, ood_runs.num_layers(size) + 1)
      }
      for size in sizes
    },
    'histogram': {
      'size': sizes[-1],
      'layer': ood_runs.middle(sizes[-1]),
      'edges': edges.tolist(),
      **histograms,
    },
    'claims': claims(found),
  }
  return analysis.write(workdir, 'fig22', summary, draw(summary))


def draw(summary: dict[str, Any]):
  """AUROC by layer, and the scores of the largest model."""
  drawing, (left, right) = analysis.axes(
    'Harmful against helpful prompts', 'Scores'
  )
  for i, (size, by_layer) in enumerate(summary['auroc'].items()):
    x = np.array([int(layer) for layer in by_layer]) / len(by_layer)
    rows = by_layer.values()
    left.errorbar(
      x + 0.006 * i,
      [row['mean'] for row in rows],
      [row['sd_over_splits'] for row in rows],
      **dict(marker='os^D'[i % 4], ms=4, lw=1.2, capsize=2, label=size),
    )
  left.axhline(0.5, color='0.3', lw=1, ls='--', label='chance')
  left.set_xlabel('Layer / number of layers')
  left.set_ylabel('AUROC (bars: deviation over splits)')
  left.legend(frameon=False, fontsize=8)
  shown = summary['histogram']
  for name, color in (('helpful', 'C0'), ('harmless', 'C1')):
    density = np.array(shown[name]) / max(sum(shown[name]), 1)
    right.stairs(density, shown['edges'], color=color, label=name, lw=1.4)
    right.stairs(density, shown['edges'], color=color, fill=True, alpha=0.2)
  right.set_title(
    f'Scores: {shown["size"]}, layer {shown["layer"]}', fontsize=10
  )
  right.set_xlabel('Simplified relative Mahalanobis distance')
  right.set_ylabel('Share of prompts')
  right.legend(frameon=False, fontsize=8)
  return drawing


if __name__ == '__main__':
  sweep.main(__doc__, ood_runs.run, plot)
