"""The numbers of the report: what the runs' files say, and what they do not.

P evaluations of the policy.
"""

import collections
from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from hh_jax.errors import InputError
from hh_jax.evals import frontier, preference
from hh_jax.recipes import report_data
from hh_jax.recipes.report_best_of import BestOf
from hh_jax.recipes.report_data import Evaluations, Runs

NUM_BINS = 10
OTHERS = {'length': 'eval/length', 'stop_rate': 'eval/stop_rate'}


@dataclasses.dataclass(frozen=True)
class Analysis:
  """Everything the page and its plots show."""

  numbers: dict[str, float]  # flat; becomes summary.json
  bins: preference.Calibration
  evaluations: Evaluations
  fits: dict[str, frontier.LineFit]
  falls: dict[str, frontier.Fall]
  is_gold: bool  # the data is the simulator's: true scores are known
  notes: list[str]  # what was left out, and why


def analyse(runs: Runs) -> Analysis:
  """The numbers, fits and remarks of the page."""
  evaluations = report_data.evaluations(runs.ppo)
  notes = _absent(runs, evaluations)
  fits, falls = _fits(evaluations, notes), _falls(evaluations)
  numbers = {
    **_pm_numbers('pm', runs.pm_pairs),
    **_pm_numbers('heldout_pm', runs.heldout_pairs),
    **_policy_numbers(evaluations, runs),
    **_frontier_numbers(evaluations, fits, runs),
    **_best_of_numbers(evaluations, runs.best_of),
  }
  for name, fall in falls.items():
    prefix = f'overoptimisation/{report_data.SCORES[name][0]}'
    numbers[f'{prefix}_drop'] = fall.drop
    numbers[f'{prefix}_drop_se'] = fall.drop_se
    numbers[f'{prefix}_pm_rise'] = fall.proxy_rise
    numbers[f'{prefix}_found'] = float(fall.is_overoptimised)
  return Analysis(
    numbers=numbers,
    bins=preference.calibration(
      margins(runs.pm_pairs),
      preference.fitting_bins(NUM_BINS, len(runs.pm_pairs)),
    ),
    evaluations=evaluations,
    fits=fits,
    falls=falls,
    is_gold='gold' in evaluations.scores
    or any(r.get('p_chosen') is not None for r in runs.pm_pairs),
    notes=notes,
  )


def margins(rows: Sequence[Mapping]) -> np.ndarray:
  """Score of the chosen minus that of the rejected reply, PM units, [N]."""
  return np.array([r['score_chosen'] - r['score_rejected'] for r in rows])


def pair_sets(numbers: Mapping[str, float], pm: str) -> dict[str, str]:
  """Label -> prefix in `numbers` of the sets of held-out pairs of one PM:
  all, each source where there are several, dialogues by their turns."""
  ends = '/accuracy'
  prefixes = [key.removesuffix(ends) for key in numbers if key.endswith(ends)]
  parts = [p.removeprefix(f'{pm}/') for p in prefixes if p.startswith(f'{pm}/')]
  sources = [part for part in parts if f'{pm}/{part}/longer_rule' in numbers]
  labels = {'all': pm} if pm in prefixes else {}
  for part in parts:
    if part in sources:
      label = part
    else:
      count = part.removeprefix('turns_').replace('_plus', ' or more')
      label = 'turns: ' + count
    if part not in sources or len(sources) > 1:
      labels[label] = f'{pm}/{part}'
  return labels


def _pm_numbers(name: str, rows: list[dict]) -> dict[str, float]:
  if not rows:
    return {}
  try:
    report = preference.pm_report(rows, num_bins=NUM_BINS)
  except InputError as e:
    raise InputError(f'config.{name}: eval.jsonl: {e}') from None
  return {key.replace('eval', name, 1): v for key, v in report.items()}


