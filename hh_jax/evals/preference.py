"""How well a preference model agrees with held-out comparisons.

N pairs. A margin is score(chosen) - score(rejected) in PM units: one unit
multiplies the odds of being preferred by e (Bai et al. 2022, 2.1). Everything
is numpy on the host.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hh_jax.errors import InputError

MAX_TURNS = 5  # dialogues of this many turns or more are reported together
MIN_PER_BIN = 10  # pairs in a bin of a calibration that means something, ours


class Calibration(NamedTuple):
  """Bins of equal count by |margin|, [num_bins] each, rising in margin."""

  margin: np.ndarray  # mean |margin| of the bin, PM units
  predicted: np.ndarray  # mean of 1 / (1 + e^-|margin|)
  accuracy: np.ndarray
  low: np.ndarray  # 95 % Wilson interval of the accuracy
  high: np.ndarray
  count: np.ndarray  # int, adds up to N


def _vector(values: ArrayLike, name: str) -> np.ndarray:
  array = np.asarray(values, np.float64)
  if array.ndim != 1 or not array.size:
    raise ValueError(f'{name}: want [N] with N >= 1, not {array.shape}')
  if not np.isfinite(array).all():
    broken = np.sum(~np.isfinite(array))
    raise InputError(f'{name}: {broken} of {array.size} are not finite')
  return array


def sigmoid(x: ArrayLike) -> np.ndarray:
  """1 / (1 + e^-x) without overflow."""
  return np.exp(-np.logaddexp(0.0, -np.asarray(x, np.float64)))


def outcomes(margins: ArrayLike) -> np.ndarray:
  """1 where the chosen reply scores higher, 1/2 on a tie, else 0; [N]."""
  return 0.5 * (1.0 + np.sign(_vector(margins, 'margins')))


def accuracy(margins: ArrayLike) -> float:
  """Share of pairs whose chosen reply scores higher; a tie counts 1/2."""
  return float(outcomes(margins).mean())


def bootstrap_interval(
  values: ArrayLike,
  *,
  num_samples: int,
  seed: int,
  level: float = 0.95,
  groups: ArrayLike | None = None,
) -> tuple[float, float]:
  """Percentile interval of the mean of values [N] (Efron 1979).

  With groups [N] whole groups are resampled: comparisons of one conversation
  share their context and are not independent (our choice).
  """
  values = _vector(values, 'values')
  if num_samples < 1 or not 0 < level < 1:
    raise ValueError(
      f'want num_samples >= 1 and 0 < level < 1, not {num_samples}, {level}'
    )
  sums, counts = values, np.ones(values.size)
  if groups is not None:
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    if group.shape != values.shape:
      raise ValueError(f'{group.size} groups for {values.size} values')
    sums, counts = np.bincount(group, values), np.bincount(group)
  rng = np.random.default_rng(seed)
  means = np.empty(num_samples)
  for i in range(num_samples):
    drawn = rng.integers(sums.size, size=sums.size)
    means[i] = sums[drawn].sum() / counts[drawn].sum()
  low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
  return float(low), float(high)


def mean_interval(
  values: ArrayLike,
  *,
  groups: ArrayLike,
  lowest: float = 0.0,
  num_samples: int,
  seed: int,
) -> tuple[float, float]:
  """95 % interval of the mean of values [N] in [lowest, 1].

  Groups [N] are resampled; where that gives no spread, as for one group or
  equal values, the interval is that of `without_spread`.
  """
  low, high = bootstrap_interval(
    values, num_samples=num_samples, seed=seed, groups=groups
  )
  if has_spread(low, high):
    return low, high
  num_groups = np.unique(np.asarray(groups)).size
  return without_spread(float(np.mean(values)), num_groups, lowest=lowest)


def has_spread(low: float, high: float) -> bool:
  """Whether an interval has a width that is more than rounding."""
  return high - low > 1e-9


def without_spread(
  mean: float, num_groups: int, *, lowest: float = 0.0
) -> tuple[float, float]:
  """Interval of a mean in [lowest, 1] that resampling says nothing of.

  Wilson's, as if each group were one draw of `lowest` or 1 (our choice, on the
  cautious side).
  """
  share = np.clip((mean - lowest) / (1 - lowest), 0, 1)
  low, high = wilson_interval(share, num_groups)
  return float(lowest + (1 - lowest) * low), float(lowest + (1 - lowest) * high)


def wilson_interval(
  share: ArrayLike, count: ArrayLike, *, z: float = 1.96
) -> tuple[np.ndarray, np.ndarray]:
  """Interval of a binomial share that stays in [0, 1] (Wilson 1927)."""
  share, count = np.asarray(share), np.asarray(count)
  centre = share + z**2 / (2 * count)
  half = z * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
  scale = 1 + z**2 / count
  return (centre - half) / scale, (centre + half) / scale


def calibration(margins: ArrayLike, num_bins: int) -> Calibration:
  """Accuracy against |margin| (Bai et al. 2022, Fig 9).

  Bins hold equally many pairs (our choice): the paper does not give its bins.
  """
  margins = _vector(margins, 'margins')
  if not 1 <= num_bins <= margins.size:
    raise ValueError(f'num_bins {num_bins} is not in [1, {margins.size}]')
  order = np.argsort(np.abs(margins), kind='stable')
  bins = [margins[part] for part in np.array_split(order, num_bins)]
  count = np.array([part.size for part in bins])
  share = np.array([accuracy(part) for part in bins])
  return Calibration(
    np.array([np.abs(part).mean() for part in bins]),
    np.array([sigmoid(np.abs(part)).mean() for part in bins]),
    share,
    *wilson_interval(share, count),
    count,
  )


def fitting_bins(num_bins: int, num_pairs: int) -> int:
  """num_bins, or as many as MIN_PER_BIN pairs a bin allow; 1 or more."""
  return min(num_bins, max(1, num_pairs // MIN_PER_BIN))


def expected_calibration_error(bins: Calibration) -> float:
  """Mean over pairs of |accuracy - predicted| of the pair's bin."""
  gaps = np.abs(bins.accuracy - bins.predicted)
  return float(np.average(gaps, weights=bins.count))


