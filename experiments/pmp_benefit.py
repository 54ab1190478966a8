"""Askell et al. 2021, 4: what preference-model pre-training (PMP) is worth.

Claims: PMP raises the accuracy after fine-tuning on few comparisons (by .05 to
.10 at 500), by less where there are more, and by more in binarised form than
in ranked form. Control: as many steps on the same web pages, as a language
model, without comparisons.
Command: python -m experiments.pmp_benefit --workdir=runs/pm_sweep
Cost: see results/README.md for scale cpu.
Expect: a gain on helpful pairs, and none or a loss on harmless ones: votes of
the gold web see helpfulness alone, and nobody votes for a refusal. Every arm
is fine-tuned for one epoch at one rate; of several (config.benefit.rates) the
one that is best without PMP counts, which favours no PMP.
"""

import itertools
import pathlib

import numpy as np

from experiments import analysis, sweep
from hh_jax import metrics
from hh_jax.evals import figures

ARMS = {  # directory -> name, colour
  'none': ('no PMP', figures.MUTED),
  'control': ('as many steps, no comparisons', figures.INK),
  'ranked': ('ranked PMP', figures.ORANGE),
  'binarised': ('binarised PMP', figures.BLUE),
}
KINDS = ('all', 'helpful', 'harmless')


def starts(config, workdir: str, seed: int) -> dict[str, pathlib.Path]:
  """Where each arm of a seed starts from; trains it."""
  where = dict(size=config.benefit.size, seed=seed)
  out = {'none': sweep.pretrain(config, workdir, **where)}
  for form in ('ranked', 'binarised'):
    out[form] = sweep.pmp(
      config, workdir, name=form, data={'options': {'form': form}}, **where
    )
  last = metrics.read_metrics(out['binarised'] / metrics.METRICS)[-1]
  out['control'] = sweep.pretrain(
    config,
    workdir,
    name='web',
    rate=config.pmp_rate,
    init_from=str(out['none']),
    data=config.pmp.data,
    num_steps=int(last['step']),
    batch_size=config.pmp.batch_size,
    **where,
  )
  return out


def run(config, workdir: str) -> None:
  """Pretraining, PMP and fine-tuning of every arm and seed."""
  config = config.copy_and_resolve_references()
  config.language_models = config.benefit.num_seeds
  for seed in range(config.benefit.num_seeds):
    arms = starts(config, workdir, seed)
    for arm, total, rate in itertools.product(
      arms, config.benefit.num_pairs, config.benefit.rates
    ):
      sweep.pm(
        config,
        workdir,
        size=config.benefit.size,
        seed=seed,
        name=run_name(arm, total, rate),
        rate=rate,
        init_from=str(arms[arm]),
        mixture={'total': total},
        batch_size=config.benefit.batch_size,
        eval_every=config.benefit.eval_every,
      )


def run_name(arm: str, total: int, rate: float) -> str:
  """Such as 'benefit_ranked_n500_rate0.3'."""
  return f'benefit_{arm}_n{total}_rate{rate:g}'


def read(workdir: str) -> dict[tuple[int, float], dict]:
  """(total, rate) -> arm -> kind -> accuracies [seeds] after fine-tuning.

  Seeds that all arms have; 'start' beside the kinds is the accuracy before
  the first step, on the comparisons of the quick evaluation.
  """
  pattern = r'benefit_none_n(\d+)_rate(.+)'
  points = sorted(
    (int(match[1]), float(match[2]))
    for match in sweep.names(workdir, pattern).values()
  )
  out = {}
  for point in points:
    runs = {arm: sweep.finished(workdir, run_name(arm, *point)) for arm in ARMS}
    if shared := sorted(set.intersection(*map(set, runs.values()))):
      out[point] = {
        arm: _columns([found[key] for key in shared])
        for arm, found in runs.items()
      }
  analysis.require(out, 'fine-tuning of every arm', workdir)
  return out


