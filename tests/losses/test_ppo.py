import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hh_jax.losses import ppo
from hh_jax.types import PolicyBatch, Rollout

SETTINGS = dict(
  clip_eps=0.2,
  value_clip=0.5,
  value_coef=0.1,
  entropy_coef=0.0,
  kl_estimator='k1',
)


def make_batch(aggregate='token_mean', **changes):
  fields = dict(
    tokens=jnp.zeros((1, 3), jnp.int32),
    prompt_lengths=jnp.ones(1, jnp.int32),
    reply_mask=jnp.array([[1.0, 1.0, 0.0]]),
    logprobs=jnp.array([[-1.0, -2.0, 0.0]]),
    ref_logprobs=jnp.array([[-1.5, -1.0, 0.0]]),
    values=jnp.array([[0.0, 1.0, 0.0]]),
    advantages=jnp.array([[1.0, -1.0, 0.0]]),
    returns=jnp.array([[2.0, 1.0, 0.0]]),
    kl_coef=jnp.zeros(1),
  )
  rollout = Rollout(**(fields | changes))
  weights = ppo.token_weights(rollout.reply_mask, aggregate=aggregate)
  return PolicyBatch(rollout, weights, text=None)


def loss_fn(policy_fn, **changes):
  return ppo.ppo_loss(policy_fn, ppo.surrogate_loss(**(SETTINGS | changes)))


def loss_of(batch, logprobs, values, entropy=None, **changes):
  entropy = jnp.ones_like(logprobs) if entropy is None else entropy

  def policy_fn(params, rollout):
    return logprobs, entropy, values

  return loss_fn(policy_fn, **changes)({}, batch, batch)


def test_by_hand():
  batch = make_batch()
  # ratios 1.5 and 0.5: the first is clipped to 1.2, the second (A < 0) to 0.8
  moved = jnp.log(jnp.array([[1.5, 0.5, 7.0]]))
  logprobs = batch.rollout.logprobs + moved
  loss, metrics = loss_of(batch, logprobs, jnp.array([[1.0, 1.0, 9.0]]))
  # value: errors 1 and 0 unclipped; the first moves 0.5 only: (0.5 - 2)^2
  value_loss = 0.5 * (2.25 + 0.0) / 2
  policy_loss = -(1.2 - 0.8) / 2
  assert loss == pytest.approx(policy_loss + 0.1 * value_loss, rel=1e-6)
  assert metrics['policy_loss'] == pytest.approx(policy_loss, rel=1e-6)
  assert metrics['value_loss'] == pytest.approx(value_loss, rel=1e-6)
  assert metrics['clip_fraction'] == 1.0
  k3 = ((1.5 - 1 - np.log(1.5)) + (0.5 - 1 - np.log(0.5))) / 2
  k2 = (np.log(1.5) ** 2 + np.log(0.5) ** 2) / 4
  assert metrics['approx_kl_k3'] == pytest.approx(k3, rel=1e-5)
  assert metrics['approx_kl_k2'] == pytest.approx(k2, rel=1e-5)
  assert metrics['ratio'] == pytest.approx(1.0)
  assert metrics['ratio_max'] == pytest.approx(1.5)
  assert 'entropy' not in metrics  # nothing asks for it


def test_without_value_clip_the_error_is_plain():
  batch = make_batch()
  values = jnp.array([[1.0, 1.0, 9.0]])
  _, metrics = loss_of(batch, batch.rollout.logprobs, values, value_clip=0.0)
  assert metrics['value_loss'] == pytest.approx(0.5 * 1.0 / 2)


def test_kl_in_the_loss_and_the_entropy_bonus():
  batch = make_batch(kl_coef=jnp.full(1, 0.3))
  rollout = batch.rollout
  loss, metrics = loss_of(
    batch,
    rollout.logprobs,
    rollout.values,
    entropy=jnp.array([[2.0, 4.0, 50.0]]),
    kl_estimator='k2',
    entropy_coef=0.01,
    value_coef=0.0,
  )
  # log-ratios to the reference .5 and -1
  assert metrics['kl_loss'] == pytest.approx(0.3 * (0.125 + 0.5) / 2)
  wanted = metrics['policy_loss'] + metrics['kl_loss'] - 0.01 * 3.0
  assert loss == pytest.approx(float(wanted))


