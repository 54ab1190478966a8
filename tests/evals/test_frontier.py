"""Lines of reward against sqrt(KL): exact, planted, and refused."""

import numpy as np
import pytest
from scipy import stats

from hh_jax.evals import frontier


def planted(seed=0, num=15, noise=0.1):
  """sqrt(KL) and reward = 0.2 + 0.7 sqrt(KL) + noise."""
  x = np.linspace(0, 4, num)
  return x, 0.2 + 0.7 * x + noise * np.random.default_rng(seed).normal(size=num)


def test_sqrt_kl_takes_negative_estimates_as_zero():
  np.testing.assert_array_equal(frontier.sqrt_kl([-0.1, 0, 4]), [0, 0, 2])


def test_line_is_exact_without_noise():
  fit = frontier.fit_line(*planted(noise=0.0))
  assert (fit.slope, fit.intercept) == pytest.approx((0.7, 0.2))
  assert fit.r_squared == pytest.approx(1.0) and fit.num_points == 15
  errors = (fit.slope_se, fit.intercept_se, fit.residual_rms)
  assert errors == pytest.approx((0, 0, 0), abs=1e-12)


def test_line_by_hand():
  # x 0 1 2, y 0 1 1: slope 1/2, intercept 1/6, squares 1/6, total 2/3.
  fit = frontier.fit_line([0, 1, 2], [0, 1, 1])
  assert (fit.slope, fit.intercept) == pytest.approx((1 / 2, 1 / 6))
  assert fit.r_squared == pytest.approx(3 / 4)
  assert fit.residual_rms == pytest.approx((1 / 18) ** 0.5)
  assert fit.slope_se == pytest.approx((1 / 6 / 2) ** 0.5)
  assert fit.intercept_se == pytest.approx((1 / 6 * (1 / 3 + 1 / 2)) ** 0.5)


def test_line_agrees_with_scipy():
  x, y = planted()
  fit, other = frontier.fit_line(x, y), stats.linregress(x, y)
  assert fit.slope == pytest.approx(other.slope)
  assert fit.slope_se == pytest.approx(other.stderr)
  assert fit.intercept_se == pytest.approx(other.intercept_stderr)
  assert fit.r_squared == pytest.approx(other.rvalue**2)


def test_planted_slopes_lie_within_three_standard_errors():
  scores = []
  for seed in range(200):
    fit = frontier.fit_line(*planted(seed))
    scores.append((fit.slope - 0.7) / fit.slope_se)
  # Student's t with 13 degrees of freedom: 1 % lie beyond 3.
  assert np.mean(np.abs(scores) < 3) > 0.96
  assert np.std(scores) == pytest.approx(np.sqrt(13 / 11), abs=0.2)


def test_standard_error_of_the_line_is_smallest_at_the_mean():
  fit = frontier.fit_line(*planted())
  assert fit.standard_error(0.0) == pytest.approx(fit.intercept_se)
  errors = fit.standard_error(np.linspace(0, 4, 9))
  assert errors.argmin() == 4 and errors[0] == pytest.approx(errors[-1])
  assert fit.predict([0.0, 1.0]) == pytest.approx(
    [fit.intercept, fit.intercept + fit.slope]
  )


def test_weights_count_points_and_only_their_ratios_matter():
  x, y = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.5, 1.0, 4.0])
  weighted = frontier.fit_line(x, y, [1, 2, 1, 3])
  doubled = frontier.fit_line(x, y, [2, 4, 2, 6])
  index = [0, 1, 1, 2, 3, 3, 3]
  repeated = frontier.fit_line(x[index], y[index])
  assert weighted.slope == pytest.approx(repeated.slope)
  assert weighted.r_squared == pytest.approx(repeated.r_squared)
  assert doubled.slope_se == pytest.approx(weighted.slope_se)
  assert doubled.intercept_se == pytest.approx(weighted.intercept_se)


def test_flat_reward_is_no_division_by_zero():
  fit = frontier.fit_line([0, 1, 2], [3, 3, 3])
  assert (fit.slope, fit.r_squared, fit.slope_se) == (0, 0, 0)


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (([0, 1], [0, 1]), 'need 3 points, not 2'),
    (([0, 1, 2], [0, 1]), 'want'),
    (([1, 1, 1], [0, 1, 2]), 'every sqrt_kl is 1'),
    (([0, 1, np.nan], [0, 1, 2]), 'finite'),
    (([0, 1, 2], [0, 1, 2], [1, 1, 0]), 'weights must be positive'),
  ],
)
def test_line_refuses(args, message):
  with pytest.raises(ValueError, match=message):
    frontier.fit_line(*args)


