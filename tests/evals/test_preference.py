"""Preference-model numbers: by hand, by property, and refused."""

import numpy as np
import pytest

from hh_jax.errors import InputError
from hh_jax.evals import preference


def normal(num, seed=0, scale=1.0):
  return scale * np.random.default_rng(seed).normal(size=num)


def calibrated(num, seed=0):
  """Margins whose sign is right with probability sigmoid(|margin|)."""
  rng = np.random.default_rng(seed)
  size = np.abs(rng.normal(size=num)) * 2
  is_right = rng.random(num) < preference.sigmoid(size)
  return np.where(is_right, size, -size)


def row(margin, **changes):
  return {
    'source': 'a',
    'turns': 1,
    'score_chosen': margin,
    'score_rejected': 0.0,
    'chosen_chars': 10,
    'rejected_chars': 5,
    'p_chosen': None,
  } | changes


def test_accuracy_by_hand():
  assert preference.accuracy([2.0, 0.1, -1.0, 0.0]) == (1 + 1 + 0 + 0.5) / 4
  assert preference.accuracy([0.0, 0.0]) == 0.5


def test_accuracy_of_swapped_pairs_is_the_complement():
  margins = np.round(normal(501), 1)  # with ties
  assert (margins == 0).any()
  total = preference.accuracy(margins) + preference.accuracy(-margins)
  assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize('bad', [[], [[1.0]], [1.0, np.nan], [np.inf]])
def test_accuracy_refuses(bad):
  with pytest.raises(ValueError, match='margins'):
    preference.accuracy(bad)


def test_bootstrap_of_equal_values_has_no_width():
  assert preference.bootstrap_interval(
    [0.5, 0.5, 0.5], num_samples=10, seed=0
  ) == (0.5, 0.5)


def test_bootstrap_matches_the_normal_interval():
  values = normal(400, seed=1)
  low, high = preference.bootstrap_interval(values, num_samples=4000, seed=0)
  half = 1.96 * values.std() / 20
  assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
  assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_bootstrap_covers_as_often_as_it_says():
  covered = 0
  for seed in range(200):
    values = np.random.default_rng(seed).random(200) < 0.7
    low, high = preference.bootstrap_interval(
      values, num_samples=200, seed=seed
    )
    covered += low <= 0.7 <= high
  assert 180 <= covered <= 199  # 95 % of 200, 3 standard errors


def test_bootstrap_is_wider_for_copies_of_one_conversation():
  values = (normal(100) > 0).astype(float)
  copies, groups = np.repeat(values, 4), np.repeat(np.arange(100), 4)
  options = {'num_samples': 2000, 'seed': 0}

  def width(*args, **more):
    low, high = preference.bootstrap_interval(*args, **options, **more)
    return high - low

  assert width(copies, groups=groups) == pytest.approx(width(values), rel=0.1)
  assert width(copies) == pytest.approx(width(values) / 2, rel=0.15)


def test_bootstrap_refuses():
  with pytest.raises(ValueError, match='level'):
    preference.bootstrap_interval([1.0], num_samples=1, seed=0, level=95)
  with pytest.raises(ValueError, match='2 groups for 1 values'):
    preference.bootstrap_interval([1.0], num_samples=1, seed=0, groups=[1, 2])


def test_wilson_interval_by_hand():
  # 8 of 10: Wilson's 95 % interval is [0.4902, 0.9433].
  low, high = preference.wilson_interval(0.8, 10)
  assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
  low, high = preference.wilson_interval(1.0, 5)
  assert high == pytest.approx(1.0) and low < 0.6


def test_calibration_by_hand():
  bins = preference.calibration([3.0, -1.0, 1.0, -3.0, 3.0, 1.0], 2)
  np.testing.assert_allclose(bins.margin, [1.0, 3.0])
  np.testing.assert_allclose(bins.accuracy, [2 / 3, 2 / 3])
  np.testing.assert_allclose(
    bins.predicted, [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-3))]
  )
  np.testing.assert_array_equal(bins.count, [3, 3])
  first, second = abs(2 / 3 - 0.731059), abs(2 / 3 - 0.952574)
  assert preference.expected_calibration_error(bins) == pytest.approx(
    (first + second) / 2, abs=1e-6
  )


