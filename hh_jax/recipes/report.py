"""One self-contained page about a finished run: numbers, plots, replies.

Reads JSON and JSONL of the pretrain, pm, ppo and best_of_n runs, and writes
report.html, plots/*.png and summary.json.
"""

from matplotlib import figure
import ml_collections
import numpy as np

from hh_jax import workdir as workdir_lib
from hh_jax.errors import InputError
from hh_jax.evals import figures
from hh_jax.evals.figures import Panel, Series
from hh_jax.recipes import (
  report_analysis,
  report_data,
  report_page,
  report_parts,
)
from hh_jax.recipes.report_analysis import Analysis
from hh_jax.recipes.report_data import Runs

RUNS = ('pretrain', 'pm', 'heldout_pm', 'ppo', 'best_of_n')
POLICY_PANELS = (  # rollout metric, evaluation metric, label
  ('rollout/pm_score', 'eval/pm_score', 'Training-PM score\n(PM units)'),
  ('rollout/kl_k1', 'eval/kl', 'KL to the start\n(nats a reply)'),
)
REPLY_PANELS = (
  ('rollout/length', 'eval/length', 'Reply length\n(tokens)'),
  ('rollout/stop_rate', 'eval/stop_rate', 'Replies that end\n(share)'),
)
PPO_PANELS = (
  ('ppo/approx_kl_k3', 'Policy change\n(nats a token)'),
  ('ppo/clip_fraction', 'Clipped tokens\n(share)'),
  ('rollout/explained_variance', 'Explained vari-\nance of returns'),
)
NUM_MEANS = 25  # points of the curve of training accuracy


def check(config: ml_collections.ConfigDict) -> None:
  """Raises InputError where a field is missing."""
  for name in RUNS:
    if name not in config:
      raise InputError(f'the config has no {name}: it is none for this recipe')


def run(config: ml_collections.ConfigDict, workdir: str) -> dict[str, float]:
  """Writes the report of the runs that config names, RUNS.

  pretrain, heldout_pm and best_of_n may be ''. Returns the flat numbers of the
  page.
  Raises InputError for a missing, unfinished or broken run.
  """
  check(config)
  runs = report_data.load({name: config[name] for name in RUNS})
  analysis = report_analysis.analyse(runs)
  plots = {name: figures.png(f) for name, f in draw(runs, analysis).items()}
  page = report_page.render(runs, analysis, plots)
  folder = workdir_lib.open_run(workdir, config.to_dict(), 'report')
  (folder / 'plots').mkdir(exist_ok=True)
  for name, image in plots.items():
    workdir_lib.write_bytes(folder / 'plots' / f'{name}.png', image)
  workdir_lib.write_bytes(folder / 'report.html', page.encode('utf-8'))
  workdir_lib.write_summary(workdir, analysis.numbers)
  return analysis.numbers


def draw(runs: Runs, analysis: Analysis) -> dict[str, figure.Figure]:
  """The figures by file name, in the order of the page."""
  drawings = {
    'pm_learning_curve': _learning_curve(runs, analysis),
    'pm_calibration': figures.calibration(
      analysis.bins, report_analysis.margins(runs.pm_pairs)
    ),
    'pm_groups': figures.group_accuracy(
      report_parts.pm_groups(analysis.numbers, 'pm')
    ),
    'frontier': _frontier(runs, analysis),
    'policy': _policy(runs, 'Policy: reward and KL', POLICY_PANELS),
    'replies': _policy(runs, 'Policy: replies', REPLY_PANELS),
    'ppo': _panels(
      'PPO: health of the updates',
      [
        Panel(label, _series(runs.ppo, [('update', name, True)]))
        for name, label in PPO_PANELS
      ],
      'PPO iteration',
    ),
    'pretrain': _pretrain(runs),
  }
  return {name: f for name, f in drawings.items() if f is not None}


def _series(rows: list[dict], wanted: list[tuple]) -> list[Series]:
  """The curves of (name, metric, is_faint) that the rows have."""
  found = []
  for name, metric, is_faint in wanted:
    x, y = report_data.curve(rows, metric)
    if x.size:
      errors = dict(zip(*report_data.curve(rows, f'{metric}_se'), strict=True))
      se = np.array([errors.get(step, 0.0) for step in x]) if errors else None
      found.append(Series(name, x, y, se, is_faint))
  return found


def _panels(
  title: str, panels: list[Panel], x_label: str
) -> figure.Figure | None:
  panels = [panel for panel in panels if panel.series]
  if not panels:
    return None
  return figures.over_steps(title, panels, x_label=x_label)


def _learning_curve(runs: Runs, analysis: Analysis) -> figure.Figure | None:
  held_out = report_data.accuracy_curve(runs.pm, 'eval/accuracy')
  train = report_data.accuracy_curve(runs.pm, 'train/accuracy')
  if not held_out[0].size:
    return None
  longer = analysis.numbers['pm/longer_rule']
  rule = 'longer reply wins' if longer >= 0.5 else 'shorter reply wins'
  references = {'chance': 0.5, rule: max(longer, 1 - longer)}
  if 'pm/bayes_ceiling' in analysis.numbers:
    references['gold ceiling'] = analysis.numbers['pm/bayes_ceiling']
  return figures.learning_curve(
    Series('held-out pairs', *held_out), _means(*train), references
  )


def _means(x: np.ndarray, y: np.ndarray) -> Series | None:
  """The training batches' accuracy, averaged over runs of batches."""
  if not x.size:
    return None
  parts = [np.array_split(v, min(NUM_MEANS, x.size)) for v in (x, y)]
  means = [np.array([p.mean() for p in part]) for part in parts]
  size = len(parts[0][0])
  return Series(f'training (means of {size} lines)', *means, is_faint=True)


def _frontier(runs: Runs, analysis: Analysis) -> figure.Figure:
  evaluations = analysis.evaluations
  series = [
    Series(
      name,
      evaluations.sqrt_kl,
      evaluations.gain(name),
      evaluations.score_se[name],
    )
    for name in evaluations.scores
  ]
  best = runs.best_of
  curves = [] if best is None else [
    Series(name, best.sqrt_kl, best.gains[name], best.errors[name])
    for name in evaluations.scores
    if name in best.gains
  ]  # fmt: skip
  return figures.reward_frontier(series, analysis.fits, curves)


def _policy(runs: Runs, title: str, panels: tuple) -> figure.Figure | None:
  drawn = []
  for rollout, evaluation, label in panels:
    wanted = [('rollouts', rollout, True), ('evaluation', evaluation, False)]
    drawn.append(Panel(label, _series(runs.ppo, wanted)))
  return _panels(title, drawn, 'PPO iteration')


def _pretrain(runs: Runs) -> figure.Figure | None:
  curves = [
    ('training', 'train/loss', True),
    ('evaluation', 'eval/loss', False),
  ]
  panel = Panel('Loss\n(nats a token)', _series(runs.pretrain, curves))
  return _panels('Language model: pretraining', [panel], 'Step')