def test_text_is_added_with_its_coefficient():
  def text_fn(params, text):
    return params * text.sum()

  batch = make_batch().replace(text=jnp.ones(4))
  rollout = batch.rollout

  def loss(params):
    return ppo.ppo_loss(
      lambda p, r: (rollout.logprobs, rollout.values, rollout.values),
      ppo.surrogate_loss(**SETTINGS),
      text_fn=text_fn,
      text_coef=0.5,
    )(params, batch, batch)

  (value, metrics), grad = jax.value_and_grad(loss, has_aux=True)(3.0)
  assert metrics['text_loss'] == 12.0
  assert grad == pytest.approx(0.5 * 4)
  rest = metrics['policy_loss'] + 0.1 * metrics['value_loss']
  assert value == pytest.approx(float(rest + 6.0))


def test_at_the_sampling_policy_it_is_the_policy_gradient():
  batch = make_batch(values=jnp.zeros((1, 3)))

  def policy_fn(params, rollout):
    return params['logprobs'], jnp.zeros((1, 3)), params['values']

  params = {
    'logprobs': batch.rollout.logprobs,
    'values': batch.rollout.values,
  }
  (_, metrics), grads = jax.value_and_grad(loss_fn(policy_fn), has_aux=True)(
    params, batch, None
  )
  assert metrics['ratio_max'] == 1.0
  assert metrics['approx_kl_k3'] == 0.0
  assert metrics['clip_fraction'] == 0.0
  np.testing.assert_allclose(grads['logprobs'], [[-0.5, 0.5, 0.0]])
  np.testing.assert_allclose(grads['values'], [[-0.1, -0.05, 0.0]])


def test_a_clipped_ratio_has_no_gradient():
  batch = make_batch(advantages=jnp.array([[1.0, 1.0, 0.0]]))

  def policy_fn(params, rollout):
    return params, jnp.zeros((1, 3)), batch.rollout.values

  ratio = jnp.log(jnp.array([[1.5, 0.5, 1.0]]))
  grads = jax.grad(lambda p: loss_fn(policy_fn)(p, batch, batch)[0])(
    batch.rollout.logprobs + ratio
  )
  assert grads[0, 0] == 0.0  # would only gain by going further
  assert grads[0, 1] < 0.0  # must be free to come back


def test_a_ratio_beyond_all_bounds_is_clamped_and_counted():
  batch = make_batch()
  far = batch.rollout.logprobs + jnp.array([[500.0, 0.0, 0.0]])
  loss, metrics = loss_of(batch, far, batch.rollout.values)
  assert jnp.isfinite(loss)
  assert metrics['clamped'] == 0.5
  assert metrics['log_ratio_abs_max'] == 20.0


def test_columns_past_the_end_change_nothing():
  def run(filler):
    batch = make_batch(
      logprobs=jnp.array([[-1.0, -2.0, filler]]),
      returns=jnp.array([[2.0, 1.0, filler]]),
      advantages=jnp.array([[1.0, -1.0, filler]]),
      kl_coef=jnp.full(1, 0.1),
    )

    def policy_fn(params, rollout):
      return (
        params * jnp.array([[-1.1, -2.1, 3 * filler]]),
        params * jnp.array([[1.0, 1.0, filler]]),
        params * jnp.array([[1.0, 1.0, -filler]]),
      )

    return jax.value_and_grad(
      loss_fn(policy_fn, kl_estimator='k3'),
      has_aux=True,
    )(1.0, batch, batch)

  (loss, metrics), grad = run(0.0)
  (other_loss, other_metrics), other_grad = run(13.0)
  assert loss == other_loss
  assert grad == other_grad
  assert metrics == other_metrics


MASK = jnp.array([[1.0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(
  ('aggregate', 'wanted'),
  [
    ('token_mean', [[1 / 4] * 3 + [0], [1 / 4, 0, 0, 0], [0] * 4]),
    ('sequence_mean', [[1 / 6] * 3 + [0], [1 / 2, 0, 0, 0], [0] * 4]),
    ('fixed_length', [[1 / 12] * 3 + [0], [1 / 12, 0, 0, 0], [0] * 4]),
  ],
)
def test_what_a_token_counts(aggregate, wanted):
  got = ppo.token_weights(MASK, aggregate=aggregate)
  np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_an_unknown_aggregate_is_refused():
  with pytest.raises(ValueError, match="aggregate 'sum' is none of"):
    ppo.token_weights(MASK, aggregate='sum')
