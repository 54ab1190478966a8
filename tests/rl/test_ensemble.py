"""Several preference models as one."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax.rl import ensemble

SCORES = jnp.array(
  [[1.0, 4.0], [3.0, -2.0], [5.0, 1.0]]
)  # 3 members, 2 replies


@pytest.mark.parametrize(
  ('how', 'k', 'wanted'),
  [
    ('mean', 2.0, [3, 1]),
    ('worst', 2.0, [1, -2]),
    # variances (4 + 0 + 4) / 3 and (9 + 9 + 0) / 3
    ('mean_minus_variance', 1.0, [3 - 8 / 3, 1 - 6]),
    ('mean_minus_variance', 0.5, [3 - 4 / 3, 1 - 3]),
    ('mean_minus_variance', 0.0, [3, 1]),
  ],
)
def test_by_hand(how, k, wanted):
  got = ensemble.combine(SCORES, how=how, k=k)
  np.testing.assert_allclose(got, wanted, rtol=1e-6)
  # a row of members for each reply, whatever stands beside it
  np.testing.assert_array_equal(
    ensemble.combine(SCORES[:, None, :1], how=how, k=k), got[None, :1]
  )


@pytest.mark.parametrize('how', ensemble.HOW)
def test_properties(how):
  fn = functools.partial(ensemble.combine, how=how, k=0.7)
  np.testing.assert_array_equal(fn(SCORES[:1]), SCORES[0])
  np.testing.assert_allclose(fn(SCORES + 2), fn(SCORES) + 2, rtol=1e-5)
  np.testing.assert_allclose(fn(SCORES[::-1]), fn(SCORES), rtol=1e-6)
  assert (fn(SCORES) <= SCORES.mean(axis=0) + 1e-6).all()
  broken = fn(SCORES.at[1, 0].set(jnp.nan))
  assert np.isnan(broken[0]) and broken[1] == fn(SCORES)[1]


def test_another_way_is_refused():
  with pytest.raises(ValueError, match="'median' is none of"):
    ensemble.combine(SCORES, how='median', k=0.0)


def test_over_members():
  def score(params):
    return params['a'] * SCORES[0], SCORES[1] - params['a']

  def over(params):
    combine = functools.partial(ensemble.combine, how='worst', k=0.0)
    return ensemble.over_members(score, params, combine)

  alone, one = over({'a': 2.0}), over(({'a': 2.0},))
  np.testing.assert_array_equal(alone, score({'a': 2.0}))
  np.testing.assert_array_equal(one, alone)
  first, second = over(({'a': 2.0}, {'a': -1.0}))
  np.testing.assert_array_equal(first, [-1, -4])
  np.testing.assert_array_equal(second, [1, -4])
