"""Advantage estimators. Axis letters: B batch, R reply columns.

Rewards, values and masks are [B, R]; masks are 1 on a prefix of the row. The
estimators over groups want the samples of one prompt in adjacent rows.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp

from hh_jax.types import Array

# (rewards, values, mask) -> (advantages, returns), each [B, R]
AdvantageFn = Callable[[Array, Array, Array], tuple[Array, Array]]

WITH_VALUES = ('gae', 'reinforce')
OVER_GROUPS = ('rloo', 'grpo')
ESTIMATORS = WITH_VALUES + OVER_GROUPS


def gae(
  rewards: Array, values: Array, mask: Array, *, gamma: float, lam: float
) -> tuple[Array, Array]:
  """Generalised advantage estimation (Schulman et al. 2016, eq. 16).

  delta_t = r_t + gamma * V_{t+1} - V_t with V = 0 after the last token;
  A_t = delta_t + gamma * lam * A_{t+1}. Returns advantages (not whitened) and
  returns = A + V, both 0 where the mask is.
  """
  values = values * mask
  next_values = jnp.concatenate(
    [values[:, 1:], jnp.zeros_like(values[:, :1])], axis=1
  )
  deltas = (rewards + gamma * next_values - values) * mask

  def step(carry: Array, delta: Array) -> tuple[Array, Array]:
    carry = delta + gamma * lam * carry
    return carry, carry

  init = jnp.zeros(rewards.shape[0], jnp.float32)
  _, advantages = jax.lax.scan(step, init, deltas.T, reverse=True)
  advantages = advantages.T * mask
  return advantages, (advantages + values) * mask


def reinforce(
  rewards: Array, values: Array, mask: Array
) -> tuple[Array, Array]:
  """REINFORCE with a learned baseline (Lee et al. 2023): A = reward - V.

  Every token gets the reward of the whole reply, less its own value; returns
  are that reward, which the value learns.
  """
  total = (rewards * mask).sum(axis=1, keepdims=True) * mask
  return total - values * mask, total


def _groups(rewards: Array, mask: Array, num_samples: int) -> Array:
  """Reward of each reply by prompt, PM units [B / num_samples, num_samples]."""
  if num_samples < 2:
    raise ValueError(f'a group of {num_samples} has no baseline')
  return (rewards * mask).sum(axis=1).reshape(-1, num_samples)


def _spread(by_group: Array, mask: Array) -> tuple[Array, Array]:
  """One number a reply for all its tokens; there is no value to learn."""
  return by_group.reshape(-1, 1) * mask, jnp.zeros_like(mask)


def rloo(
  rewards: Array, values: Array, mask: Array, *, num_samples: int
) -> tuple[Array, Array]:
  """Leave-one-out (Ahmadian et al. 2024): A_i = r_i - mean of the others."""
  del values
  r = _groups(rewards, mask, num_samples)
  others = (r.sum(axis=1, keepdims=True) - r) / (num_samples - 1)
  return _spread(r - others, mask)


def grpo(
  rewards: Array, values: Array, mask: Array, *, num_samples: int
) -> tuple[Array, Array]:
  """A_i = (r_i - mean) / std of its group (Shao et al. 2024); 0 for ties."""
  del values
  r = _groups(rewards, mask, num_samples)
  r -= r[:, :1]  # ties are exact zeros, whatever their size
  centred = r - r.mean(axis=1, keepdims=True)
  return _spread(centred / (r.std(axis=1, keepdims=True) + 1e-6), mask)


def make(
  name: str, *, gamma: float, lam: float, num_samples: int
) -> AdvantageFn:
  """The estimator of that name with its own settings bound."""
  if name == 'gae':
    return functools.partial(gae, gamma=gamma, lam=lam)
  if name == 'reinforce':
    return reinforce
  if name in OVER_GROUPS:
    fn = {'rloo': rloo, 'grpo': grpo}[name]
    return functools.partial(fn, num_samples=num_samples)
  raise ValueError(f'advantage {name!r} is none of {ESTIMATORS}')