@pytest.mark.parametrize('num', [7, 10, 103])
def test_calibration_keeps_every_pair(num):
  bins = preference.calibration(normal(num), 7)
  assert bins.count.sum() == num and np.ptp(bins.count) <= 1
  assert (np.diff(bins.margin) > 0).all()
  assert ((bins.low <= bins.accuracy) & (bins.accuracy <= bins.high)).all()


def test_calibrated_margins_have_no_more_error_than_chance():
  bins = preference.calibration(calibrated(40_000), 10)
  error = preference.expected_calibration_error(bins)
  noise = preference.calibration_noise(bins)
  assert error < 0.01 and noise < 0.01
  assert 0.3 * noise < error < 2 * noise


def test_scores_three_times_too_large_are_over_confident():
  bins = preference.calibration(3 * calibrated(5_000), 10)
  noise = preference.calibration_noise(bins)
  assert preference.expected_calibration_error(bins) > 5 * noise
  assert np.average(bins.accuracy - bins.predicted, weights=bins.count) < -0.05


def test_calibration_refuses_more_bins_than_pairs():
  with pytest.raises(ValueError, match=r'num_bins 4 is not in \[1, 3\]'):
    preference.calibration([1.0, 2.0, 3.0], 4)


def test_brier_and_log_loss_by_hand():
  margin = np.log(3)  # P(chosen) = 3/4 and 1/4
  assert preference.brier([margin, -margin]) == pytest.approx(10 / 32)
  assert preference.log_loss([margin, -margin]) == pytest.approx(
    -(np.log(0.75) + np.log(0.25)) / 2
  )
  assert preference.brier([0.0]) == 0.25
  assert preference.log_loss([0.0]) == pytest.approx(np.log(2))
  assert np.isfinite(preference.log_loss([-1e4, 1e4]))


def test_length_rules():
  chosen, rejected = [5, 3, 4, 9], [4, 7, 4, 1]
  longer = preference.length_rule_accuracy(chosen, rejected)
  assert longer == 2.5 / 4
  assert preference.length_rule_accuracy(rejected, chosen) == 1 - longer
  with pytest.raises(ValueError, match='1 chosen, 2 rejected'):
    preference.length_rule_accuracy([1], [1, 2])


def test_bayes_ceiling():
  assert preference.bayes_ceiling([0.9, 0.2, 0.5]) == pytest.approx(2.2 / 3)
  assert preference.share_of_ceiling(0.7, 0.75) == pytest.approx(0.8)
  assert preference.share_of_ceiling(0.75, 0.75) == 1.0
  with pytest.raises(ValueError, match='p_chosen'):
    preference.bayes_ceiling([1.2])
  with pytest.raises(ValueError, match='ceiling 0.5'):
    preference.share_of_ceiling(0.7, 0.5)


def test_ceiling_bounds():
  assert preference.ceiling_bounds(0.68) == pytest.approx((0.68, 0.8))
  assert preference.ceiling_bounds(0.5) == (0.5, 0.5)
  assert preference.ceiling_bounds(1.0) == (1.0, 1.0)
  for bad in (0.49, 1.01, np.nan):
    with pytest.raises(InputError, match='agreement of raters'):
      preference.ceiling_bounds(bad)


@pytest.mark.parametrize('spread', [0.0, 0.3, 3.0])
def test_the_ceiling_lies_within_its_bounds(spread):
  p = preference.sigmoid(0.7 + normal(500, scale=spread))
  agreement = np.mean(p**2 + (1 - p) ** 2)
  low, high = preference.ceiling_bounds(agreement)
  ceiling = preference.bayes_ceiling(p)
  assert low <= ceiling <= high + 1e-12
  if not spread:  # all equally clear
    assert ceiling == pytest.approx(high)


