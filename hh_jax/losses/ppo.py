"""Policy losses on one minibatch. Axis letters: B batch, R reply columns.

All losses and metrics are sums over tokens of a weight times a quantity (those
named `*_max` are maxima), so micro-batches of a minibatch add up to it.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from hh_jax.rl import kl
from hh_jax.types import Array, LossFn, Params, PolicyBatch, Rollout

# (logprobs, entropy, values) of reply tokens, float32 [B, R] each
Outputs = tuple[Array, Array, Array]
PolicyFn = Callable[[Params, Rollout], Outputs]
# outputs, batch -> (loss [], metrics)
SurrogateFn = Callable[[Outputs, PolicyBatch], tuple[Array, dict[str, Array]]]
# (params, rows of text) -> loss []
TextFn = Callable[[Params, Array], Array]

AGGREGATES = ('token_mean', 'sequence_mean', 'fixed_length')


def token_weights(mask: Array, *, aggregate: str) -> Array:
  """What each reply token of a minibatch counts in its loss, float32 [B, R].

  'token_mean': every token alike; 'sequence_mean': every reply alike, its
  tokens sharing its weight (GRPO); 'fixed_length': 1 / (B * R) each, whatever
  the lengths (Liu et al. 2025). The first two sum to 1.
  """
  mask = mask.astype(jnp.float32)
  if aggregate == 'token_mean':
    return mask / jnp.maximum(mask.sum(), 1.0)
  if aggregate == 'sequence_mean':
    lengths = mask.sum(axis=1, keepdims=True)
    rows = jnp.maximum((lengths > 0).sum(), 1)
    return mask / jnp.maximum(lengths, 1.0) / rows
  if aggregate == 'fixed_length':
    return mask / mask.size
  raise ValueError(f'aggregate {aggregate!r} is none of {AGGREGATES}')


def value_loss(values: Array, rollout: Rollout, *, value_clip: float) -> Array:
  """Half the squared error of each value, PM units squared [B, R].

  With value_clip > 0 the larger one of it and that of a value which moved by
  at most value_clip PM units (Ziegler et al. 2019's code).
  """
  error = jnp.square(values - rollout.returns)
  if value_clip:
    move = jnp.clip(values - rollout.values, -value_clip, value_clip)
    clipped_error = jnp.square(rollout.values + move - rollout.returns)
    error = jnp.maximum(error, clipped_error)
  return 0.5 * error


def reference_kl(
  logprobs: Array, rollout: Rollout, ratio: Array, *, name: str
) -> Array:
  """KL of the policy to the reference, nats, [B, R]; of use as a loss.

  The gradient of k2 is that of KL(policy || reference) on the policy's own
  samples; that of k3 alone is the other direction's, so k3 is weighted by the
  ratio to the policy that sampled, through which it has the right one (and the
  same as k2's while the ratio is 1).
  """
  log_ratio = (logprobs - rollout.ref_logprobs) * rollout.reply_mask
  estimate = kl.estimate(log_ratio, name)
  return ratio * estimate if name == 'k3' else estimate


def surrogate_loss(
  *,
  clip_eps: float,
  value_clip: float,
  value_coef: float,
  entropy_coef: float,
  kl_estimator: str,
) -> SurrogateFn:
  """Clipped surrogate (Schulman et al. 2017, eq. 7) and what is added to it.

  + value_coef * value loss - entropy_coef * entropy + rollout.kl_coef * KL to
  the reference (kl_estimator 'k2' or 'k3'; see reference_kl). A coefficient of
  0 leaves its term out of the gradient (the entropy out of the metrics too: a
  pass over all logits).
  """

  def loss_fn(outputs: Outputs, batch: PolicyBatch):
    logprobs, entropy, values = outputs
    rollout, weights = batch.rollout, batch.weights
    chex.assert_equal_shape([logprobs, entropy, values, weights])

    def mean(x: Array) -> Array:
      return (x * weights).sum()

    log_ratio = kl.clamp((logprobs - rollout.logprobs) * rollout.reply_mask)
    ratio, adv = jnp.exp(log_ratio), rollout.advantages
    clipped = jnp.clip(ratio, 1 - clip_eps, 1 + clip_eps)
    to_reference = reference_kl(logprobs, rollout, ratio, name=kl_estimator)
    terms = {
      'policy_loss': -mean(jnp.minimum(ratio * adv, clipped * adv)),
      'value_loss': mean(value_loss(values, rollout, value_clip=value_clip)),
      'kl_loss': mean(to_reference * rollout.kl_coef[:, None]),
    }
    loss = terms['policy_loss'] + terms['kl_loss']
    if value_coef:
      loss += value_coef * terms['value_loss']
    if entropy_coef:
      terms['entropy'] = mean(entropy)
      loss -= entropy_coef * terms['entropy']
    moved = _moved(log_ratio, weights, clip_eps=clip_eps)
    return loss, terms | jax.lax.stop_gradient(moved)

  return loss_fn


def ppo_loss(
  policy_fn: PolicyFn,
  surrogate: SurrogateFn,
  *,
  text_fn: TextFn | None = None,
  text_coef: float = 0.0,
) -> LossFn:
  """The surrogate of a policy + text_coef * text loss.

  The latter is PPO-ptx (Ouyang et al. 2022).
  """

  def loss_fn(params: Params, batch: PolicyBatch, whole: PolicyBatch):
    del whole  # the weights are over its counts already
    loss, metrics = surrogate(policy_fn(params, batch.rollout), batch)
    if text_fn is not None:
      metrics['text_loss'] = text_fn(params, batch.text)
      loss += text_coef * metrics['text_loss']
    return loss, metrics

  return loss_fn


def _moved(
  log_ratio: Array, weights: Array, *, clip_eps: float
) -> dict[str, Array]:
  """How far the policy is from the one that sampled; [B, R] -> [] each."""
  ratio = jnp.exp(log_ratio)
  quantities = {
    'approx_kl_k2': kl.estimate(log_ratio, 'k2'),
    'approx_kl_k3': ratio - 1 - log_ratio,
    'clip_fraction': jnp.abs(ratio - 1) > clip_eps,
    'ratio': ratio,
    'clamped': jnp.abs(log_ratio) >= kl.MAX_LOG_RATIO,
  }
  return {name: (x * weights).sum() for name, x in quantities.items()} | {
    'ratio_max': ratio.max(),
    'log_ratio_abs_max': jnp.abs(log_ratio).max(),
  }
