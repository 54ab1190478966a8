"""How a score bends under optimisation (Gao et al. 2022).

With d = sqrt(KL(policy || reference)), d(a - b d) for best of n and
d(a - b ln d) for reinforcement learning; both are 0 at d = 0, so rewards are
gains over the reference. a, b in score units per sqrt(nat), and its like.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

FORMS = ('best_of_n', 'rl')
# Below this part of a, b tells nothing: the peak of `rl` would be at e^99.
MIN_BEND = 0.01


@dataclasses.dataclass(frozen=True)
class Bend:
  """reward = d (a - b d), or d (a - b ln d), by least squares through 0.

  Standard errors take the residuals as independent: points of one run share
  prompts and history, and those of one best-of-n curve samples, so read them
  as lower bounds.
  """

  form: str  # one of FORMS
  a: float
  b: float
  a_se: float
  b_se: float
  r_squared: float  # of the deviations from the mean; 0 for a flat reward
  residual_rms: float
  num_points: int
  largest: float  # d of the last point
  # b is above 0 by more than 2 of its standard errors, and above MIN_BEND * |a|
  is_bent: bool

  def predict(self, sqrt_kl: ArrayLike) -> np.ndarray:
    """The curve at sqrt_kl, score units."""
    return _columns(np.asarray(sqrt_kl, np.float64), self.form) @ [
      self.a,
      self.b,
    ]

  @property
  def peak(self) -> tuple[float, float] | None:
    """(d*, reward there), or None where b is not known to be above 0.

    d* above `largest` is an extrapolation.
    """
    if not self.is_bent or self.a <= 0:
      return None
    if self.form == 'best_of_n':
      return self.a / (2 * self.b), self.a**2 / (4 * self.b)
    where = math.exp(self.a / self.b - 1)
    return where, self.b * where

  def report(self) -> dict[str, float | str | bool | None]:
    """All numbers, as JSON types."""
    out = dataclasses.asdict(self)
    out['peak_sqrt_kl'], out['peak_reward'] = self.peak or (None, None)
    out['is_peak_seen'] = self.peak is not None and self.peak[0] <= self.largest
    return out


def _columns(d: np.ndarray, form: str) -> np.ndarray:
  """The two columns whose coefficients are a and b, [..., 2]."""
  if form == 'best_of_n':
    bend = d * d
  else:
    bend = d * np.log(np.where(d > 0, d, 1.0))  # 0 at 0
  return np.stack([d, -bend], axis=-1)


def fit_bend(sqrt_kl: ArrayLike, reward: ArrayLike, *, form: str) -> Bend:
  """Fits `form` to points [P], whose rewards are gains over the reference.

  Points at sqrt_kl = 0 are on every curve and count for nothing. ValueError
  for fewer than 3 others, for fewer than 2 different sqrt_kl among them, and
  for values that are not finite or below 0.
  """
  if form not in FORMS:
    raise ValueError(f'form {form!r} is none of {FORMS}')
  d, y = np.asarray(sqrt_kl, np.float64), np.asarray(reward, np.float64)
  if d.ndim != 1 or d.shape != y.shape:
    raise ValueError(f'want [P] each, not sqrt_kl {d.shape}, reward {y.shape}')
  if not (np.isfinite(d).all() and np.isfinite(y).all()):
    raise ValueError('sqrt_kl and reward must be finite')
  if d.size and d.min() < 0:
    raise ValueError(f'sqrt_kl {d.min()} is negative')
  d, y = d[d > 0], y[d > 0]
  if d.size < 3 or np.unique(d).size < 2:
    raise ValueError(
      f'a and b with errors need 3 points off 0, at 2 places, not {d.tolist()}'
    )
  design = _columns(d, form)
  (a, b), *_ = np.linalg.lstsq(design, y, rcond=None)
  residuals = y - design @ [a, b]
  squares, total = np.sum(residuals**2), np.sum((y - y.mean()) ** 2)
  covariance = np.linalg.inv(design.T @ design) * squares / (d.size - 2)
  a_se, b_se = np.sqrt(np.diag(covariance))
  return Bend(
    form=form,
    a=float(a),
    b=float(b),
    a_se=float(a_se),
    b_se=float(b_se),
    r_squared=float(1 - squares / total) if total > 0 else 0.0,
    residual_rms=float(np.sqrt(squares / d.size)),
    num_points=d.size,
    largest=float(d.max()),
    is_bent=bool(b > max(2 * b_se, MIN_BEND * abs(a))),
  )
