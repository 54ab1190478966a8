"""Per-token rewards. Axis letters: B batch, R reply columns."""

import jax.numpy as jnp

from hh_jax.types import Array

NO_STOP = ('subtract', 'replace', 'keep')


def kl_rewards(score: Array, kl: Array, mask: Array, *, kl_coef: Array):
  """r_total = score - kl_coef * KL, spread over the reply; PM units [B, R].

  The score [B] lands on the last sampled token; every sampled token pays
  kl_coef * kl, an estimate [B, R] in nats on the policy that sampled (Bai et
  al. 2022, eq. 4.1; the estimator is our choice, see rl/kl.py). A row sums to
  score - kl_coef * its KL; a row without tokens has no reward.
  """
  after = jnp.concatenate([mask[:, 1:], jnp.zeros_like(mask[:, :1])], axis=1)
  is_last = mask * (1 - after)
  return score[:, None] * is_last - kl_coef * kl * mask


def stopped_score(
  score: Array, is_stopped: Array, *, no_stop: str, penalty: float
) -> Array:
  """Score [B] of every reply, those cut by the length limit by a named rule.

  'subtract': less `penalty` PM units; 'replace': -penalty instead of the score
  (Ziegler et al. 2019's code has -1); 'keep': the score of the cut reply. Bai
  et al. 2022 do not say; scores are centred, so both penalties are below a
  typical score.
  """
  if no_stop == 'subtract':
    return score - penalty * (1.0 - is_stopped.astype(jnp.float32))
  if no_stop == 'replace':
    return jnp.where(is_stopped, score, -penalty)
  if no_stop == 'keep':
    return score
  raise ValueError(f'no_stop {no_stop!r} is none of {NO_STOP}')
