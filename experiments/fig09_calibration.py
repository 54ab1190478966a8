"""Bai et al. 2022, Fig 9: accuracy against the difference of the scores.

Claim: models of helpful comparisons alone are very well calibrated (accuracy =
1 / (1 + e^-difference)); those of the mixture are a little under-confident,
their accuracy is above the line (A.2).
Command: python -m experiments.fig09_calibration \\
  --workdir=runs/pm_sweep [--scale=cpu]
Cost: none beside the runs of Figs 7 and 32, which it reads.
Expect: models that saw few comparisons to differ from the paper's: a small one
after one epoch is often under-confident. Models are judged on the kinds of
comparisons that they learned from. Verdicts are over seeds and over
conversations; other errors are over seeds.
"""

import numpy as np

from experiments import analysis, judged, sweep
from experiments import fig32_learning_curves_helpful as fig32
from hh_jax.evals import preference

NUM_BINS = 10
LIMIT = 0.03  # a calibration error up to this counts as calibrated, our choice


def run(config, workdir: str) -> None:
  """The preference models of Fig 7, and those of Fig 32 where there can be."""
  sweep.by_size(config, workdir)
  if config.helpful_share:
    fig32.run(config, workdir)


def read(workdir: str) -> dict[str, judged.Runs]:
  """Of what the runs learned from -> the runs, on test pairs of that."""
  found = {}
  for name in ('mix', 'helpful'):
    if name == 'mix' or sweep.finished(workdir, name):
      runs = judged.runs(workdir, name)
      kinds = judged.trained_on(workdir, name)
      found[' and '.join(kinds)] = {
        key: one.where(np.isin(one.kinds, kinds)) for key, one in runs.items()
      }
  return found


def bins_of(one: judged.Judged) -> preference.Calibration:
  return preference.calibration(one.margins, min(NUM_BINS, one.margins.size))


def gap(one: judged.Judged) -> float:
  """Accuracy less predicted accuracy."""
  predicted = preference.sigmoid(np.abs(one.margins))
  return float(np.mean(one.outcomes - predicted))


def error_over_chance(one: judged.Judged) -> float:
  """Calibration error less what a calibrated model would show."""
  bins = bins_of(one)
  error = preference.expected_calibration_error(bins)
  return error - preference.calibration_noise(bins)


def numbers(ones: list[judged.Judged]) -> dict[str, np.ndarray]:
  """Calibration numbers [seeds]; of bins [seeds, bins]."""
  bins = [bins_of(one) for one in ones]
  return {
    'ece': np.array([preference.expected_calibration_error(b) for b in bins]),
    'ece_noise': np.array([preference.calibration_noise(b) for b in bins]),
    'gap': np.array([gap(one) for one in ones]),
    'brier': np.array([preference.brier(one.margins) for one in ones]),
    'bin_margin': np.stack([b.margin for b in bins]),
    'bin_accuracy': np.stack([b.accuracy for b in bins]),
  }


def claims(found: dict[str, judged.Runs]) -> list[dict]:
  """Verdicts on the largest size."""
  out = []
  for name, runs in found.items():
    size = judged.sizes(runs)[-1]
    ones = judged.of_size(runs, size)
    conversations = ones[0].conversations
    if ' and ' in name:
      text = f'{size}: {name} models are under-confident (accuracy less '
      gaps = judged.of_each(ones, gap)
      out.append(judged.claim(text + 'predicted)', gaps, conversations))
    else:
      text = f'{size}: {name}-only models are well calibrated (error less what '
      text += 'chance gives)'
      errors = judged.of_each(ones, error_over_chance)
      out.append(judged.within(text, errors, conversations, limit=LIMIT))
  return out


def plot(workdir: str) -> dict:
  """Writes fig09.png and fig09.json: errors of calibration, bins, verdicts."""
  runs_of = read(workdir)
  found = {
    name: {
      size: numbers(judged.of_size(runs, size)) for size in judged.sizes(runs)
    }
    for name, runs in runs_of.items()
  }
  summary = {name: {} for name in found}
  for name, by_size in found.items():
    for size, values in by_size.items():
      flat = {k: v for k, v in values.items() if v.ndim == 1}
      summary[name][size] = analysis.reports(flat) | {
        k: v.mean(axis=0).tolist() for k, v in values.items() if v.ndim == 2
      }
  summary['claims'] = claims(runs_of)
  return analysis.write(workdir, 'fig09', summary, draw(found))


def draw(found: dict):
  """An axes a training set: accuracy by difference, bars over seeds."""
  titles = [f'{name} comparisons' for name in found]
  drawing, axes = analysis.axes(*titles, width=4.4)
  for ax, by_size in zip(axes, found.values(), strict=True):
    highest = max(v['bin_margin'].max() for v in by_size.values())
    line = np.linspace(0, highest * 1.05, 100)
    label = 'calibrated: 1 / (1 + exp(−Δ))'
    ax.plot(line, preference.sigmoid(line), 'k--', lw=1, label=label)
    colors = analysis.colors(len(by_size))
    for color, (size, v) in zip(colors, by_size.items(), strict=True):
      estimates = [analysis.estimate(one) for one in v['bin_accuracy'].T]
      style = dict(color=color, marker='o', ls='', label=size)
      x = v['bin_margin'].mean(axis=0)
      analysis.draw_estimates(ax, x, estimates, **style)
    ax.set_xlabel('|Δ|: difference of the two scores (PM units)')
    ax.legend(frameon=False, fontsize=8)
  axes[0].set_ylabel('Accuracy on the test set')
  return drawing


if __name__ == '__main__':
  sweep.main(__doc__, run, plot)