def _policy_numbers(evaluations: Evaluations, runs: Runs) -> dict[str, float]:
  numbers = {
    'policy/evaluations': evaluations.steps.size,
    'policy/first_step': float(evaluations.steps[0]),
    'policy/last_step': float(evaluations.steps[-1]),
    'policy/kl': float(evaluations.kl[-1]),
  }
  for name in evaluations.scores:
    prefix = f'policy/{report_data.SCORES[name][0]}'
    numbers[f'{prefix}_gain'] = float(evaluations.gain(name)[-1])
    error = _gain_error(evaluations, name, runs.summaries['ppo'])
    if error is not None:
      numbers[f'{prefix}_gain_se'] = error
  for name, metric in OTHERS.items():
    values = report_data.curve(runs.ppo, metric)[1]
    if values.size:
      numbers[f'policy/{name}_first'] = float(values[0])
      numbers[f'policy/{name}_last'] = float(values[-1])
  return numbers


def _gain_error(
  evaluations: Evaluations, name: str, summary: Mapping[str, float]
) -> float | None:
  """Standard error of the last gain: paired by prompt if the run tells it,
  else as if the two evaluations were independent."""
  metric = report_data.SCORES[name][1].removeprefix('eval/')
  paired = report_data.number(summary, f'gain/{metric}_se')
  errors = evaluations.score_se[name]
  if paired is not None or errors is None:
    return paired
  return float(np.hypot(errors[0], errors[-1]))


def _fits(
  evaluations: Evaluations, notes: list[str]
) -> dict[str, frontier.LineFit]:
  fits = {}
  for name in evaluations.scores:
    try:
      fits[name] = frontier.fit_line(
        evaluations.sqrt_kl, evaluations.gain(name)
      )
    except ValueError as e:
      notes.append(f'No line fitted to the {name} score: {e}.')
  return fits


def _frontier_numbers(
  evaluations: Evaluations, fits: Mapping[str, frontier.LineFit], runs: Runs
) -> dict[str, float]:
  numbers = {}
  for name, fit in fits.items():
    prefix = f'frontier/{report_data.SCORES[name][0]}'
    numbers[f'{prefix}_slope'] = fit.slope
    numbers[f'{prefix}_slope_se'] = fit.slope_se
    numbers[f'{prefix}_intercept'] = fit.intercept
    numbers[f'{prefix}_intercept_se'] = fit.intercept_se
    numbers[f'{prefix}_r_squared'] = fit.r_squared
    numbers[f'{prefix}_residual_rms'] = fit.residual_rms
    numbers[f'{prefix}_points'] = fit.num_points
    ratio = _slope_ratio(evaluations, name)
    if ratio is not None:
      numbers[f'{prefix}_slope_ratio'] = ratio
  spread = report_data.curve(runs.ppo, 'eval/within_prompt_std')[1]
  if spread.size and spread[0] > 0 and 'training PM' in fits:
    numbers['frontier/within_prompt_std'] = float(spread[0])
    numbers['frontier/pm_efficiency'] = frontier.efficiency(
      fits['training PM'].slope, float(spread[0])
    )
  return numbers


def _slope_ratio(evaluations: Evaluations, name: str) -> float | None:
  try:
    return frontier.slope_ratio(evaluations.sqrt_kl, evaluations.gain(name))
  except ValueError:  # too few points, or all at one KL
    return None


def _best_of_numbers(
  evaluations: Evaluations, best_of: BestOf | None
) -> dict[str, float]:
  """Best of n's gain at the largest n, and its lead over the policy."""
  if best_of is None:
    return {}
  numbers = {
    'best_of_n/n': float(best_of.k[-1]),
    'best_of_n/prompts': float(best_of.num_prompts),
    'best_of_n/sqrt_kl': float(best_of.sqrt_kl[-1]),
  }
  where = float(min(best_of.sqrt_kl.max(), evaluations.sqrt_kl.max()))
  if where > 0:  # the policy has moved
    numbers['best_of_n/same_sqrt_kl'] = where
  for name in evaluations.scores:
    if name in best_of.gains:
      prefix = f'best_of_n/{report_data.SCORES[name][0]}'
      numbers[f'{prefix}_gain'] = float(best_of.gains[name][-1])
      numbers[f'{prefix}_gain_se'] = float(best_of.errors[name][-1])
      if where > 0:
        lead, error = _lead(evaluations, best_of, name, where)
        numbers[f'{prefix}_lead'] = lead
        if error is not None:
          numbers[f'{prefix}_lead_se'] = error
  return numbers