def calibration_noise(bins: Calibration) -> float:
  """The calibration error a perfectly calibrated PM would show by chance.

  Mean |error| of each bin's accuracy in the normal approximation; an
  expected_calibration_error near this value is no evidence of a fault.
  """
  spread = np.sqrt(bins.predicted * (1 - bins.predicted) / bins.count)
  return float(np.average(np.sqrt(2 / np.pi) * spread, weights=bins.count))


def brier(margins: ArrayLike) -> float:
  """Mean (1 - P(chosen))^2; 1/4 for a PM that knows nothing (Brier 1950)."""
  return float(np.square(sigmoid(-_vector(margins, 'margins'))).mean())


def log_loss(margins: ArrayLike) -> float:
  """Mean log(1 + e^-margin), nats; ln 2 for a PM that knows nothing."""
  return float(np.logaddexp(0.0, -_vector(margins, 'margins')).mean())


def length_rule_accuracy(
  chosen_lengths: ArrayLike, rejected_lengths: ArrayLike
) -> float:
  """Accuracy of 'the longer reply wins'; the shorter rule gets 1 - this."""
  chosen = _vector(chosen_lengths, 'chosen_lengths')
  rejected = _vector(rejected_lengths, 'rejected_lengths')
  if chosen.shape != rejected.shape:
    raise ValueError(f'{chosen.size} chosen, {rejected.size} rejected lengths')
  return accuracy(chosen - rejected)


def bayes_ceiling(p_chosen: ArrayLike) -> float:
  """Best expected accuracy when P(rater prefers chosen) is known."""
  p = _vector(p_chosen, 'p_chosen')
  if p.min() < 0 or p.max() > 1:
    raise ValueError(f'p_chosen: [{p.min()}, {p.max()}] leaves [0, 1]')
  return float(np.maximum(p, 1 - p).mean())


def ceiling_bounds(agreement: float) -> tuple[float, float]:
  """Where the ceiling of any PM's accuracy lies, from how two raters agree.

  Two independent raters of one law prefer a with probability p: they agree with
  probability E[(1 + m^2) / 2], m = |2 p - 1|, and the ceiling on the labels of
  one of them is E[(1 + m) / 2]. With 0 <= m <= 1 and Jensen's inequality it is
  between `agreement`, where every pair is clear or a coin toss, and
  (1 + sqrt(2 agreement - 1)) / 2, where all are equally clear (our derivation).
  Raises InputError outside [1/2, 1].
  """
  if not 0.5 <= agreement <= 1:
    raise InputError(f'agreement of raters {agreement} is not in [0.5, 1]')
  return agreement, (1 + (2 * agreement - 1) ** 0.5) / 2


def share_of_ceiling(accuracy: float, ceiling: float) -> float:
  """What part of the way from chance to the ceiling the PM has come."""
  if not 0.5 < ceiling <= 1:
    raise ValueError(f'ceiling {ceiling} is not in (0.5, 1]')
  return (accuracy - 0.5) / (ceiling - 0.5)


@dataclasses.dataclass(frozen=True)
class _Pairs:
  """Columns [N] of the held-out rows; p_chosen is NaN where unknown."""

  margins: np.ndarray
  lengths: np.ndarray  # chosen minus rejected, characters
  p_chosen: np.ndarray
  sources: np.ndarray
  turns: np.ndarray
  conversations: np.ndarray

  def where(self, mask: np.ndarray) -> '_Pairs':
    values = (getattr(self, f.name) for f in dataclasses.fields(self))
    return _Pairs(*(value[mask] for value in values))


