"""Askell et al. 2021, 3: three objectives on the same comparisons.

Claims: a ranked preference model beats imitation learning on ranked tasks, by
.13 (13M) to .21 (52B) of accuracy; binary discrimination is no better than
imitation. Command: python -m experiments.askell_objectives \\
  --workdir=runs/pm_sweep [--scale=cpu]
Cost: see results/README.md for scale cpu.
Expect: imitation near what the language model knew before, since it reads the
chosen replies alone; here binary discrimination sees the same pairs as the
ranked PM, so it should come close to it, unlike the paper's, whose labels say
right or wrong. All arms: the same rows, steps and rate, from the same language
model. Imitation ranks replies by mean log-probability a token; the other two
ways are in the JSON.
"""

import numpy as np

from experiments import analysis, sweep
from experiments import fig19_accuracy_vs_mixture as fig19
from hh_jax import workdir as workdir_lib
from hh_jax.losses import preference
from hh_jax.recipes import ranking

Found = fig19.Found  # by objective


def run(config, workdir: str) -> None:
  """A model an objective, size and seed, on config.mix_total comparisons."""
  for size in config.mix_sizes:
    for seed in range(config.num_seeds):
      for objective in preference.OBJECTIVES:
        sweep.pm(
          config,
          workdir,
          size=size,
          seed=seed,
          name=run_name(objective),
          objective=objective,
          mixture={'total': config.mix_total},
          eval_every=10**9,
        )


def run_name(objective: str) -> str:
  return f'objective_{objective}'


def rankings(paths: dict[str, list]) -> dict[str, dict[str, np.ndarray]]:
  """Accuracy [seeds] of imitation by size and way to rank."""
  out = {}
  for size, runs in paths.items():
    summaries = [workdir_lib.read_summary(path) for path in runs]
    out[size] = {
      name: np.array([s[f'eval/rank_by_{name}/accuracy'] for s in summaries])
      for name in ranking.RANKINGS
    }
  return out


def claims(found: Found) -> list[dict]:
  """Verdicts by size, paired by seed."""
  out = []
  for size in found['ranked']:
    ranked, binary, imitation = (
      found[name][size]['all'] for name in preference.OBJECTIVES
    )
    out += [
      analysis.claim(
        f'{size}: a ranked PM is better than imitation',
        ranked - imitation,
        paper='.13 (13M) to .21 (52B)',
      ),
      analysis.claim(
        f'{size}: a ranked PM is better than binary discrimination',
        ranked - binary,
      ),
      analysis.claim(
        f'{size}: binary discrimination is better than imitation',
        binary - imitation,
        paper='about 0',
      ),
    ]
  return out


def plot(workdir: str) -> dict:
  """Writes askell_objectives.png and .json: accuracies, verdicts."""
  names = {name: run_name(name) for name in preference.OBJECTIVES}
  runs = fig19.shared_runs(workdir, names)
  found = fig19.columns(runs)
  summary = {
    'accuracy': analysis.reports(found),
    'imitation_ranked_by': analysis.reports(rankings(runs['imitation'])),
    'claims': claims(found),
  }
  return analysis.write(workdir, 'askell_objectives', summary, draw(found))


def draw(found: Found):
  """Accuracy by objective and size; all, helpful and harmless pairs."""
  first = next(iter(found['ranked'].values()))
  kinds = [kind for kind in ('all', *analysis.KINDS) if kind in first]
  drawing, axes = analysis.axes(*(f'{kind} test pairs' for kind in kinds))
  places = np.arange(len(found))
  sizes = list(found['ranked'])
  for ax, kind in zip(axes, kinds, strict=True):
    for i, color in enumerate(analysis.colors(len(sizes))):
      analysis.draw_estimates(
        ax,
        places + 0.1 * (i - (len(sizes) - 1) / 2),
        [analysis.estimate(v[sizes[i]][kind]) for v in found.values()],
        color=color,
        marker='o',
        ls='',
        label=sizes[i],
      )
    ax.axhline(0.5, color='0.5', lw=1, ls=':')
    ax.set_xticks(places, list(found))
    ax.set_xlim(-0.5, len(found) - 0.5)
  axes[0].set_ylabel('Accuracy (bars: 1 s.e. over seeds)')
  axes[0].legend(frameon=False, fontsize=8)
  return drawing


if __name__ == '__main__':
  sweep.main(__doc__, run, plot)