def _lead(
  evaluations: Evaluations, best_of: BestOf, name: str, where: float
) -> tuple[float, float | None]:
  """Best of n's gain less the policy's at sqrt(KL) `where`, and its error.

  The error takes all means as independent, though both are over prompts of one
  set: cautious.
  """

  def best(values: np.ndarray) -> float:
    return frontier.interpolate(best_of.sqrt_kl, values, where)

  def own(values: np.ndarray) -> float:
    return frontier.interpolate(evaluations.sqrt_kl, values, where)

  lead = best(best_of.gains[name]) - own(evaluations.gain(name))
  errors = evaluations.score_se[name]
  if errors is None:
    return lead, None
  of_gain = np.hypot(errors, errors[0])
  return lead, float(np.hypot(best(best_of.errors[name]), own(of_gain)))


def _falls(evaluations: Evaluations) -> dict[str, frontier.Fall]:
  """Of the scores whose errors, and the training PM's, were logged."""
  proxy, errors = 'training PM', evaluations.score_se
  if errors[proxy] is None:
    return {}
  return {
    name: frontier.fall_from_peak(
      evaluations.scores[proxy], score, errors[name], errors[proxy]
    )
    for name, score in evaluations.scores.items()
    if name != proxy and errors[name] is not None
  }


def _absent(runs: Runs, evaluations: Evaluations) -> list[str]:
  """What the page leaves out, one sentence each."""
  first, is_noise = evaluations.steps[0], evaluations.kl < 0
  remarks = (
    (not runs.pretrain, 'No pretraining run was given.'),
    (
      not runs.heldout_pairs,
      'No held-out preference model was given: its accuracy is left out.',
    ),
    (
      'held-out PM' not in evaluations.scores,
      'A held-out preference model did not score the policy at every '
      'evaluation: that curve is left out.',
    ),
    (
      'gold' not in evaluations.scores,
      'There is no gold score at every evaluation: this run cannot tell '
      'whether the policy got better by the true reward.',
    ),
    (
      runs.best_of is None,
      'No best_of_n run was given: nothing is on the axes beside PPO.',
    ),
    (
      runs.best_of is not None and _scores_otherwise(runs.settings['ppo']),
      'Best of n ranks a reply that is cut by its score less the penalty; PPO '
      'scored it by another rule (its no_stop and score_norm).',
    ),
    (not runs.samples, 'The PPO run has no samples.jsonl: no replies shown.'),
    (
      first != 0,
      f'The first evaluation is at iteration {first:g}, not 0: gains are '
      'counted from there.',
    ),
    (
      is_noise.any(),
      f'{is_noise.sum()} of {is_noise.size} KL estimates are negative (noise) '
      'and are drawn at 0.',
    ),
  )
  return [text for is_true, text in remarks if is_true] + _not_finite(runs)


def _scores_otherwise(ppo: Mapping) -> bool:
  config = ppo['config']
  rule = (config['no_stop'], config['score_norm'])
  return rule != ('subtract', 'centre')


def _not_finite(runs: Runs) -> list[str]:
  count = collections.Counter(
    (name, key)
    for name in ('pretrain', 'pm', 'ppo')
    for row in getattr(runs, name)
    for key, value in row.items()
    if isinstance(value, float) and not np.isfinite(value)
  )
  return [
    f'{n} values of {key} of the {name} run are not finite and are not drawn.'
    for (name, key), n in sorted(count.items())
  ]
