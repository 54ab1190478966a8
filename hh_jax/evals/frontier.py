"""Reward against the square root of KL (Bai et al. 2022, 4.3).

P points of one policy's training, the step-0 point (KL = 0) among them. The
reward is first order in the change of the policy and the KL second order, so
reward is linear in sqrt(KL) while the expansion holds.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class LineFit:
  """reward = intercept + slope * sqrt(KL), by least squares.

  The standard errors take the residuals as independent. Points of one run
  share prompts and history, so read them as lower bounds.
  """

  slope: float  # PM units per sqrt(nat)
  intercept: float  # PM units
  slope_se: float
  intercept_se: float
  r_squared: float  # 0 where the reward does not vary
  residual_rms: float  # PM units, root mean square over the points
  num_points: int
  mean_sqrt_kl: float  # weighted mean of the abscissa

  def predict(self, sqrt_kl: ArrayLike) -> np.ndarray:
    """The line at sqrt_kl, PM units."""
    return self.intercept + self.slope * np.asarray(sqrt_kl)

  def standard_error(self, sqrt_kl: ArrayLike) -> np.ndarray:
    """Standard error of the line at sqrt_kl, PM units."""
    centre, spread = self.mean_sqrt_kl, self.slope_se
    # Slope and height at the mean are uncorrelated.
    height = np.maximum(self.intercept_se**2 - (centre * spread) ** 2, 0.0)
    return np.sqrt(height + ((np.asarray(sqrt_kl) - centre) * spread) ** 2)


@dataclasses.dataclass(frozen=True)
class Fall:
  """How far a score ends below its peak, and what its proxy did meanwhile."""

  peak: int  # index of the highest target score
  drop: float  # target at the peak minus target at the end, >= 0
  drop_se: float  # as if the two evaluations were independent
  proxy_rise: float  # proxy at the end minus proxy at the peak
  is_overoptimised: bool  # drop > z * drop_se while the proxy rises


def sqrt_kl(kl: ArrayLike) -> np.ndarray:
  """sqrt(KL), sqrt(nats); a negative KL estimate (noise) counts as 0."""
  return np.sqrt(np.maximum(np.asarray(kl, np.float64), 0.0))


def interpolate(sqrt_kl: ArrayLike, values: ArrayLike, where: float) -> float:
  """Values [P] between the points, linear in sqrt_kl [P], at `where`."""
  x, y = np.asarray(sqrt_kl), np.asarray(values)
  order = np.argsort(x, kind='stable')
  return float(np.interp(where, x[order], y[order]))


def _points(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None) -> tuple:
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  w = np.ones(x.shape) if weights is None else np.asarray(weights, np.float64)
  if x.ndim != 1 or x.shape != y.shape or x.shape != w.shape:
    raise ValueError(
      f'want [P] each, not sqrt_kl {x.shape}, reward {y.shape}, '
      f'weights {w.shape}'
    )
  if x.size < 3:
    raise ValueError(f'a line and its error need 3 points, not {x.size}')
  if not all(np.isfinite(v).all() for v in (x, y, w)):
    raise ValueError('sqrt_kl, reward and weights must be finite')
  if w.min() <= 0:
    raise ValueError(f'weights must be positive, not {w.min()}')
  if np.ptp(x) == 0:
    raise ValueError(f'every sqrt_kl is {x[0]}: no slope can be fitted')
  return x, y, w


def fit_line(
  sqrt_kl: ArrayLike, reward: ArrayLike, weights: ArrayLike | None = None
) -> LineFit:
  """Least-squares line through points [P]; weights are 1 / variance.

  Errors come from the residual variance with P - 2 degrees of freedom, so
  only the ratios of the weights matter. Raises ValueError for fewer than 3
  points, points at one sqrt_kl, or values that are not finite.
  """
  x, y, w = _points(sqrt_kl, reward, weights)
  w = w / w.mean()
  mean_x, mean_y = np.average(x, weights=w), np.average(y, weights=w)
  spread = np.sum(w * (x - mean_x) ** 2)
  slope = np.sum(w * (x - mean_x) * (y - mean_y)) / spread
  intercept = mean_y - slope * mean_x
  squares = np.sum(w * (y - intercept - slope * x) ** 2)
  total = np.sum(w * (y - mean_y) ** 2)
  variance = squares / (x.size - 2)
  return LineFit(
    slope=float(slope),
    intercept=float(intercept),
    slope_se=float(np.sqrt(variance / spread)),
    intercept_se=float(np.sqrt(variance * (1 / w.sum() + mean_x**2 / spread))),
    r_squared=float(1 - squares / total) if total > 0 else 0.0,
    residual_rms=float(np.sqrt(squares / x.size)),
    num_points=x.size,
    mean_sqrt_kl=float(mean_x),
  )


def slope_ratio(sqrt_kl: ArrayLike, reward: ArrayLike) -> float:
  """Slope of the upper half of the points over that of the lower half.

  1 for a line, below 1 where the gain flattens (our choice: a high R^2 alone
  does not show that a curve is straight). Halves go by sqrt_kl and share the
  middle point; each needs 3 points. Raises ValueError as fit_line, or where
  the lower half is flat.
  """
  x, y, _ = _points(sqrt_kl, reward, None)
  order = np.argsort(x, kind='stable')
  middle = x.size // 2
  lower, upper = order[: middle + 1], order[middle:]
  below = fit_line(x[lower], y[lower]).slope
  if below == 0:
    raise ValueError('the lower half is flat: no ratio of slopes')
  return fit_line(x[upper], y[upper]).slope / below


def efficiency(slope: float, within_prompt_std: float) -> float:
  """slope / (sqrt(2) * std): 1 is the steepest line for Gaussian scores.

  within_prompt_std: root mean over prompts of the variance of the reference
  policy's scores, PM units. Tilting the reference by e^(t * score) gains
  sqrt(2) * std * sqrt(KL); at small KL no policy gains more.
  """
  if not np.isfinite(within_prompt_std) or within_prompt_std <= 0:
    raise ValueError(f'within_prompt_std {within_prompt_std} is not positive')
  return float(slope / (np.sqrt(2) * within_prompt_std))


def fall_from_peak(
  proxy: ArrayLike,
  target: ArrayLike,
  target_se: ArrayLike,
  proxy_se: ArrayLike,
) -> Fall:
  """Does the target score fall while the optimised proxy still rises?

  Scores [P] in the order of training (Gao et al. 2022 call it
  over-optimisation). The fall has to pass 3 standard errors (our choice: the
  peak is picked from P noisy points, so 2 would often be passed by chance),
  the rise 2. Errors are of the scores, taken as independent.
  """
  proxy, target = np.asarray(proxy), np.asarray(target)
  errors, proxy_errors = np.asarray(target_se), np.asarray(proxy_se)
  if target.ndim != 1 or not target.size:
    raise ValueError(f'want target [P] with P >= 1, not {target.shape}')
  if proxy.shape != target.shape or errors.shape != target.shape:
    raise ValueError('proxy, target and target_se must have one length')
  if proxy_errors.shape != target.shape:
    raise ValueError('proxy_se must have the length of target')
  peak = int(np.argmax(target))
  drop = float(target[peak] - target[-1])
  drop_se = float(np.hypot(errors[peak], errors[-1]))
  rise = float(proxy[-1] - proxy[peak])
  rise_se = float(np.hypot(proxy_errors[peak], proxy_errors[-1]))
  is_overoptimised = drop > 3 * drop_se and rise > 2 * rise_se
  return Fall(peak, drop, drop_se, rise, is_overoptimised)


def within_prompt_std(scores: ArrayLike) -> tuple[float, float]:
  """(std, its standard error) of scores [prompts, samples] within a prompt.

  std is what `efficiency` takes. The error is over prompts.
  """
  scores = np.asarray(scores, np.float64)
  if scores.ndim != 2 or min(scores.shape) < 2:
    raise ValueError(f'want 2 prompts with 2 samples, not {scores.shape}')
  variances = scores.var(axis=1, ddof=1)
  std = float(np.sqrt(variances.mean()))
  error = variances.std(ddof=1) / np.sqrt(variances.size)
  return std, float(error / (2 * std)) if std > 0 else 0.0


def efficiency_se(
  slope: float, slope_se: float, std: float, std_se: float
) -> float:
  """Standard error of efficiency(slope, std), the two taken as independent."""
  ratio = efficiency(slope, std)
  return float(np.hypot(slope_se / (np.sqrt(2) * std), ratio * std_se / std))


def parting(gap: ArrayLike, gap_se: ArrayLike, *, z: float = 2.0) -> int | None:
  """First point from which on the gap exceeds z of its standard errors.

  gap [P], in the order of training: gain by the training PM less gain by the
  held-out PM; gap_se [P] its errors, of the paired difference. The gap has to
  stay so to the last point; None where it never does.
  """
  gap, errors = np.asarray(gap, np.float64), np.asarray(gap_se, np.float64)
  if gap.ndim != 1 or not gap.size or gap.shape != errors.shape:
    raise ValueError(f'want [P] each, not gap {gap.shape}, se {errors.shape}')
  if not (np.isfinite(gap).all() and np.isfinite(errors).all()):
    raise ValueError('gap and gap_se must be finite')
  is_inside = np.flatnonzero(gap <= z * errors)
  first = int(is_inside[-1]) + 1 if is_inside.size else 0
  return first if first < gap.size else None