def at_best_rates(found: dict) -> tuple[dict, dict[int, float]]:
  """total -> arms at one rate, and that rate: the best one without PMP."""
  rates = {}
  for total, rate in found:
    here = found[total, rate]['none']['all'].mean()
    if (
      total not in rates
      or here > found[total, rates[total]]['none']['all'].mean()
    ):
      rates[total] = rate
  return {total: found[total, rate] for total, rate in rates.items()}, rates


def _columns(paths: list[pathlib.Path]) -> dict[str, np.ndarray]:
  rows = [analysis.accuracies(path) for path in paths]
  columns = {kind: np.array([r[kind] for r in rows]) for kind in rows[0]}
  first = [analysis.curve(path).accuracy['all'][0] for path in paths]
  return columns | {'start': np.array(first)}


def plot(workdir: str) -> dict:
  """Writes pmp_benefit.png and .json: accuracies, paired gains, verdicts."""
  everything = read(workdir)
  found, rates = at_best_rates(everything)
  gains = {
    total: {
      arm: {
        kind: by_kind[kind] - arms['none'][kind]
        for kind in KINDS
        if kind in by_kind
      }
      for arm, by_kind in arms.items()
      if arm != 'none'
    }
    for total, arms in found.items()
  }
  summary = {
    'rate': {str(total): rate for total, rate in rates.items()},
    'accuracy': analysis.reports(found),
    'accuracy_by_rate': analysis.reports(
      {
        f'{total} at {rate:g}': arms
        for (total, rate), arms in everything.items()
      }
    ),
    'gain_over_no_pmp': analysis.reports(gains),
    'claims': claims(gains),
  }
  return analysis.write(workdir, 'pmp_benefit', summary, draw(found))


def claims(gains: dict) -> list[dict]:
  """Verdicts on paired gains over no PMP, [seeds] each."""
  few, many = min(gains), max(gains)
  out = []
  for total, arms in gains.items():
    by_arm = {arm: kinds['all'] for arm, kinds in arms.items()}
    paper = '.05 to .10' if total == 500 else None
    out += [
      analysis.claim(
        f'binarised PMP raises the accuracy after {total} pairs',
        by_arm['binarised'],
        paper=paper,
      ),
      analysis.claim(
        f'ranked PMP raises the accuracy after {total} pairs', by_arm['ranked']
      ),
      analysis.claim(
        f'binarised PMP is worth more than as many steps without comparisons, '
        f'{total} pairs',
        by_arm['binarised'] - by_arm['control'],
      ),
      analysis.claim(
        f'ranked PMP is worth more than as many steps without comparisons, '
        f'{total} pairs',
        by_arm['ranked'] - by_arm['control'],
      ),
      analysis.claim(
        f'binarised PMP is worth more than ranked PMP, {total} pairs',
        by_arm['binarised'] - by_arm['ranked'],
      ),
    ]
  if many > few:
    out += [
      analysis.claim(
        f'{form} PMP is worth more after {few} pairs than after {many}',
        gains[few][form]['all'] - gains[many][form]['all'],
      )
      for form in ('ranked', 'binarised')
    ]
  return out


def draw(found: dict):
  """Accuracy by arm against comparisons; all, helpful and harmless pairs."""
  kinds = [kind for kind in KINDS if kind in found[min(found)]['none']]
  drawing, axes = analysis.axes(*(f'{kind} test pairs' for kind in kinds))
  for ax, kind in zip(axes, kinds, strict=True):
    for i, (arm, (label, color)) in enumerate(ARMS.items()):
      analysis.draw_estimates(
        ax,
        [total * 1.04 ** (i - 1.5) for total in found],
        [analysis.estimate(arms[arm][kind]) for arms in found.values()],
        color=color,
        marker='os^D'[i],
        label=label,
      )
    ax.set_xscale('log')
    ax.set_xticks(list(found), [f'{total:,}' for total in found])
    ax.minorticks_off()
    ax.set_xlabel('Comparisons fine-tuned on')
  axes[0].set_ylabel('Accuracy (bars: 1 s.e. over seeds)')
  axes[0].legend(frameon=False, fontsize=8)
  return drawing


if __name__ == '__main__':
  sweep.main(__doc__, run, plot)
