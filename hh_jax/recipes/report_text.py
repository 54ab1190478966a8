"""What the report says in words: claims of the paper against the numbers.

Every sentence is made from the numbers of the run; verdicts follow fixed rules
that the sentence states.
"""

from collections.abc import Mapping
import dataclasses

import numpy as np

from hh_jax.evals.frontier import Fall, LineFit
from hh_jax.evals.preference import Calibration
from hh_jax.recipes import report_data
from hh_jax.recipes.report_analysis import Analysis

CAPTIONS = {
  'pm_learning_curve': 'Accuracy on held-out pairs against training pairs seen '
  '(Bai et al. 2022, Fig 7). A tie counts one half.',
  'pm_calibration': 'Accuracy in bins of equal count against the difference '
  'of the two scores (Fig 9), and below how the differences are spread. Above '
  'the dashed line the model is under-confident.',
  'pm_groups': 'Held-out accuracy by source and by length of the dialogue '
  '(Fig 8). The better length rule is the better of “longer wins” and “shorter '
  'wins” on that set.',
  'frontier': 'Gain of the mean score over the first evaluation against √KL '
  '(Figs 4, 13). Bars: 1 standard error of the mean score. Lines: least '
  'squares; bands: 2 standard errors. Points of one run are not independent, '
  'so the bands are lower bounds. Dashed, open marks at k = 1, 4, 16 …: '
  'best of k of the start (B.6), with 1 standard error.',
  'policy': 'Dots: held-out prompts, the same at every evaluation, with 1 '
  'standard error. Pale lines: training rollouts.',
  'replies': 'Dots and lines as before: how long replies are, and the share '
  'that ends before the token limit.',
  'ppo': 'Means over the updates of an iteration. Explained variance near 1: '
  'the value head predicts the returns.',
  'pretrain': 'Next-token loss of the language model all else starts from.',
}
YES, NO, UNCLEAR, REPORTED = 'supported', 'not supported', 'unclear', 'measured'
WELL_CALIBRATED = 0.03  # expected calibration error, our choice
SEEN, NOT_SEEN = 'seen', 'not seen'  # of what nobody hopes for


@dataclasses.dataclass(frozen=True)
class Claim:
  """One claim, what the run says to it, and the numbers behind."""

  claim: str
  verdict: str
  evidence: str


def percent(share: float) -> str:
  """0.6712 -> '67.1 %'."""
  return f'{100 * share:.1f} %'


def points(share: float) -> str:
  """0.0712 -> '+7.1', percentage points."""
  return signed(100 * share, 1)


def signed(value: float, digits: int = 2) -> str:
  """1.2345 -> '+1.23', with a real minus sign."""
  return f'{round(value, digits) + 0.0:+.{digits}f}'.replace('-', '−')


def plain(value: float, digits: int = 2) -> str:
  """1.2345 -> '1.23', with a real minus sign."""
  return f'{round(value, digits) + 0.0:.{digits}f}'.replace('-', '−')


def with_error(value: str, error: float | None, digits: int = 2) -> str:
  """'+1.23' -> '+1.23 ± 0.04' where the standard error is known."""
  return value if error is None else f'{value} ± {error:.{digits}f}'


def interval(numbers: Mapping[str, float], name: str) -> str:
  """'67.1 % [65.0, 69.2]' of an accuracy and its bootstrap interval."""
  low, high = numbers[f'{name}_low'], numbers[f'{name}_high']
  return f'{percent(numbers[name])} [{100 * low:.1f}, {100 * high:.1f}]'


def difference(numbers: Mapping[str, float], name: str) -> str:
  """'+7.1 [+4.9, +9.2]', percentage points."""
  ends = f'{points(numbers[f"{name}_low"])}, {points(numbers[f"{name}_high"])}'
  return f'{points(numbers[name])} [{ends}]'


def claims(analysis: Analysis) -> list[Claim]:
  """The claims that the run's files can speak to, in the page's order."""
  found = [
    length_claim(analysis.numbers),
    calibration_claim(analysis.numbers, analysis.bins),
  ]
  for name in analysis.evaluations.scores:
    found.append(_gain_claim(analysis.numbers, name))
  for name, fit in analysis.fits.items():
    found.append(_line_claim(analysis.numbers, name, fit))
  if 'frontier/pm_efficiency' in analysis.numbers:
    fit = analysis.fits['training PM']
    found.append(_efficiency_claim(analysis.numbers, fit))
  for name in analysis.evaluations.scores:
    if f'best_of_n/{report_data.SCORES[name][0]}_lead' in analysis.numbers:
      found.append(_best_of_claim(analysis.numbers, name))
  for name, fall in analysis.falls.items():
    found.append(_fall_claim(analysis, name, fall))
  return found


def _sign_verdict(low: float, high: float) -> str:
  if low > 0:
    return YES
  return NO if high < 0 else UNCLEAR


def length_claim(numbers: Mapping[str, float]) -> Claim:
  """From `pm/...`: is the PM better than a rule of length?"""
  name = 'pm/over_length_rule'
  longer = numbers['pm/longer_rule']
  rule = 'longer' if longer >= 0.5 else 'shorter'
  return Claim(
    'The preference model learned more than reply length.',
    _sign_verdict(numbers[f'{name}_low'], numbers[f'{name}_high']),
    f'Accuracy {interval(numbers, "pm/accuracy")}; “the {rule} reply '
    f'wins” gets {percent(max(longer, 1 - longer))} on the same pairs. '
    f'Difference {difference(numbers, name)} points (95 % interval, paired).',
  )


