"""The OOD report: what is fitted, shown and tested, and refused."""

import numpy as np
import pytest

from hh_jax.errors import InputError
from hh_jax.evals import ood


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def shifted(num, *, size=30, seed=0):
  """Examples moved by 3 along one axis and shrunk to the inliers' distance."""
  x = normal(num, size, seed=seed) * np.sqrt((size - 9) / size)
  return x + 3 * np.eye(size)[0]


def test_ten_outliers_show_what_distance_cannot():
  fit, test = normal(500, 30), normal(500, 30, seed=1)
  outliers = shifted(500, seed=2)
  gaussian = ood.fit_gaussian(fit, ridge=1e-3)
  probe = ood.fit_exposure(fit, shifted(10, seed=3), weight_decay=1e-2)
  values = [
    ood.auroc(score(test), score(outliers))
    for score in (
      gaussian.mahalanobis, gaussian.relative_mahalanobis, probe.scores,
    )
  ]  # fmt: skip
  assert values[0] < 0.6 and values[1] < 0.6 and values[2] > 0.9


def sets(size=30):
  """Fit, test and outliers [N, 2, D]: layer 0 says nothing, layer 1 much."""
  fit, test, far = (
    normal(num, 2, size, seed=i) for i, num in enumerate((300, 200, 150))
  )
  far[:, 1] = shifted(150, size=size, seed=3)
  return fit, test, far


def report_of(*sets, **options):
  return ood.ood_report(ood.ood_rows(*sets, **options))


def test_report():
  options = {'num_samples': 100, 'num_splits': 4, 'exposures': (3, 10)}
  report = report_of(*sets(), **options)
  methods = ('mahalanobis', 'relative_mahalanobis', 'exposure_3', 'exposure_10')
  names = ('auroc', 'auroc_low', 'auroc_high', 'auroc_mean', 'auroc_sd')
  assert set(report) == {
    f'ood/layer_{i}/{m}/{n}' for i in (0, 1) for m in methods for n in names
  }
  for i in (0, 1):
    for m in methods:
      value, low, high, mean, sd = (
        report[f'ood/layer_{i}/{m}/{n}'] for n in names
      )
      assert low < value < high and 0 < sd < 0.1
      assert mean == pytest.approx(value, abs=0.1)
  assert report['ood/layer_0/exposure_10/auroc_low'] < 0.6
  few, more = (report[f'ood/layer_1/exposure_{k}/auroc_mean'] for k in (3, 10))
  assert 0.6 < few < more - 0.02 and more > 0.9
  assert report['ood/layer_1/mahalanobis/auroc_mean'] < 0.6
  assert report == report_of(*sets(), **options)
  other = report_of(*sets(), seed=1, **options)
  assert report != other
  part = report_of(*sets(), layers=[1], **options)
  assert part.items() < report.items() and len(part) == 20


def test_report_without_exposure_is_by_hand():
  fit, test, far = sets()
  report = report_of(
    fit, test, far, exposures=(), layers=[1], ridge=0.1, num_samples=50
  )
  gaussian = ood.fit_gaussian(fit[:, 1], ridge=0.1)
  judged = gaussian.mahalanobis(test[:, 1]), gaussian.mahalanobis(far[:, 1])
  name = 'ood/layer_1/mahalanobis/auroc'
  assert report[name] == ood.auroc(*judged)
  assert (report[f'{name}_low'], report[f'{name}_high']) == (
    ood.auroc_interval(*judged, num_samples=50, seed=0)
  )
  assert report[f'{name}_sd'] > 0.005  # the inliers are split anew


def test_no_outlier_that_was_shown_is_tested():
  # Outlier i is e_i, in coordinates where inliers are 0: a probe finds all that
  # it was shown and can't tell another from an inlier.
  fit, test = np.eye(41)[0] * normal(2, 200, 1, 1)
  report = report_of(
    fit, test, np.eye(41)[1:, None], exposures=(20,), num_samples=9
  )
  name = 'ood/layer_0/exposure_20/auroc'
  assert report[name] == pytest.approx(0.5, abs=0.1)
  assert report[f'{name}_mean'] == pytest.approx(0.5, abs=0.1)


def test_no_inlier_that_was_fitted_is_tested():
  # 40 examples in 30 dimensions lie nearer to their own mean than others do
  fit, test, others = normal(3, 40, 1, 30)
  gaussian = ood.fit_gaussian(fit[:, 0], ridge=1e-3)
  own, other = (gaussian.mahalanobis(x[:, 0]) for x in (fit, others))
  assert ood.auroc(own, other) > 0.95
  report = report_of(
    fit, test, others, num_splits=20, num_samples=9, exposures=()
  )
  mean = report['ood/layer_0/mahalanobis/auroc_mean']
  assert mean == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'fit': normal(1, 2, 30)}, 'layer 0: number of inliers 1'),
    ({'test': normal(0, 2, 30)}, 'layer 0: .* two classes, not 0 inliers'),
    ({'test': normal(9, 3, 30)}, r'test has L, D = \(3, 30\), fit \(2, 30\)'),
    ({'outliers': normal(99, 2, 8)}, r'outliers has L, D = \(2, 8\)'),
    ({'fit': normal(99, 30)}, r'fit: want \[N, L, D\], not \(99, 30\)'),
    (
      {'outliers': normal(10, 2, 30)},
      'number of outliers 10 is not a number of 11',
    ),
    ({'outliers': np.full((20, 2, 30), np.nan)}, 'layer 0: .* not finite'),
    ({'fit': np.ones((9, 2, 30))}, 'layer 0: all 9 inliers have the same'),
    ({'layers': [2]}, 'layer 2 is not in 0 .. 1'),
    ({'exposures': [0]}, 'exposure 0 is not a number of 1 or more'),
    ({'num_splits': 1}, 'num_splits 1 is not a number of 2 or more'),
  ],
)
def test_report_refuses(change, message):
  options = dict(zip(('fit', 'test', 'outliers'), sets(), strict=True))
  with pytest.raises(InputError, match=message) as e:
    report_of(**options | {'num_samples': 5} | change)
  assert '\n' not in str(e.value)
