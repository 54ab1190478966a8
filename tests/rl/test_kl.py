import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax.rl import kl


def distributions():
  rng = np.random.default_rng(0)
  policy, reference = rng.dirichlet(np.ones(5), size=2)
  return policy, reference, np.log(policy) - np.log(reference)


@pytest.mark.parametrize(
  ('name', 'wanted'),
  [
    ('k1', [0.0, 0.5, -1.0]),
    ('k2', [0.0, 0.125, 0.5]),
    ('k3', [0.0, np.exp(-0.5) - 0.5, np.exp(1) - 2]),
  ],
)
def test_by_hand(name, wanted):
  got = kl.estimate(jnp.array([0.0, 0.5, -1.0]), name)
  np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_k1_and_k3_are_unbiased_and_k2_is_not():
  policy, _, log_ratio = distributions()
  exact = (policy * log_ratio).sum()
  mean = {
    name: float((policy * kl.estimate(jnp.array(log_ratio), name)).sum())
    for name in kl.ESTIMATORS
  }
  assert mean['k1'] == pytest.approx(exact, abs=1e-6)
  assert mean['k3'] == pytest.approx(exact, abs=1e-6)
  assert abs(mean['k2'] - exact) > 0.01


def test_k3_is_never_negative_nor_infinite():
  log_ratio = jnp.array([-1e9, -100.0, -1.0, 0.0, 1.0, 100.0])
  got = kl.estimate(log_ratio[1:], 'k3')
  assert (got >= 0).all() and jnp.isfinite(got).all()


def test_k3_never_pushes_the_wrong_way():
  far = jnp.array([-1e3, -25.0, -21.0, -1.0, 0.0, 1.0, 25.0])
  gradient = jax.vmap(jax.grad(lambda x: kl.estimate(x, 'k3')))(far)
  assert (gradient * far >= 0).all()
  assert gradient[3] < 0 < gradient[5]


def test_gradient_of_k2_is_that_of_the_reverse_kl_and_of_k1_nothing():
  """In expectation over the policy's own samples (paper's I.2, item 2)."""
  policy, reference, _ = distributions()
  logits = jnp.log(policy)

  def exact(logits):
    logp = jax.nn.log_softmax(logits)
    return (jnp.exp(logp) * (logp - jnp.log(reference))).sum()

  def expected(logits, name):
    logp = jax.nn.log_softmax(logits)
    return (policy * kl.estimate(logp - jnp.log(reference), name)).sum()

  wanted = jax.grad(exact)(logits)
  np.testing.assert_allclose(
    jax.grad(expected)(logits, 'k2'), wanted, atol=1e-5
  )
  np.testing.assert_allclose(jax.grad(expected)(logits, 'k1'), 0, atol=1e-6)
  assert np.abs(jax.grad(expected)(logits, 'k3') - wanted).max() > 1e-2


def test_the_coefficient_moves_towards_the_target_and_slowly():
  def after(nats):
    return kl.adapted_coef(0.1, nats, target=6.0, samples=100, horizon=1000)

  assert after(6.0) == pytest.approx(0.1)
  assert after(6.6) == pytest.approx(0.1 * 1.01)
  assert after(600.0) == pytest.approx(0.1 * 1.02)  # at most 20 % off counts
  assert after(-50.0) == pytest.approx(0.1 * 0.98)


def test_an_unknown_estimator_is_refused():
  with pytest.raises(ValueError, match="KL estimator 'k4' is none of"):
    kl.estimate(jnp.zeros(1), 'k4')
