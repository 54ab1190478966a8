"""Which prompts are unlike those a model knows (Bai et al. 2022, 5.4).

N examples, L layers, D model. A score is higher the less a prompt looks like
the inliers; activations come from Transformer.activations. Everything is
float64 numpy on the host.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hh_jax.errors import InputError
from hh_jax.evals import preference

# Below it the optimum of classes that a plane separates is too far away.
MIN_WEIGHT_DECAY = 1e-6
MAX_NEWTON_STEPS = 100


def _finite(values: ArrayLike, name: str, axes: str) -> np.ndarray:
  """float64 array with one axis for each letter of `axes`."""
  array = np.asarray(values, np.float64)
  if array.ndim != len(axes):
    shape = ', '.join(axes)
    raise InputError(f'{name}: want [{shape}], not {array.shape}')
  if not np.isfinite(array).all():
    raise InputError(f'{name}: {np.sum(~np.isfinite(array))} not finite')
  return array


def _check_least(name: str, value: float, least: float) -> None:
  if not least <= value < np.inf:
    raise InputError(f'{name} {value} is not a number of {least} or more')


def auroc(inliers: ArrayLike, outliers: ArrayLike) -> float:
  """P(score of an outlier > score of an inlier), a tie counts 1/2.

  Scores [N] and [M], whatever their units; exact, by counting. Raises
  InputError where a class is empty or a score is not finite.
  """
  inliers = np.sort(_finite(inliers, 'inliers', 'N'))
  outliers = _finite(outliers, 'outliers', 'M')
  if not inliers.size or not outliers.size:
    raise InputError(
      f'AUROC needs two classes, not {inliers.size} inliers and '
      f'{outliers.size} outliers'
    )
  below = np.searchsorted(inliers, outliers, side='left').sum()
  not_above = np.searchsorted(inliers, outliers, side='right').sum()
  return float(below + not_above) / (2 * inliers.size * outliers.size)


def auroc_interval(
  inliers: ArrayLike,
  outliers: ArrayLike,
  *,
  num_samples: int,
  seed: int,
  level: float = 0.95,
) -> tuple[float, float]:
  """Percentile interval of the AUROC over examples (Efron 1979).

  Each class is resampled by itself, the detector stays as it is; so the
  interval has no width where the classes do not overlap.
  """
  _check_least('num_samples', num_samples, 1)
  if not 0 < level < 1:
    raise InputError(f'level {level} is not in (0, 1)')
  auroc(inliers, outliers)  # refuses what cannot be resampled
  inliers, outliers = np.asarray(inliers), np.asarray(outliers)
  rng = np.random.default_rng(seed)
  draws = np.empty(num_samples)
  for i in range(num_samples):
    draws[i] = auroc(
      rng.choice(inliers, inliers.size), rng.choice(outliers, outliers.size)
    )
  low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
  return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Gaussian:
  """Mean and covariance of the inliers' activations at one layer."""

  mean: np.ndarray  # [D]
  variance: np.ndarray  # [D], diagonal of the covariance, ridge included
  whitening: np.ndarray  # [D, D], W W^T is the inverse of the covariance

  def mahalanobis(self, activations: ArrayLike) -> np.ndarray:
    """Squared distance (x - mean)^T covariance^-1 (x - mean): [N, D] -> [N]."""
    return np.square(self._centred(activations) @ self.whitening).sum(axis=1)

  def relative_mahalanobis(self, activations: ArrayLike) -> np.ndarray:
    """Simplified relative distance (Bai et al. 2022, 5.4): [N, D] -> [N].

    The squared distance minus the one that takes coordinates as independent:
    what is unusual in their relation, not in their size. A shift along the
    directions in which inliers vary most lowers it: an AUROC may be far below
    1/2. Ren et al. 2021 subtract the distance under a second Gaussian instead.
    """
    centred = self._centred(activations)
    apart = (np.square(centred) / self.variance).sum(axis=1)
    return np.square(centred @ self.whitening).sum(axis=1) - apart

  def _centred(self, activations: ArrayLike) -> np.ndarray:
    return _like(activations, 'activations', self.mean.size) - self.mean


def _like(activations: ArrayLike, name: str, size: int) -> np.ndarray:
  array = _finite(activations, name, 'ND')
  if array.shape[1] != size:
    raise InputError(f'{name}: D is {array.shape[1]}, of the inliers {size}')
  return array


