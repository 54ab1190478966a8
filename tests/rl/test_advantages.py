import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax.rl import advantages


def loop_gae(rewards, values, mask, gamma, lam):
  """The recursion of Schulman et al. 2016 written out, float64."""
  out = np.zeros_like(rewards)
  for b in range(len(rewards)):
    carry, steps = 0.0, int(mask[b].sum())
    for t in reversed(range(steps)):
      after = values[b, t + 1] if t + 1 < steps else 0.0
      delta = rewards[b, t] + gamma * after - values[b, t]
      carry = delta + gamma * lam * carry
      out[b, t] = carry
  return out


def random_case(seed=0):
  rng = np.random.default_rng(seed)
  rewards, values = rng.normal(size=(2, 4, 6))
  lengths = np.array([6, 3, 1, 0])
  mask = (np.arange(6)[None] < lengths[:, None]).astype(float)
  # what lies past the end must not matter
  return rewards * mask, values, mask


def test_by_hand():
  # delta = [0 + .5*2 - 1, 3 - 2] = [0, 1]; A = [0 + .5*.5*1, 1]
  out, returns = advantages.gae(
    jnp.array([[0.0, 3.0]]),
    jnp.array([[1.0, 2.0]]),
    jnp.ones((1, 2)),
    gamma=0.5,
    lam=0.5,
  )
  np.testing.assert_allclose(out, [[0.25, 1.0]])
  np.testing.assert_allclose(returns, [[1.25, 3.0]])


@pytest.mark.parametrize('gamma, lam', [(1.0, 0.95), (0.9, 0.0), (0.7, 1.0)])
def test_against_a_plain_loop(gamma, lam):
  rewards, values, mask = random_case()
  got, returns = advantages.gae(
    *map(jnp.array, (rewards, values, mask)), gamma=gamma, lam=lam
  )
  wanted = loop_gae(rewards, values, mask, gamma, lam)
  np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    returns, (wanted + values) * mask, rtol=1e-4, atol=1e-5
  )


def test_lambda_one_is_returns_minus_values():
  rewards, values, mask = random_case(1)
  got, _ = advantages.gae(
    *map(jnp.array, (rewards, values, mask)), gamma=1.0, lam=1.0
  )
  to_go = rewards[:, ::-1].cumsum(1)[:, ::-1]
  np.testing.assert_allclose(got, (to_go - values) * mask, atol=1e-5)


def test_reinforce_is_gae_with_lambda_one():
  """For a reward at the end of the reply, the usual case."""
  rewards, values, mask = random_case(2)
  lengths = mask.sum(1).astype(int)
  at_end = np.zeros_like(rewards)
  for b, n in enumerate(lengths):
    at_end[b, n - 1 : n] = rewards[b].sum()
  case = [*map(jnp.array, (at_end, values, mask))]
  got, returns = advantages.reinforce(*case)
  wanted, wanted_returns = advantages.gae(*case, gamma=1.0, lam=1.0)
  np.testing.assert_allclose(got, wanted, atol=1e-5)
  np.testing.assert_allclose(returns, wanted_returns, atol=1e-5)


def grouped(name, rewards, mask=None, num_samples=2):
  rewards = jnp.array(rewards)
  mask = jnp.ones_like(rewards) if mask is None else mask
  fn = advantages.make(name, gamma=1.0, lam=1.0, num_samples=num_samples)
  return fn(rewards, jnp.full_like(rewards, 7.0), mask)


def test_two_samples_leave_one_out_is_their_difference():
  """Closed form: A = +-(r_1 - r_2), every token alike."""
  got, returns = grouped('rloo', [[1.0, 2.0], [0.5, 0.0], [1.0, 0], [5.0, 0]])
  np.testing.assert_allclose(got[:, 0], [2.5, -2.5, -4.0, 4.0])
  np.testing.assert_allclose(got[:, 1], got[:, 0])
  assert not returns.any()  # and no value is learnt


def test_leave_one_out_is_a_scaled_group_mean():
  r = np.random.default_rng(0).normal(size=(12, 1)).astype(np.float32)
  got = grouped('rloo', r, num_samples=4)[0].reshape(3, 4)
  r = r.reshape(3, 4)
  wanted = (r - r.mean(1, keepdims=True)) * 4 / 3
  np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_grpo_is_standardised_by_group_and_ignores_ties():
  got, _ = grouped('grpo', [[1.0], [3.0], [2.0], [2.0]])
  np.testing.assert_allclose(got[:, 0], [-1, 1, 0, 0], atol=1e-5)


@pytest.mark.parametrize('tie', [20.1, 7.3, 1.1])
def test_grpo_gives_exactly_nothing_for_three_ties(tie):
  """Their mean is not the tie to the last bit, and the deviation is 0."""
  got, _ = grouped('grpo', [[tie]] * 3, num_samples=3)
  assert not got.any()


@pytest.mark.parametrize('name', advantages.ESTIMATORS)
def test_nothing_past_the_end_of_a_reply(name):
  rewards, values, mask = map(jnp.array, random_case(3))
  fn = advantages.make(name, gamma=1.0, lam=0.9, num_samples=2)
  out = fn(rewards, values, mask)
  moved = fn(rewards, values + 100.0 * (1 - mask), mask)
  for a, b in zip(out, moved, strict=True):
    np.testing.assert_array_equal(a, b)
    assert not (a * (1 - mask)).any() and bool((out[0] * mask).any())


def test_a_group_of_one_and_an_unknown_name_are_refused():
  with pytest.raises(ValueError, match='a group of 1'):
    grouped('rloo', [[1.0]], num_samples=1)
  with pytest.raises(ValueError, match="advantage 'vtrace' is none of"):
    advantages.make('vtrace', gamma=1.0, lam=1.0, num_samples=1)
