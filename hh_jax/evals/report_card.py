"""The report card of a preference model, from its scores of held-out pairs.

N comparisons, all numpy on the host. Scores and margins (score of the chosen
minus that of the rejected reply) are in PM units, lengths in characters.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hh_jax.errors import InputError
from hh_jax.evals import preference

KINDS = ('helpful', 'harmless')  # what a source's name says it compares
MIN_SAMPLES = 100  # of the bootstrap: fewer do not tell the ends of 95 %


class Share(NamedTuple):
  """A share of `count` pairs with its 95 % interval."""

  value: float
  low: float
  high: float
  count: int

  def numbers(self, prefix: str) -> dict[str, float]:
    """Flat scalars, named as those of evals/preference.pm_report."""
    return {
      f'{prefix}/accuracy': self.value,
      f'{prefix}/accuracy_low': self.low,
      f'{prefix}/accuracy_high': self.high,
      f'{prefix}/pairs': self.count,
    }


class Thresholds(NamedTuple):
  """Accuracy where both scores are above a threshold, [K] each."""

  threshold: np.ndarray  # PM units, after the shift
  accuracy: np.ndarray
  low: np.ndarray  # 95 % interval of the accuracy
  high: np.ndarray
  count: np.ndarray  # int, pairs


class Histogram(NamedTuple):
  """Scores after the shift, counted in bins of one width."""

  edges: np.ndarray  # [bins + 1], PM units
  chosen: np.ndarray  # int [bins], adds up to N
  rejected: np.ndarray


@dataclasses.dataclass(frozen=True)
class Card:
  """All that one set of judged pairs says."""

  numbers: dict[str, float]  # flat
  margins: np.ndarray  # [N]
  bins: preference.Calibration  # by |margin|
  ranges: np.ndarray  # [bins, 2], smallest and largest |margin| of each
  thresholds: dict[str, Thresholds]  # 'all', and each kind of source
  histogram: Histogram
  notes: list[str]  # what was left out, and why


def share(
  outcomes: ArrayLike, groups: ArrayLike, *, num_samples: int, seed: int
) -> Share:
  """Mean of outcomes [N] in [0, 1]; the interval resamples groups [N].

  As evals/preference.mean_interval. Raises ValueError for N = 0.
  """
  outcomes = np.asarray(outcomes, np.float64)
  low, high = preference.mean_interval(
    outcomes, groups=groups, num_samples=num_samples, seed=seed
  )
  return Share(float(outcomes.mean()), low, high, outcomes.size)


def centre(chosen: ArrayLike, rejected: ArrayLike) -> float:
  """Mean score of all 2N replies: what is taken off, so that it becomes 0.

  Only differences of PM scores mean something; PMs are compared after this
  shift (Bai et al. 2022, Fig 25).
  """
  return float(np.mean([np.mean(chosen), np.mean(rejected)]))


def above_thresholds(
  chosen: np.ndarray,
  rejected: np.ndarray,
  groups: np.ndarray,
  *,
  thresholds: Sequence[float],
  **bootstrap: int,
) -> Thresholds:
  """Accuracy on the pairs whose scores [N] are both above t (Fig 25).

  Thresholds that no pair passes are left out. bootstrap: as for `share`.
  """
  lowest, outcomes = np.minimum(chosen, rejected), _outcomes(chosen, rejected)
  found = []
  for t in sorted(thresholds):
    mask = lowest > t
    if mask.any():
      found.append((t, *share(outcomes[mask], groups[mask], **bootstrap)))
  columns = np.array(found, np.float64).reshape(-1, 5).T
  return Thresholds(*columns[:4], columns[4].astype(int))


def margin_ranges(margins: ArrayLike, num_bins: int) -> np.ndarray:
  """Smallest and largest |margin| of each bin of `calibration`, [bins, 2]."""
  parts = np.array_split(np.sort(np.abs(margins)), num_bins)
  return np.array([(part[0], part[-1]) for part in parts])


def ranks(values: ArrayLike) -> np.ndarray:
  """Ranks 1 .. N of values [N]; equal values share their mean rank."""
  _, place, counts = np.unique(
    np.asarray(values), return_inverse=True, return_counts=True
  )
  return (np.cumsum(counts) - (counts - 1) / 2)[place]


def pearson(x: ArrayLike, y: ArrayLike) -> float:
  """Correlation of x [N] and y [N]; ValueError where one does not vary."""
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if x.ndim != 1 or x.shape != y.shape:
    raise ValueError(f'want two [N], not {x.shape} and {y.shape}')
  if not x.size or np.ptp(x) == 0 or np.ptp(y) == 0:
    raise ValueError('a constant has no correlation')
  x, y = x - x.mean(), y - y.mean()
  return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
  """Pearson correlation of the ranks; ValueError where one does not vary."""
  return pearson(ranks(x), ranks(y))


def both_ways(differences: np.ndarray) -> np.ndarray:
  """[N] -> [2N]: every pair also with its sides exchanged.

  So a correlation of two differences does not depend on which side is called
  the chosen one; it is that of the replies after each pair's mean is taken off.
  """
  return np.concatenate([differences, -differences])


def length_slope(margins: ArrayLike, lengths: ArrayLike) -> float:
  """PM units a character: least squares of margin = slope * length, [N] each.

  No intercept: exchanging the sides turns both signs round. lengths: chosen
  minus rejected. Raises ValueError where no two lengths differ.
  """
  margins, lengths = np.asarray(margins), np.asarray(lengths, np.float64)
  squares = float(lengths @ lengths)
  if not squares:
    raise ValueError('no two lengths differ: no slope')
  return float(margins @ lengths) / squares


def is_length_matched(
  chosen: ArrayLike, rejected: ArrayLike, max_share: float
) -> np.ndarray:
  """Whether lengths [N] differ by at most max_share of the longer one."""
  chosen, rejected = np.asarray(chosen), np.asarray(rejected)
  return np.abs(chosen - rejected) <= max_share * np.maximum(chosen, rejected)


def kind(source: str) -> str:
  """'helpful' or 'harmless' where the source's name says so, else 'other'."""
  return next((name for name in KINDS if name in source), 'other')


