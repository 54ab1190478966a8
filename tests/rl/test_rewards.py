import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax.rl import kl, rewards


def test_by_hand():
  log_ratio = jnp.array([[0.5, -1.0, -6.0], [0.0, 0.0, 1.0]])
  got = rewards.kl_rewards(
    jnp.array([2.0, -1.0]),
    log_ratio,
    jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]),
    kl_coef=0.1,
  )
  wanted = [[-0.05, 2.0 + 0.1, 0.0], [0.0, 0.0, -1.0 - 0.1]]
  np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize('name', kl.ESTIMATORS)
def test_a_row_sums_to_score_minus_its_kl_for_any_length(name):
  keys = jax.random.split(jax.random.key(0), 2)
  score = jax.random.normal(keys[0], (7,))
  estimates = kl.estimate(jax.random.normal(keys[1], (7, 6)), name)
  lengths = jnp.arange(7)
  mask = (jnp.arange(6)[None] < lengths[:, None]).astype(jnp.float32)
  got = rewards.kl_rewards(score, estimates, mask, kl_coef=0.3)
  # a row without a token has no place for its score
  total = score - 0.3 * (estimates * mask).sum(1)
  wanted = jnp.where(lengths > 0, total, 0.0)
  np.testing.assert_allclose(got.sum(1), wanted, atol=1e-5)
  assert (got * (1 - mask) == 0).all()
  # the score is on the last real token and nowhere else
  without = rewards.kl_rewards(0 * score, estimates, mask, kl_coef=0.3)
  where = np.argwhere(np.abs(got - without) > 1e-6)
  np.testing.assert_array_equal(where, [[i, i - 1] for i in range(1, 7)])


STOPPED = jnp.array([True, False])


@pytest.mark.parametrize(
  ('no_stop', 'wanted'),
  [('subtract', [1.0, 0.75]), ('replace', [1.0, -0.25]), ('keep', [1.0, 1.0])],
)
def test_what_becomes_of_a_cut_reply(no_stop, wanted):
  got = rewards.stopped_score(
    jnp.array([1.0, 1.0]), STOPPED, no_stop=no_stop, penalty=0.25
  )
  np.testing.assert_allclose(got, wanted)


def test_an_unknown_rule_is_refused():
  with pytest.raises(ValueError, match="no_stop 'eos' is none of"):
    rewards.stopped_score(jnp.ones(2), STOPPED, no_stop='eos', penalty=1.0)
