"""Best of k: against every subset, known distributions, and refused."""

import itertools
import math

import numpy as np
import pytest

from hh_jax.evals import best_of_n


def by_enumeration(ranking, target, k):
  """Mean target of the best over all subsets of k; ties share."""
  values = []
  for subset in itertools.combinations(range(len(ranking)), k):
    top = max(ranking[i] for i in subset)
    values.append(np.mean([target[i] for i in subset if ranking[i] == top]))
  return np.mean(values)


def scores(num_prompts=3, num=6, seed=0):
  return np.random.default_rng(seed).normal(size=(num_prompts, num))


def test_kl():
  assert best_of_n.kl(1) == best_of_n.log_k(1) == 0
  # paper.md G and A.11
  assert best_of_n.kl(4) == pytest.approx(0.636, abs=5e-4)
  assert best_of_n.kl(64) == pytest.approx(3.175, abs=5e-4)
  assert best_of_n.log_k(64) == pytest.approx(4.16, abs=5e-3)
  with pytest.raises(ValueError, match='best of 0'):
    best_of_n.kl(0)


def test_weights_by_hand():
  # two of three: the middle is best once, the highest twice
  np.testing.assert_allclose(best_of_n.weights(3, 2), [0, 1 / 3, 2 / 3])
  np.testing.assert_allclose(best_of_n.weights(4, 1), [0.25] * 4)
  np.testing.assert_array_equal(best_of_n.weights(4, 4), [0, 0, 0, 1])