def _numbers(rows: Sequence[Mapping], name: str) -> np.ndarray:
  for i, row in enumerate(rows):
    value = row.get(name)
    if not isinstance(value, int | float) or not np.isfinite(value):
      raise InputError(f'held-out row {i}: {name} is {value!r}, not a number')
  return np.array([row[name] for row in rows], np.float64)


def _probabilities(rows: Sequence[Mapping]) -> np.ndarray:
  for i, row in enumerate(rows):
    p = row.get('p_chosen')
    if p is not None and not (isinstance(p, int | float) and 0 <= p <= 1):
      raise InputError(f'held-out row {i}: p_chosen is {p!r}, not in [0, 1]')
  return np.array([row.get('p_chosen') for row in rows], np.float64)


def _columns(rows: Sequence[Mapping]) -> _Pairs:
  return _Pairs(
    _numbers(rows, 'score_chosen') - _numbers(rows, 'score_rejected'),
    _numbers(rows, 'chosen_chars') - _numbers(rows, 'rejected_chars'),
    _probabilities(rows),
    np.array([str(r.get('source')) for r in rows]),
    np.minimum(_numbers(rows, 'turns').astype(int), MAX_TURNS),
    np.array([str(r.get('conversation', i)) for i, r in enumerate(rows)]),
  )


def _interval_report(pairs: _Pairs, **bootstrap: int) -> dict[str, float]:
  low, high = mean_interval(
    outcomes(pairs.margins), groups=pairs.conversations, **bootstrap
  )
  return {
    'accuracy': accuracy(pairs.margins),
    'accuracy_low': low,
    'accuracy_high': high,
    'pairs': pairs.margins.size,
  }


def _length_report(pairs: _Pairs, **bootstrap: int) -> dict[str, float]:
  longer = accuracy(pairs.lengths)
  sign = 1 if longer >= 0.5 else -1  # the better of the two length rules
  gains = outcomes(pairs.margins) - outcomes(sign * pairs.lengths)
  low, high = mean_interval(
    gains, groups=pairs.conversations, lowest=-1.0, **bootstrap
  )
  return {
    'longer_rule': longer,
    'shorter_rule': 1 - longer,
    'over_length_rule': float(gains.mean()),
    'over_length_rule_low': low,
    'over_length_rule_high': high,
  }


def _ceiling_report(pairs: _Pairs) -> dict[str, float]:
  if np.isnan(pairs.p_chosen).any():
    return {}
  ceiling = bayes_ceiling(pairs.p_chosen)
  if ceiling <= 0.5:
    return {'bayes_ceiling': ceiling}
  share = share_of_ceiling(accuracy(pairs.margins), ceiling)
  return {'bayes_ceiling': ceiling, 'share_of_ceiling': share}


def _full_report(
  pairs: _Pairs, num_bins: int, **bootstrap: int
) -> dict[str, float]:
  num_bins = fitting_bins(num_bins, pairs.margins.size)
  bins = calibration(pairs.margins, num_bins)
  return {
    **_interval_report(pairs, **bootstrap),
    **_length_report(pairs, **bootstrap),
    **_ceiling_report(pairs),
    'loss': log_loss(pairs.margins),
    'ece': expected_calibration_error(bins),
    'ece_noise': calibration_noise(bins),
    'brier': brier(pairs.margins),
  }


def pm_report(
  rows: Sequence[Mapping],
  *,
  num_bins: int = 10,
  num_samples: int = 1000,
  seed: int = 0,
) -> dict[str, float]:
  """Flat scalars of held-out pairs: eval/..., by source and by turns.

  Rows have source, turns, score_chosen, score_rejected, chosen_chars,
  rejected_chars and p_chosen (None if unknown); with `conversation` the
  intervals resample conversations, else pairs. Names: eval/accuracy,
  eval/<source>/accuracy, eval/turns_1/accuracy, ..., eval/turns_5_plus/...;
  bayes_ceiling and share_of_ceiling only where every p_chosen is known.
  Raises InputError naming the first bad row.
  """
  if not rows:
    raise InputError('there are no held-out pairs to report on')
  pairs = _columns(rows)
  bootstrap = {'num_samples': num_samples, 'seed': seed}
  parts = {'eval': _full_report(pairs, num_bins, **bootstrap)}
  for source in sorted(set(pairs.sources)):
    part = pairs.where(pairs.sources == source)
    parts[f'eval/{source}'] = _full_report(part, num_bins, **bootstrap)
  for turns in sorted(set(pairs.turns)):
    part = pairs.where(pairs.turns == turns)
    plus = '_plus' if turns == MAX_TURNS else ''
    parts[f'eval/turns_{turns}{plus}'] = _interval_report(part, **bootstrap)
  return {f'{a}/{b}': v for a, part in parts.items() for b, v in part.items()}