def calibration_claim(numbers: Mapping[str, float], bins: Calibration) -> Claim:
  """From `pm/...` and its bins: is the error more than chance gives?"""
  error, noise = numbers['pm/ece'], numbers['pm/ece_noise']
  gap = float(np.average(bins.accuracy - bins.predicted, weights=bins.count))
  side = 'under-confident' if gap > 0 else 'over-confident'
  # the deviation of a half-normal error is 0.756 of its mean
  limit = noise * (1 + 2 * 0.756 / bins.count.size**0.5)
  verdict = YES if limit <= WELL_CALIBRATED else UNCLEAR
  if error > max(WELL_CALIBRATED, limit):
    verdict = NO
  return Claim(
    'The preference model is calibrated: P(A preferred) = σ(difference).',
    verdict,
    f'Expected calibration error {percent(error)} over {bins.count.size} bins; '
    f'chance alone would give {percent(noise)}, seldom {percent(limit)}. Up to '
    f'{percent(WELL_CALIBRATED)} counts as calibrated, more than that and than '
    f'chance as not; with too few pairs to tell the two apart, as unclear. '
    f'Accuracy is {points(gap)} points from the predicted on average ({side}). '
    f'Brier score {numbers["pm/brier"]:.3f} (0.250: knows nothing).',
  )


def _gain_claim(numbers: Mapping[str, float], name: str) -> Claim:
  prefix = f'policy/{report_data.SCORES[name][0]}_gain'
  gain, error = numbers[prefix], numbers.get(f'{prefix}_se')
  verdict = REPORTED
  if error is not None:
    verdict = _sign_verdict(gain - 2 * error, gain + 2 * error)
  text = f'Change of {with_error(signed(gain), error)}'
  if name != 'gold':
    elo = signed(gain * 400 / np.log(10), 0)
    text += f' PM units, {elo} Elo if the PM is right'
  judge = 'the gold score' if name == 'gold' else f'the {name}'
  limit = ''
  if error is not None:
    limit = (
      ' The error is over prompts and samples, and twice it decides: another '
      'seed of training may differ by more.'
    )
  return Claim(
    f'PPO made replies better by {judge}.', verdict, f'{text}.{limit}'
  )


def _line_claim(numbers: Mapping[str, float], name: str, fit: LineFit) -> Claim:
  ratio = numbers.get(f'frontier/{report_data.SCORES[name][0]}_slope_ratio')
  bend = '' if ratio is None else (
    f' Slope of the upper half of the points ÷ lower half: {plain(ratio)} '
    '(1 for a straight line).'
  )  # fmt: skip
  return Claim(
    f'Linear in √KL? R² = {fit.r_squared:.3f} ({name} score)',
    REPORTED,
    f'Slope {with_error(plain(fit.slope, 3), fit.slope_se, 3)} a √nat, '
    f'intercept {with_error(plain(fit.intercept, 3), fit.intercept_se, 3)}, '
    f'residuals {fit.residual_rms:.3f} rms, {fit.num_points} points.{bend}',
  )


def _efficiency_claim(numbers: Mapping[str, float], fit: LineFit) -> Claim:
  value = numbers['frontier/pm_efficiency']
  error = fit.slope_se / fit.slope * value if fit.slope else 0.0
  above = (
    ' Above 1: scores with heavy tails, or an error in the KL.'
    if value > 1
    else ''
  )
  return Claim(
    'The slope stays below its small-KL bound √2·σ.',
    _sign_verdict(1 - value - 2 * error, 1 - value + 2 * error),
    f'Slope ÷ (√2·σ) = {with_error(plain(value), error)}, with σ = '
    f'{numbers["frontier/within_prompt_std"]:.3f} PM units, the spread of the '
    f'first policy’s scores within a prompt.{above}',
  )


def _best_of_claim(numbers: Mapping[str, float], name: str) -> Claim:
  prefix = f'best_of_n/{report_data.SCORES[name][0]}_lead'
  lead, error = numbers[prefix], numbers.get(f'{prefix}_se')
  verdict = REPORTED
  if error is not None:
    verdict = _sign_verdict(lead - 2 * error, lead + 2 * error)
  root = plain(numbers['best_of_n/same_sqrt_kl'])
  return Claim(
    f'Best of n gains more than PPO at the same KL, by the {name} score '
    '(Gao et al. 2022).',
    verdict,
    f'Best of n minus PPO: {with_error(signed(lead), error)} at √KL = {root}, '
    'linear between evaluations. Twice the error decides.',
  )


def _fall_claim(analysis: Analysis, name: str, fall: Fall) -> Claim:
  evaluations = analysis.evaluations
  title = f'Over-optimisation, judged by the {name} score.'
  if fall.peak == evaluations.steps.size - 1:
    text = f'The {name} score is highest at the last evaluation.'
    return Claim(title, NOT_SEEN, text)
  text = (
    f'Highest at iteration {evaluations.steps[fall.peak]:g} '
    f'(√KL = {evaluations.sqrt_kl[fall.peak]:.2f}), then down by '
    f'{with_error(f"{fall.drop:.2f}", fall.drop_se)} while the training '
    f'PM’s score changed by {signed(fall.proxy_rise)}.'
  )
  if fall.is_overoptimised:
    return Claim(
      title,
      SEEN,
      f'The {name} score falls while the training PM’s score rises. {text}',
    )
  why = (
    'Unclear: the fall or the rise is within its error (unpaired, so on the '
    'cautious side).'
  )
  return Claim(title, UNCLEAR, f'{why} {text}')
