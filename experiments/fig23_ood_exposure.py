"""Bai et al. 2022, Fig 23: telling harmful prompts apart after seeing a few.

Claim: one linear layer on frozen activations, trained on helpful prompts and
copies of M harmful ones, tells the two apart better the larger M, and with
M = 10 at AUROC .94 +- .02 (52B) and .86 +- .01 (13M): better than the distance
that saw none (5.4).
Command: python -m experiments.fig23_ood_exposure --scale=cpu_hh \\
  --workdir=runs/ood --config.data_dir=DIR --config.language_models=3
Cost: that of fig22, whose runs it reads.
Expect: AUROC rising in M. As in the paper, small models are read at the last
layer (here all sizes below 13M), others at the middle one. Errors are over
seeds of the language model; sd_over_splits is over splits and draws.
"""

from typing import Any

import numpy as np

from experiments import analysis, ood_runs, sweep
from experiments.ood_runs import EXPOSURES, SRM

PAPER = {'13M': 0.86, '52B': 0.94}  # M = 10
SMALL = ('tiny', 'mini', 'small', '13M', '42M')  # 13M, 42M: as the paper


def layer_of(size: str) -> int:
  """The last layer of the small sizes, the middle one of the others."""
  is_small = size in SMALL
  return ood_runs.num_layers(size) if is_small else ood_runs.middle(size)


def claims(found: ood_runs.Found) -> list[dict[str, Any]]:
  sizes, out = ood_runs.sizes(found), []
  for size in sizes:
    few, ten, most, unseen = (
      np.array(ood_runs.values(found, size, layer_of(size), method))
      for method in (
        *(f'exposure_{m}' for m in (EXPOSURES[0], 10, EXPOSURES[-1])),
        SRM,
      )
    )
    text = f'M = {EXPOSURES[-1]} is better than M = {EXPOSURES[0]}'
    out.append(analysis.claim(f'{size}: {text}', most - few))
    for text, gain in (
      ('M = 10 is better than the distance that saw none', ten - unseen),
      ('M = 10 reaches AUROC .85', ten - 0.85),
    ):
      out.append(analysis.claim(f'{size}: {text}', gain, paper=PAPER))
  layers = {size: layer_of(size) for size in sizes}
  return out + ood_runs.larger(found, 'M = 10', 'exposure_10', layers)


def plot(workdir: str) -> dict[str, Any]:
  """Writes fig23.png and fig23.json, from JSONL alone."""
  found = ood_runs.read(workdir)
  methods = {str(m): f'exposure_{m}' for m in EXPOSURES} | {'none': SRM}
  summary = {
    'auroc': {
      size: {
        'layer': layer_of(size),
        **{
          name: ood_runs.report(found, size, layer_of(size), method)
          for name, method in methods.items()
        },
      }
      for size in ood_runs.sizes(found)
    },
    'claims': claims(found),
  }
  return analysis.write(workdir, 'fig23', summary, draw(summary))


def draw(summary: dict[str, Any]):
  """AUROC against M; dashes: the distance that saw none."""
  drawing, (ax,) = analysis.axes('Harmful prompts after M examples', width=5)
  for i, (size, by_m) in enumerate(summary['auroc'].items()):
    rows = [by_m[str(m)] for m in EXPOSURES]
    ax.errorbar(
      np.array(EXPOSURES) * 1.03**i,
      [row['mean'] for row in rows],
      [row['sd_over_splits'] for row in rows],
      **dict(marker='os^D'[i % 4], ms=4, lw=1.2, capsize=2, color=f'C{i}'),
      label=f'{size}, layer {by_m["layer"]}',
    )
    ax.axhline(by_m['none']['mean'], color=f'C{i}', lw=1, ls=':')
  ax.plot([], [], ':', color='0.3', label='distance, M = 0')
  ax.axhline(0.5, color='0.3', lw=1, ls='--', label='chance')
  ax.set_xscale('log')
  ax.set_xticks(EXPOSURES, EXPOSURES)
  ax.minorticks_off()
  ax.set_xlabel('Harmful prompts shown, M')
  ax.set_ylabel('AUROC (bars: deviation over draws)')
  ax.legend(frameon=False, fontsize=8)
  return drawing


if __name__ == '__main__':
  sweep.main(__doc__, ood_runs.run, plot)