def histogram(
  chosen: np.ndarray, rejected: np.ndarray, num_bins: int
) -> Histogram:
  """Both sets of scores [N] in the same num_bins bins over their range."""
  edges = np.histogram_bin_edges(
    np.concatenate([chosen, rejected]), bins=num_bins
  )
  counts = (np.histogram(scores, edges)[0] for scores in (chosen, rejected))
  return Histogram(edges, *counts)


def invariance(
  base: ArrayLike, variants: Mapping[str, ArrayLike]
) -> dict[str, float]:
  """How much scores [N, 2] change where nothing should change, PM units.

  By variant its largest |difference| from `base`; `largest` of all; `changed`,
  the pairs whose winner is not the same in all of them; and `changed_margin`,
  the largest |margin| among these, 0 where there is none.
  """
  base = np.asarray(base, np.float64)
  arrays = {name: np.asarray(x, np.float64) for name, x in variants.items()}
  for name, scores in arrays.items():
    if scores.shape != base.shape or base.shape[1:] != (2,):
      raise ValueError(f'{name}: {scores.shape}, want {base.shape} = [N, 2]')
  numbers = {
    name: float(np.abs(scores - base).max()) for name, scores in arrays.items()
  }
  margins = np.stack([x[:, 0] - x[:, 1] for x in (base, *arrays.values())])
  changed = (np.sign(margins) != np.sign(margins[0])).any(axis=0)
  return numbers | {
    'largest': max(numbers.values()),
    'changed': int(changed.sum()),
    'changed_margin': float(np.abs(margins[:, changed]).max(initial=0)),
    'pairs': len(base),
  }


def check(
  *,
  thresholds: Sequence[float],
  length_share: float,
  num_bins: int,
  histogram_bins: int,
  num_samples: int,
) -> None:
  """Raises InputError for settings of `card` that can mean nothing."""
  counts = dict(
    num_bins=num_bins, histogram_bins=histogram_bins, num_samples=num_samples
  )
  for name, value in counts.items():
    if value < 1:
      raise InputError(f'config.{name} {value} is not 1 or more')
  if num_samples < MIN_SAMPLES:
    raise InputError(f'config.num_samples {num_samples} is below {MIN_SAMPLES}')
  if not 0 <= length_share < 1:
    raise InputError(f'config.length_share {length_share} is not in [0, 1)')
  for t in thresholds:
    if isinstance(t, bool) or not isinstance(t, int | float):
      raise InputError(f'config.thresholds: {t!r} is not a number')
    if not np.isfinite(t):
      raise InputError(f'config.thresholds: {t} is not finite')
  if not thresholds or len(set(thresholds)) < len(thresholds):
    raise InputError(
      f'config.thresholds {tuple(thresholds)}: name one or more, each once'
    )