def fit_gaussian(inliers: ArrayLike, *, ridge: float) -> Gaussian:
  """The Gaussian of inliers [N, D], divided by N, plus a ridge.

  `ridge` times the mean variance is added to every variance (our choice), so
  the scores don't depend on the scale of the activations. It is needed where
  N <= D. Raises InputError for N < 2, inliers that are all the same, and a
  covariance that is singular.
  """
  inliers = _finite(inliers, 'inliers', 'ND')
  num, size = inliers.shape
  _check_least('number of inliers', num, 2)
  _check_least('ridge', ridge, 0)
  if not np.ptp(inliers, axis=0).any():
    raise InputError(
      f'all {num} inliers have the same activations: read another layer or '
      'another token'
    )
  mean = inliers.mean(axis=0)
  covariance = (inliers - mean).T @ (inliers - mean) / num
  covariance += ridge * np.trace(covariance) / size * np.eye(size)
  values, vectors = np.linalg.eigh(covariance)
  if values[0] <= size * np.finfo(np.float64).eps * values[-1]:
    raise InputError(
      f'the covariance of {num} inliers in {size} dimensions is singular with '
      f'ridge {ridge}: raise it or take more inliers'
    )
  return Gaussian(mean, np.diag(covariance).copy(), vectors / np.sqrt(values))


@dataclasses.dataclass(frozen=True)
class Probe:
  """One linear layer; its output is the log-odds of being an outlier."""

  weights: np.ndarray  # [D]
  bias: float

  def scores(self, activations: ArrayLike) -> np.ndarray:
    """Log-odds, nats: activations [N, D] -> [N]."""
    size = self.weights.size
    return _like(activations, 'activations', size) @ self.weights + self.bias