def test_slope_ratio():
  x = np.array([0.0, 1, 2, 3, 4])
  assert frontier.slope_ratio(x, 3 * x) == pytest.approx(1.0)
  bent = np.array([0.0, 2, 4, 5, 6])
  assert frontier.slope_ratio(x, bent) == pytest.approx(0.5)
  order = [3, 0, 4, 1, 2]
  assert frontier.slope_ratio(x[order], bent[order]) == pytest.approx(0.5)
  with pytest.raises(ValueError, match='3 points'):
    frontier.slope_ratio(x[:4], bent[:4])
  with pytest.raises(ValueError, match='flat'):
    frontier.slope_ratio(x, [0, 0, 0, 1, 2])


def test_exponential_tilt_of_gaussian_scores_has_efficiency_one():
  # Tilting N(0, s^2) by e^(t r): gain t s^2, KL (t s)^2 / 2.
  s, t = 1.7, np.linspace(0, 2, 9)
  fit = frontier.fit_line(frontier.sqrt_kl((t * s) ** 2 / 2), t * s**2)
  assert frontier.efficiency(fit.slope, s) == pytest.approx(1.0)
  assert frontier.efficiency(fit.slope / 2, s) == pytest.approx(0.5)


@pytest.mark.parametrize('std', [0.0, -1.0, np.nan])
def test_efficiency_refuses(std):
  with pytest.raises(ValueError, match='within_prompt_std'):
    frontier.efficiency(1.0, std)


def test_fall_from_peak():
  fall = frontier.fall_from_peak(
    [0, 1, 2, 3], [0, 2, 1.5, 1], [0.1] * 4, [0.1] * 4
  )
  assert (fall.peak, fall.drop, fall.proxy_rise) == (1, 1.0, 2.0)
  assert fall.drop_se == pytest.approx(0.02**0.5)
  assert fall.is_overoptimised


@pytest.mark.parametrize(
  ('proxy', 'target', 'se'),
  [
    ([0, 1, 2], [0, 1, 2], [0.01] * 3),  # still rising
    ([0, 1, 2], [0, 1, 0.9], [0.1] * 3),  # within the noise
    ([0, 2, 1], [0, 2, 1], [0.01] * 3),  # both fall
    ([0, 1, 1.01], [0, 2, 1], [0.01] * 3),  # the proxy hardly rises
  ],
)
def test_no_over_optimisation(proxy, target, se):
  assert not frontier.fall_from_peak(proxy, target, se, se).is_overoptimised


def test_fall_refuses_scores_of_other_lengths():
  with pytest.raises(ValueError, match='one length'):
    frontier.fall_from_peak([0, 1], [0, 1, 2], [1] * 3, [1] * 3)
  with pytest.raises(ValueError, match='proxy_se must have'):
    frontier.fall_from_peak([0, 1], [0, 1], [1] * 2, [1] * 3)
  with pytest.raises(ValueError, match='P >= 1'):
    frontier.fall_from_peak([], [], [], [])


def test_within_prompt_std_by_hand():
  # variances 2 and 8: mean 5, error 3; the offset of a prompt is nothing
  std, error = frontier.within_prompt_std([[0, 2], [104, 100]])
  assert std == pytest.approx(5**0.5)
  assert error == pytest.approx(3 / (2 * 5**0.5))
  assert frontier.within_prompt_std([[1, 1], [2, 2]]) == (0, 0)
  with pytest.raises(ValueError, match='2 samples'):
    frontier.within_prompt_std([[1], [2]])


def test_error_of_the_efficiency_is_that_of_a_ratio():
  rng = np.random.default_rng(0)
  slopes, stds = rng.normal(1, 0.05, 4000), rng.normal(2, 0.06, 4000)
  found = frontier.efficiency_se(1, 0.05, 2, 0.06)
  simulated = np.std(slopes / stds / 2**0.5)
  assert found == pytest.approx(simulated, rel=0.05)


def test_parting_is_where_the_gap_stays_above_its_error():
  se = [0.1] * 6
  assert frontier.parting([0, 0.3, 0.1, 0.25, 0.3, 0.4], se) == 3
  assert frontier.parting([0, 0.3, 0.1, 0.25, 0.3, 0.4], se, z=2.9) == 4
  assert frontier.parting([0, 0.3, 0.4, 0.4, 0.4, 0.1], se) is None
  assert frontier.parting([0.0, -0.5, -0.6], se[:3]) is None
  assert frontier.parting([0.5, 0.5], se[:2]) == 0
  # no gap and no error at the start is no parting
  assert frontier.parting([0.0, 1.0], [0.0, 0.1]) == 1
  with pytest.raises(ValueError, match='finite'):
    frontier.parting([0, np.nan], [1, 1])
  with pytest.raises(ValueError, match='want'):
    frontier.parting([], [])