def card(
  rows: Sequence[Mapping[str, Any]],
  *,
  thresholds: Sequence[float],
  length_share: float,
  num_bins: int,
  histogram_bins: int,
  num_samples: int,
  seed: int,
) -> Card:
  """The report card of judged pairs; rows as for evals/preference.pm_report.

  Its scalars stand under `pm/`, the others under `kind/`, `threshold/SET/T/`,
  `length/` and `score/`. Intervals are 95 % and resample conversations.
  Raises InputError where there are no rows, for a bad one, and for more bins
  than the pairs fill.
  """
  bootstrap = {'num_samples': num_samples, 'seed': seed}
  report = preference.pm_report(rows, num_bins=num_bins, **bootstrap)
  most = preference.fitting_bins(num_bins, len(rows))
  if num_bins > most:
    raise InputError(
      f'config.num_bins {num_bins} is above {most}: the pairs are {len(rows)}, '
      f'and a bin needs {preference.MIN_PER_BIN}'
    )
  numbers = {key.replace('eval', 'pm', 1): v for key, v in report.items()}
  chosen, rejected = (
    np.array([row[f'score_{side}'] for row in rows], np.float64)
    for side in ('chosen', 'rejected')
  )
  zero = centre(chosen, rejected)
  numbers['score/centre'] = zero
  numbers['score/std'] = float(np.std([chosen, rejected]))
  groups = np.array([str(r.get('conversation', i)) for i, r in enumerate(rows)])
  kinds = np.array([kind(str(row['source'])) for row in rows])
  curves_by_set, in_sets = _by_kind(
    *(chosen - zero, rejected - zero, groups, kinds, thresholds), **bootstrap
  )
  lengths, notes = _length_report(rows, groups, length_share, **bootstrap)
  return Card(
    numbers=numbers | in_sets | lengths,
    margins=chosen - rejected,
    bins=preference.calibration(chosen - rejected, num_bins),
    ranges=margin_ranges(chosen - rejected, num_bins),
    thresholds=curves_by_set,
    histogram=histogram(chosen - zero, rejected - zero, histogram_bins),
    notes=notes,
  )


def _by_kind(
  chosen: np.ndarray,
  rejected: np.ndarray,
  groups: np.ndarray,
  kinds: np.ndarray,
  thresholds: Sequence[float],
  **bootstrap: int,
) -> tuple[dict[str, Thresholds], dict[str, float]]:
  """Curves of accuracy above thresholds, of all pairs and of each kind, and
  `kind/...` and `threshold/...`; scores are shifted already."""
  by_set, numbers = {}, {}
  outcomes = _outcomes(chosen, rejected)
  masks = {name: kinds == name for name in (*KINDS, 'other')}
  masks = {name: mask for name, mask in masks.items() if mask.any()}
  for name, mask in masks.items():
    part = share(outcomes[mask], groups[mask], **bootstrap)
    numbers |= part.numbers(f'kind/{name}')
  everything = {'all': np.full(kinds.size, True)}
  for name, mask in (everything | (masks if len(masks) > 1 else {})).items():
    parts = chosen[mask], rejected[mask], groups[mask]
    by_set[name] = above_thresholds(*parts, thresholds=thresholds, **bootstrap)
    for t, *found in zip(*by_set[name], strict=True):
      numbers |= Share(*found).numbers(f'threshold/{name}/{t:g}')
  return by_set, numbers


def curves(made: Card) -> dict[str, Any]:
  """The curves of a card as JSON types: all that its figures are drawn from."""
  calibration = _lists(made.bins) | {
    'smallest': made.ranges[:, 0].tolist(),
    'largest': made.ranges[:, 1].tolist(),
  }
  return {
    'calibration': calibration,
    'thresholds': {k: _lists(v) for k, v in made.thresholds.items()},
    'histogram': _lists(made.histogram),
  }


def _lists(values: Any) -> dict[str, list]:
  return {name: x.tolist() for name, x in values._asdict().items()}


def _outcomes(chosen: np.ndarray, rejected: np.ndarray) -> np.ndarray:
  return preference.outcomes(chosen - rejected)


def _length_report(
  rows: Sequence[Mapping[str, Any]],
  groups: np.ndarray,
  max_share: float,
  **bootstrap: int,
) -> tuple[dict[str, float], list[str]]:
  """How scores go with length: `length/...`, and what could not be said."""
  columns = ('score_chosen', 'score_rejected', 'chosen_chars', 'rejected_chars')
  table = np.array([[row[name] for name in columns] for row in rows], float)
  scores, chars = table[:, :2], table[:, 2:]
  margins, lengths = scores @ [1, -1], chars @ [1, -1]
  numbers, notes = {}, []
  try:
    numbers['length/score_pearson'] = pearson(scores.ravel(), chars.ravel())
    numbers['length/score_spearman'] = spearman(scores.ravel(), chars.ravel())
    ways = both_ways(margins), both_ways(lengths)
    numbers['length/pair_pearson'] = pearson(*ways)
    numbers['length/pair_spearman'] = spearman(*ways)
    slope = length_slope(margins, lengths)
    numbers['length/slope'] = slope
    left = preference.outcomes(margins - slope * lengths)
    numbers |= share(left, groups, **bootstrap).numbers('length/removed')
  except ValueError as e:
    notes.append(f'Scores against length: {e}.')
  matched = is_length_matched(chars[:, 0], chars[:, 1], max_share)
  if matched.any():
    outcomes = preference.outcomes(margins[matched])
    numbers |= share(outcomes, groups[matched], **bootstrap).numbers(
      'length/matched'
    )
  else:
    notes.append(
      f'No two replies have lengths within {100 * max_share:g} % of each other.'
    )
  return numbers, notes