@pytest.mark.parametrize('num', [1, 7, 64, 3_000])
def test_weights_are_those_of_binomials(num):
  for k in {1, min(2, num), max(num // 2, 1), num}:
    found = best_of_n.weights(num, k)
    exact = [
      math.comb(i - 1, k - 1) / math.comb(num, k)
      for i in range(max(1, num - 40), num + 1)
    ]
    np.testing.assert_allclose(found[-len(exact) :], exact, rtol=1e-12)
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize('k', range(1, 7))
def test_every_subset_counts(k):
  ranking, target = scores(seed=1), scores(seed=2)
  found = best_of_n.expected_best(ranking, target, ks=(k,))[:, 0]
  exact = [
    by_enumeration(*rows, k) for rows in zip(ranking, target, strict=True)
  ]
  np.testing.assert_allclose(found, exact)


@pytest.mark.parametrize('k', range(1, 7))
def test_samples_that_rank_alike_share(k):
  ranking = np.array([[0, 1, 1, 0, 2, 1], [5, 5, 5, 5, 5, 5]])
  target = scores(2, 6)
  found = best_of_n.expected_best(ranking, target, ks=(k,))[:, 0]
  exact = [
    by_enumeration(*rows, k) for rows in zip(ranking, target, strict=True)
  ]
  np.testing.assert_allclose(found, exact)
  # the same last value in one row and first in the next is no tie
  ranking = np.array([[0.0, 1.0], [1.0, 2.0]])
  best = best_of_n.expected_best(ranking, [[0, 1], [5, 9]], ks=(2,))
  np.testing.assert_array_equal(best[:, 0], [1, 9])


def test_order_of_samples_and_prompts_is_nothing():
  ranking, target = scores(seed=1), scores(seed=2)
  rng = np.random.default_rng(3)
  order, prompts = rng.permutation(6), [2, 0, 1]
  best = best_of_n.expected_best(ranking, target)
  mixed = best_of_n.expected_best(
    ranking[prompts][:, order], target[prompts][:, order]
  )
  np.testing.assert_allclose(best[prompts], mixed)


def test_best_of_one_is_the_mean_and_of_all_the_maximum():
  x = scores()
  found = best_of_n.expected_best(x)
  np.testing.assert_allclose(found[:, 0], x.mean(axis=1))
  np.testing.assert_allclose(found[:, -1], x.max(axis=1))
  assert (np.diff(found, axis=1) > 0).all()
  # one sample a prompt, and the least that has an error
  one = best_of_n.curve([[1.0], [4.0]])
  assert one.mean == pytest.approx([2.5]) and one.se == pytest.approx([1.5])
  assert one.gain == pytest.approx([0]) and one.kl == pytest.approx([0])


def test_uniform_scores_have_k_over_k_plus_one():
  x = np.random.default_rng(0).uniform(size=(2_000, 16))
  curve = best_of_n.curve(x)
  exact = curve.k / (curve.k + 1)
  assert (np.abs(curve.mean - exact) < 3.5 * curve.se).all()
  assert curve.se[-1] < 0.002


def test_gaussian_scores_have_known_maxima():
  x = np.random.default_rng(0).normal(size=(2_000, 8))
  curve = best_of_n.curve(x, ks=(2, 3))
  exact = np.array([1, 1.5]) / math.sqrt(math.pi)
  assert (np.abs(curve.mean - exact) < 3.5 * curve.se).all()


def test_the_estimator_has_no_bias_where_the_naive_one_has():
  """Averaged over draws of 4 from four known scores, without replacement."""
  rng = np.random.default_rng(0)
  x = rng.uniform(size=(50_000, 4))
  best = best_of_n.expected_best(x, ks=(3,))[:, 0]
  assert best.mean() == pytest.approx(3 / 4, abs=0.002)


def test_a_target_that_knows_nothing_does_not_gain():
  ranking, target = scores(3_000, 8, 1), scores(3_000, 8, 2)
  curve = best_of_n.curve(ranking, target)
  assert (np.abs(curve.gain[1:]) < 3.5 * curve.gain_se[1:]).all()
  assert best_of_n.curve(ranking).gain[-1] > 1


def test_errors_are_over_prompts_and_of_paired_gains():
  offset = 100 * np.arange(4.0)[:, None]
  x = scores(4, 3) + offset
  curve = best_of_n.curve(x, ks=(1, 3))
  best = x.max(axis=1)
  assert curve.se[1] == pytest.approx(best.std(ddof=1) / 2)
  gains = best - x.mean(axis=1)
  assert curve.gain[1] == pytest.approx(gains.mean())
  assert curve.gain_se[1] == pytest.approx(gains.std(ddof=1) / 2)
  assert curve.gain_se[1] < 1 < curve.se[1]
  assert curve.report()['k'] == [1, 3]


def test_best_of_one_gains_exactly_nothing():
  x = scores(40, 7) + 0.1
  curve = best_of_n.curve(x, scores(40, 7, 1) / 3)
  assert curve.gain[0] == curve.gain_se[0] == 0
  gains = curve.mean - curve.mean[0]
  np.testing.assert_allclose(curve.gain, gains, atol=1e-15)


def test_constant_scores_give_a_flat_curve():
  curve = best_of_n.curve(np.full((3, 5), 2.0))
  np.testing.assert_array_equal(curve.mean, np.full(5, 2.0))
  np.testing.assert_array_equal(curve.gain, np.zeros(5))
  np.testing.assert_array_equal(curve.gain_se, np.zeros(5))


@pytest.mark.parametrize(
  ('args', 'ks', 'says'),
  [
    ((scores(),), (7,), 'best of 7 from 6 samples'),
    ((scores(),), (0,), 'best of 0 from 6 samples'),
    (([[0.0, np.nan], [0, 1]],), None, 'ranking: a score of prompt 0'),
    (([[0, 1], [0, 1]], [[0, 1], [0, np.inf]]), None, 'target: .* prompt 1'),
    (([0.0, 1.0],), None, r'want scores \[M, N\]'),
    (([[0, 1]], [[0, 1, 2]]), None, r'target \(1, 3\)'),
    ((np.zeros((2, 0)),), None, r'ranking \(2, 0\)'),
    (([[0, 1]],), None, 'need 2 prompts'),
  ],
)
def test_refused(args, ks, says):
  with pytest.raises(ValueError, match=says):
    best_of_n.curve(*args, ks=ks)