def fit_exposure(
  inliers: ArrayLike, outliers: ArrayLike, *, weight_decay: float
) -> Probe:
  """Few-shot outlier exposure (Bai et al. 2022, 5.4): logistic regression.

  inliers [N, D] against N // M copies of the outliers [M, D]. Minimises the
  mean of -log p(class), nats, plus weight_decay / 2 times the squared weights;
  coordinates are standardised before, and the bias is free (both our choice).
  Raises InputError for N < 2, M < 1, and weight_decay < MIN_WEIGHT_DECAY.
  """
  inliers = _finite(inliers, 'inliers', 'ND')
  num, size = inliers.shape
  outliers = _like(outliers, 'outliers', size)
  _check_least('number of inliers', num, 2)
  _check_least('number of outliers', len(outliers), 1)
  _check_least('weight_decay', weight_decay, MIN_WEIGHT_DECAY)
  x = np.concatenate([inliers, outliers])
  is_outlier = np.repeat([0.0, 1.0], [num, len(outliers)])
  copies = max(num // len(outliers), 1)
  share = np.where(is_outlier, copies, 1.0)
  share /= share.sum()
  mean = share @ x
  scale = np.sqrt(share @ np.square(x - mean))
  scale[np.ptp(x, axis=0) == 0] = 1.0  # says nothing, divides nothing
  *weights, bias = _logistic(
    (x - mean) / scale, is_outlier, share, weight_decay
  )
  weights = np.array(weights) / scale
  return Probe(weights, float(bias - weights @ mean))


def _logistic(
  x: np.ndarray, y: np.ndarray, share: np.ndarray, weight_decay: float
) -> np.ndarray:
  """Newton's method with halved steps; weights, then the bias, [D + 1]."""
  x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
  decay = np.append(np.full(x.shape[1] - 1, weight_decay), 0.0)

  def loss(w: np.ndarray) -> float:
    logits = x @ w
    nats = np.logaddexp(0.0, logits) - y * logits
    return share @ nats + decay @ np.square(w) / 2

  w = np.zeros(x.shape[1])
  for _ in range(MAX_NEWTON_STEPS):
    p = preference.sigmoid(x @ w)
    gradient = x.T @ (share * (p - y)) + decay * w
    hessian = (x.T * (share * p * (1 - p))) @ x + np.diag(decay)
    step = np.linalg.solve(hessian, gradient)
    fall = gradient @ step  # twice what is left to gain, nats
    if fall < 1e-10:
      return w - step
    size, now = 1.0, loss(w)
    while loss(w - size * step) > now - 1e-4 * size * fall:
      size /= 2
    w = w - size * step
  raise ArithmeticError(f'no optimum after {MAX_NEWTON_STEPS} Newton steps')


@dataclasses.dataclass(frozen=True)
class _Split:
  """Row numbers: into the inliers of fit and test together, and outliers."""

  fit: np.ndarray
  test: np.ndarray
  shown: np.ndarray  # outliers that exposure may learn from
  outliers: np.ndarray  # those that every method is tested on


def _splits(
  *,
  num_fit: int,
  num_test: int,
  num_outliers: int,
  exposures: Sequence[int],
  num_splits: int,
  seed: int,
) -> list[_Split]:
  """The split as it was given, then num_splits random ones of its sizes."""
  for k in exposures:
    _check_least('exposure', k, 1)
  num_shown = max(exposures, default=0)
  _check_least('number of outliers', num_outliers, num_shown + 1)
  _check_least('num_splits', num_splits, 2)
  splits = []
  for i in range(num_splits + 1):
    rng = np.random.default_rng((seed, i))
    inliers = np.arange(num_fit + num_test)
    if i:
      rng.shuffle(inliers)
    shown, tested = np.split(rng.permutation(num_outliers), [num_shown])
    splits.append(_Split(*np.split(inliers, [num_fit]), shown, np.sort(tested)))
  return splits


def _scores(
  inliers: np.ndarray,
  outliers: np.ndarray,
  split: _Split,
  *,
  exposures: Sequence[int],
  ridge: float,
  weight_decay: float,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Method -> scores of the test inliers and outliers; one layer, [N, D]."""
  fit, shown = inliers[split.fit], outliers[split.shown]
  gaussian = fit_gaussian(fit, ridge=ridge)
  methods = {
    'mahalanobis': gaussian.mahalanobis,
    'relative_mahalanobis': gaussian.relative_mahalanobis,
  }
  for k in exposures:
    probe = fit_exposure(fit, shown[:k], weight_decay=weight_decay)
    methods[f'exposure_{k}'] = probe.scores
  test = inliers[split.test], outliers[split.outliers]
  return {name: tuple(map(score, test)) for name, score in methods.items()}


def _layer_rows(
  fit: np.ndarray,
  test: np.ndarray,
  outliers: np.ndarray,
  splits: Sequence[_Split],
  bootstrap: dict[str, int],
  **options: float | Sequence[int],
) -> list[dict[str, Any]]:
  inliers = np.concatenate([fit, test])
  given, *others = (_scores(inliers, outliers, s, **options) for s in splits)
  rows = []
  for name, scores in given.items():
    low, high = auroc_interval(*scores, **bootstrap)
    over_splits = [auroc(*other[name]) for other in others]
    rows.append(
      {
        'method': name,
        'auroc': auroc(*scores),
        'auroc_low': low,
        'auroc_high': high,
        'auroc_mean': float(np.mean(over_splits)),
        'auroc_sd': float(np.std(over_splits, ddof=1)),
        'over_splits': over_splits,
      }
    )
  return rows


def _check_sets(
  sets: dict[str, np.ndarray], layers: Sequence[int] | None
) -> Sequence[int]:
  """The layers to read; InputError unless all are [N, L, D] and hold them."""
  for name, x in sets.items():
    if x.ndim != 3:
      raise InputError(f'{name}: want [N, L, D], not {x.shape}')
    if x.shape[1:] != sets['fit'].shape[1:]:
      raise InputError(
        f'{name} has L, D = {x.shape[1:]}, fit {sets["fit"].shape[1:]}'
      )
  num_layers = sets['fit'].shape[1]
  layers = range(num_layers) if layers is None else layers
  for layer in layers:
    if not 0 <= layer < num_layers:
      raise InputError(f'layer {layer} is not in 0 .. {num_layers - 1}')
  return layers


def ood_rows(
  fit: ArrayLike,
  test: ArrayLike,
  outliers: ArrayLike,
  *,
  layers: Sequence[int] | None = None,
  exposures: Sequence[int] = (10,),
  ridge: float = 1e-3,
  weight_decay: float = 1e-2,
  num_splits: int = 5,
  num_samples: int = 1000,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """AUROC by layer and method (Bai et al. 2022, Figs 22, 23 and 39).

  Activations [N, L, D] of inliers to fit and to test on, and of outliers;
  `layers` picks from L, default all. A row has `layer`, `method`; `auroc` with
  auroc_low and auroc_high (95 % bootstrap over test examples, detectors as they
  are) for the sets as given; and over num_splits random splits of all inliers
  into sets of the same sizes `over_splits`, auroc_mean and auroc_sd. Splits
  share their examples: auroc_sd is less than the spread over new data. The
  i-th split is the same for all methods and layers.

  Methods: mahalanobis, relative_mahalanobis, exposure_<k>. The k outliers are
  drawn anew for every split, and no method is tested on any that was drawn.
  Raises InputError, naming the layer: layer 0 at a token that ends every
  prompt does not vary, and has to be left out.
  """
  sets = {'fit': fit, 'test': test, 'outliers': outliers}
  sets = {name: np.asarray(x) for name, x in sets.items()}
  layers = _check_sets(sets, layers)
  splits = _splits(
    **{f'num_{name}': len(x) for name, x in sets.items()},
    exposures=exposures,
    num_splits=num_splits,
    seed=seed,
  )
  rows = []
  for layer in layers:
    try:
      part = _layer_rows(
        *(x[:, layer] for x in sets.values()),
        splits,
        {'num_samples': num_samples, 'seed': seed},
        exposures=exposures,
        ridge=ridge,
        weight_decay=weight_decay,
      )
    except InputError as e:
      raise InputError(f'layer {layer}: {e}') from e
    rows += [{'layer': layer, **row} for row in part]
  return rows


def ood_report(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Flat scalars ood/layer_<l>/<method>/auroc, auroc_low, ... of ood_rows."""
  return {
    f'ood/layer_{row["layer"]}/{row["method"]}/{name}': value
    for row in rows
    for name, value in row.items()
    if name.startswith('auroc')
  }
