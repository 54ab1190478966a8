"""Gao et al.'s curves: planted, honest about a line, and refused."""

import math

import numpy as np
import pytest

from hh_jax.evals import overoptimisation

D = np.linspace(0, 5, 11)


def planted(form, a, b, noise=0.0, seed=0):
  curve = D * (a - b * (D if form == 'best_of_n' else np.log(D + (D == 0))))
  return curve + noise * np.random.default_rng(seed).normal(size=D.size)


def test_best_of_n_by_hand():
  fit = overoptimisation.fit_bend(
    D, planted('best_of_n', 0.6, 0.1), form='best_of_n'
  )
  assert (fit.a, fit.b) == pytest.approx((0.6, 0.1))
  assert fit.r_squared == pytest.approx(1) and fit.num_points == 10
  # paper.md G: d* = a / 2b, R* = a^2 / 4b
  assert fit.peak == pytest.approx((3.0, 0.9))
  assert fit.report()['is_peak_seen'] is True
  assert fit.predict([0, 3]) == pytest.approx([0, 0.9])


def test_rl_by_hand():
  fit = overoptimisation.fit_bend(D, planted('rl', 0.38, 0.2), form='rl')
  assert (fit.a, fit.b) == pytest.approx((0.38, 0.2))
  where = math.exp(0.9)  # d* = e^(a/b - 1), R* = b d*
  assert fit.peak == pytest.approx((where, 0.2 * where))
  grid = np.linspace(0.01, 5, 1000)
  assert grid[fit.predict(grid).argmax()] == pytest.approx(where, abs=0.01)
  assert fit.predict(0.0) == 0


@pytest.mark.parametrize('form', overoptimisation.FORMS)
def test_planted_values_lie_within_three_standard_errors(form):
  scores = []
  for seed in range(200):
    noisy = planted(form, 0.6, 0.1, 0.05, seed)
    fit = overoptimisation.fit_bend(D, noisy, form=form)
    scores.append([(fit.a - 0.6) / fit.a_se, (fit.b - 0.1) / fit.b_se])
  assert (np.mean(np.abs(scores) < 3, axis=0) > 0.94).all()  # t, 8 degrees
  assert np.std(scores, axis=0) == pytest.approx([8 / 6] * 2, rel=0.25)


@pytest.mark.parametrize('form', overoptimisation.FORMS)
def test_a_line_has_no_peak(form):
  """Most of the time: b is tested at two standard errors."""
  fits = [
    overoptimisation.fit_bend(D, planted(form, 0.5, 0, 0.1, seed), form=form)
    for seed in range(100)
  ]
  assert np.mean([fit.is_bent for fit in fits]) < 0.12
  straight = next(fit for fit in fits if not fit.is_bent)
  assert straight.peak is None
  assert straight.report()['peak_reward'] is None
  assert straight.report()['is_peak_seen'] is False


@pytest.mark.parametrize('form', overoptimisation.FORMS)
def test_rounding_of_an_exact_line_is_no_bend(form):
  for slope in np.linspace(0.1, 3, 50):
    fit = overoptimisation.fit_bend(D, slope * D, form=form)
    assert fit.peak is None


def test_a_peak_beyond_the_points_is_not_seen():
  fit = overoptimisation.fit_bend(
    D, planted('best_of_n', 2.0, 0.1), form='best_of_n'
  )
  assert fit.peak == pytest.approx((10, 10))
  assert fit.report()['is_peak_seen'] is False


def test_points_at_zero_count_for_nothing():
  one = overoptimisation.fit_bend(D, planted('rl', 1, 0.2, 0.1), form='rl')
  more = overoptimisation.fit_bend(
    [0, 0, *D], [5, -5, *planted('rl', 1, 0.2, 0.1)], form='rl'
  )
  assert one == more


def test_a_flat_reward():
  fit = overoptimisation.fit_bend(D, np.zeros(11), form='rl')
  assert (fit.a, fit.b, fit.r_squared) == (0, 0, 0) and fit.peak is None


@pytest.mark.parametrize(
  ('args', 'form', 'says'),
  [
    ((D, D), 'ppo', "form 'ppo' is none of"),
    (([1, 2], [1, 2]), 'rl', 'need 3 points off 0'),
    (([0, 1, 2], [0, 1, 2]), 'rl', 'need 3 points off 0'),
    (([1, 1, 1], [0, 1, 2]), 'rl', 'at 2 places'),
    (([-1, 1, 2], [0, 1, 2]), 'rl', 'negative'),
    (([1, 2, 3], [0, 1, np.nan]), 'rl', 'finite'),
    (([1, 2, 3], [0, 1]), 'rl', 'want'),
  ],
)
def test_refused(args, form, says):
  with pytest.raises(ValueError, match=says):
    overoptimisation.fit_bend(*args, form=form)
