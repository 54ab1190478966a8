"""Estimates of KL(policy || reference) from samples of the policy.

With l = log pi(token) - log pi_ref(token) and rho = e^-l (Schulman 2020):
k1 = l, unbiased, of either sign; k2 = l^2 / 2, biased, small variance;
k3 = rho - 1 + l, unbiased, never negative.
"""

import jax.numpy as jnp

from hh_jax.types import Array

ESTIMATORS = ('k1', 'k2', 'k3')
# A ratio of e^20 is no policy any more; beyond it, float32 sums overflow.
MAX_LOG_RATIO = 20.0


def clamp(log_ratio: Array) -> Array:
  """Log-ratios, nats, within +- MAX_LOG_RATIO; count those that are there."""
  return jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def estimate(log_ratio: Array, name: str) -> Array:
  """An estimate for every token, nats: log pi - log pi_ref, any shape.

  k3 is that of the clamped log-ratio: past the clamp it has no gradient, where
  one of its two terms alone would push the wrong way.
  """
  if name == 'k1':
    return log_ratio
  if name == 'k2':
    return 0.5 * jnp.square(log_ratio)
  if name == 'k3':
    log_ratio = clamp(log_ratio)
    return jnp.exp(-log_ratio) - 1 + log_ratio
  raise ValueError(f'KL estimator {name!r} is none of {ESTIMATORS}')


def adapted_coef(
  coef: float, kl: float, *, target: float, samples: int, horizon: int
) -> float:
  """The coefficient after a batch of `samples` replies at `kl` nats a reply.

  coef * (1 + e * samples / horizon) with e = clip(kl / target - 1, -.2, .2)
  (Ziegler et al. 2019).
  """
  error = min(max(kl / target - 1, -0.2), 0.2)
  return coef * (1 + error * samples / horizon)