def test_report_by_hand():
  rows = [
    row(1.0, p_chosen=0.8),
    row(-1.0, p_chosen=0.6, turns=7),
    row(2.0, source='b', turns=5),
    row(3.0, source='b', rejected_chars=20),
  ]
  report = preference.pm_report(rows)
  expected = {
    'eval/accuracy': 0.75,
    'eval/pairs': 4,
    'eval/longer_rule': 0.75,
    'eval/shorter_rule': 0.25,
    'eval/over_length_rule': 0.0,
    'eval/a/accuracy': 0.5,
    'eval/a/bayes_ceiling': 0.7,
    'eval/a/share_of_ceiling': 0.0,
    'eval/b/accuracy': 1.0,
    'eval/b/longer_rule': 0.5,
    'eval/b/over_length_rule': 0.5,
    'eval/turns_1/accuracy': 1.0,
    'eval/turns_5_plus/pairs': 2,
    'eval/turns_5_plus/accuracy': 0.5,
  }
  assert {k: report[k] for k in expected} == pytest.approx(expected)
  assert 'eval/bayes_ceiling' not in report  # unknown for source b
  assert 'eval/b/bayes_ceiling' not in report


def test_a_mean_without_spread_gets_an_interval_by_groups():
  options = {'num_samples': 100, 'seed': 0}
  # Wilson for 1 of 1: 1 / (1 + 1.96 ** 2)
  low = 1 / (1 + 1.96**2)
  for values, groups in (([1.0], ['a']), ([1.0, 1.0], ['a', 'a'])):
    found = preference.mean_interval(values, groups=groups, **options)
    assert found == pytest.approx((low, 1))
  found = preference.mean_interval([1.0], groups=['a'], lowest=-1.0, **options)
  assert found == pytest.approx((2 * low - 1, 1))
  found = preference.mean_interval([1.0, 0.0], groups=['a', 'a'], **options)
  assert found[0] == pytest.approx(1 - found[1]) and found[0] < 0.1


def test_one_pair_is_no_proof():
  report = preference.pm_report([row(1.0, rejected_chars=10)])
  assert report['eval/accuracy'] == 1 and report['eval/over_length_rule'] == 0.5
  assert report['eval/accuracy_low'] == pytest.approx(0.2065, abs=1e-4)
  assert report['eval/over_length_rule_low'] < 0  # it beats no rule


def test_report_parts_add_up():
  margins = calibrated(300)
  rows = [
    row(m, source='abc'[i % 3], turns=1 + i % 8) for i, m in enumerate(margins)
  ]
  report = preference.pm_report(rows)
  assert all(np.isfinite(v) for v in report.values())
  for parts in (
    ['a', 'b', 'c'],
    [f'turns_{i}' for i in (1, 2, 3, 4, '5_plus')],
  ):
    sizes = [report[f'eval/{part}/pairs'] for part in parts]
    shares = [report[f'eval/{part}/accuracy'] for part in parts]
    assert sum(sizes) == 300
    assert np.average(shares, weights=sizes) == pytest.approx(
      report['eval/accuracy']
    )
  low, high = report['eval/accuracy_low'], report['eval/accuracy_high']
  assert low < report['eval/accuracy'] < high
  assert report == preference.pm_report(rows)


def test_report_resamples_conversations_where_they_are_known():
  margins = np.repeat(calibrated(80), 4)
  apart = [row(m) for m in margins]
  grouped = [row(m, conversation=f'c{i // 4}') for i, m in enumerate(margins)]

  def width(rows):
    report = preference.pm_report(rows)
    return report['eval/accuracy_high'] - report['eval/accuracy_low']

  assert width(grouped) > 1.6 * width(apart)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'score_chosen': None}, 'row 1: score_chosen is None'),
    ({'turns': 'two'}, "row 1: turns is 'two'"),
    ({'rejected_chars': float('nan')}, 'row 1: rejected_chars is nan'),
    ({'p_chosen': 'x'}, "p_chosen is 'x'"),
    ({'p_chosen': 1.5}, 'p_chosen is 1.5'),
  ],
)
def test_report_names_the_bad_row(change, message):
  with pytest.raises(InputError, match=message):
    preference.pm_report([row(1.0), row(1.0, **change)])


def test_report_refuses_no_pairs():
  with pytest.raises(InputError, match='no held-out pairs'):
    preference.pm_report([])
