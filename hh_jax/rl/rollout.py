"""Replies, and what they are worth: the phases that come before updates.

Axis letters: B batch, P prompt, R reply columns.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hh_jax import arrays, sampling, sharding
from hh_jax.losses import ppo
from hh_jax.model import Transformer
from hh_jax.rl import advantages, ensemble, kl, rewards
from hh_jax.rl import policy as policy_lib
from hh_jax.types import (
  Array,
  Params,
  Prompts,
  Rollout,
  Samples,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Networks:
  """The functions of all networks in RL; their parameters travel apart."""

  policy: Transformer  # of the policy and of the reference
  value: Transformer
  values: str  # where values come from: see policy.ActorCritic
  pm: Transformer  # of every preference model
  combine: ensemble.CombineFn  # scores of the members of an ensemble
  distribution: sampling.SamplingDistribution
  max_reply: int
  end_id: int  # the end-of-context token
  chunk: int  # tokens whose logits exist at a time

  @property
  def actor_critic(self) -> policy_lib.ActorCritic:
    return policy_lib.ActorCritic(
      policy=self.policy,
      value=self.value,
      values=self.values,
      distribution=self.distribution,
      max_reply=self.max_reply,
      chunk=self.chunk,
    )


@dataclasses.dataclass(frozen=True)
class Rewarding:
  """How scores become advantages."""

  kl_estimator: str  # one of kl.ESTIMATORS
  kl_in_reward: bool  # or in the loss
  no_stop: str  # one of rewards.NO_STOP
  no_stop_penalty: float  # PM units
  advantage_fn: advantages.AdvantageFn
  whiten: bool  # advantages, over the tokens of the batch


def draw(
  nets: Networks,
  params: Params,
  prompts: Prompts,
  key: Array,
  row_ids: Array,
  *,
  num_samples: int = 1,
  slots: int = 0,
) -> Samples:
  """Replies of the policy to every prompt; see sampling.sample."""
  return sampling.sample(
    nets.policy,
    params,
    prompts,
    key,
    distribution=nets.distribution,
    max_reply=nets.max_reply,
    row_ids=row_ids,
    num_samples=num_samples,
    slots=slots,
  )


def judge(nets: Networks, pm_params: Params, samples: Samples) -> Array:
  """PM score of every sample, PM units, [B]; of a tuple, an ensemble's."""

  def score(params: Params) -> Array:
    return sampling.end_scores(nets.pm, params, samples, end_id=nets.end_id)

  return ensemble.over_members(score, pm_params, nets.combine)


def compare(
  nets: Networks, params: Params, ref_params: Params, samples: Samples
) -> dict[str, Array]:
  """Policy against reference on the samples; see rl.policy.compare."""
  return policy_lib.compare(
    nets.policy,
    params,
    ref_params,
    samples.tokens,
    samples.prompt_lengths,
    distribution=nets.distribution,
    max_reply=nets.max_reply,
    chunk=nets.chunk,
  )


def make_reshard(nets: Networks, shardings: Any) -> Callable[[Params], Params]:
  """The jitted reshard(policy): the policy as decoding reads it.

  Split by 'model' alone of the axes that split it in `shardings`, and in the
  dtype of the model: gathered once, and not in every step of a decode loop. One
  layer at a time, so that what has arrived is not held twice.
  """
  layout = sharding.for_decoding(shardings)

  def gather(name: str, weights: Array) -> Array:
    whole = layout['blocks'][name]
    one = NamedSharding(whole.mesh, P(*whole.spec[1:]))
    return jax.lax.map(
      lambda w: jax.lax.with_sharding_constraint(w, one), weights
    )

  def reshard(params: Params) -> Params:
    params = nets.policy.cast(params)
    blocks = {k: gather(k, w) for k, w in params['blocks'].items()}
    return {**params, 'blocks': blocks}

  return jax.jit(reshard, out_shardings=layout)


def make_sample(
  nets: Networks, *, num_samples: int, slots: int = 0
) -> Callable[[Params, Prompts, Array], Samples]:
  """The jitted sample(policy, prompts, key): num_samples replies a prompt.

  The replies of one prompt lie in adjacent rows; `slots` of them decode at a
  time, 0: all.
  """

  def sample(policy: Params, prompts: Prompts, key: Array) -> Samples:
    row_ids = jnp.arange(prompts.tokens.shape[0])
    samples = draw(
      *(nets, policy, prompts, key, row_ids),
      num_samples=num_samples,
      slots=slots,
    )
    return sharding.split_rows(samples, like=prompts.tokens)

  return jax.jit(sample)


def credit(
  nets: Networks,
  how: Rewarding,
  outputs: ppo.Outputs,
  frozen: Params,
  controls: dict[str, Array],
  samples: Samples,
) -> tuple[Rollout, dict[str, Array]]:
  """What the samples are worth to the networks whose outputs are given.

  Arguments and results as those of make_score's function.
  """
  logprobs, entropy, values = outputs
  mask, coef = samples.reply_mask, controls['kl_coef']
  pm_score = judge(nets, frozen['pm'], samples)
  ref_logprobs = nets.actor_critic.logprobs(
    frozen['reference'], samples.tokens, samples.prompt_lengths
  )
  log_ratio = (logprobs - ref_logprobs) * mask
  estimates = {name: kl.estimate(log_ratio, name) for name in kl.ESTIMATORS}
  score = rewards.stopped_score(
    (pm_score - controls['score_mean']) / controls['score_std'],
    samples.is_stopped,
    no_stop=how.no_stop,
    penalty=how.no_stop_penalty,
  )
  reward = rewards.kl_rewards(
    score,
    estimates[how.kl_estimator],
    mask,
    kl_coef=coef * how.kl_in_reward,
  )
  values = values * mask
  advs, returns = how.advantage_fn(reward, values, mask)
  rollout = Rollout(
    tokens=samples.tokens,
    prompt_lengths=samples.prompt_lengths,
    reply_mask=mask,
    logprobs=logprobs * mask,
    ref_logprobs=ref_logprobs * mask,
    values=values,
    advantages=arrays.whiten(advs, mask) if how.whiten else advs,
    returns=returns,
    kl_coef=jnp.full(
      pm_score.shape, 0.0 if how.kl_in_reward else coef, jnp.float32
    ),
  )
  metrics = _seen(samples, rollout, estimates)
  if nets.values != 'none':
    metrics |= _value_metrics(rollout)
  rollout = sharding.split_rows(rollout, like=samples.tokens)
  return rollout, metrics | {
    'pm_score': pm_score.mean(),
    'pm_score_std': pm_score.std(),
    'score': score.mean(),
    'reward': reward.sum(axis=1).mean(),
    'entropy': arrays.masked_mean(entropy, mask),
  }


def make_score(
  nets: Networks, how: Rewarding
) -> Callable[..., tuple[Rollout, dict[str, Array]]]:
  """The jitted score(params, frozen, controls, samples) -> (rollout, metrics).

  `params` are the trained networks', `frozen` {'reference', 'pm'}; `controls`
  {'kl_coef', 'score_mean', 'score_std'}, float32 [] each: a PM score counts
  less the mean and over the deviation.
  """

  def score(params, frozen, controls, samples: Samples):
    outputs = nets.actor_critic(params, samples.tokens, samples.prompt_lengths)
    return credit(nets, how, outputs, frozen, controls, samples)

  return jax.jit(score)


def _seen(
  samples: Samples, rollout: Rollout, estimates: dict[str, Array]
) -> dict[str, Array]:
  """What a rollout says about the policy that sampled it."""
  error = jnp.abs(rollout.logprobs - samples.logprobs) * rollout.reply_mask
  kls = {f'kl_{k}': x.sum(axis=1).mean() for k, x in estimates.items()}
  return kls | {
    'length': samples.reply_lengths.mean(),
    'stop_rate': samples.is_stopped.mean(),
    'sampler_error': error.max(),
  }


def _value_metrics(rollout: Rollout) -> dict[str, Array]:
  """How well the values know the returns."""
  mask = rollout.reply_mask
  unexplained = arrays.masked_var(rollout.returns - rollout.values, mask)
  spread = arrays.masked_var(rollout.returns, mask)
  return {
    'explained_variance': 1 - unexplained / (spread + 1e-8),
    'value': arrays.masked_mean(rollout.values, mask),
  }


def make_draw(
  nets: Networks, *, slots: int = 0
) -> Callable[[Params, Prompts, Array, Array, int], Samples]:
  """The jitted draw(policy, prompts, key, row_ids, num_samples)."""

  def fn(policy, prompts, key, row_ids, num_samples):
    return draw(
      *(nets, policy, prompts, key, row_ids),
      num_samples=num_samples,
      slots=slots,
    )

  return jax.jit(fn, static_argnums=4)


def make_judge(
  nets: Networks,
) -> Callable[[Any, Params, Samples], dict[str, Array]]:
  """The jitted judge(policy, pms, samples): the raw score of every PM, [B]."""

  def fn(policy: Any, pms: Params, samples: Samples) -> dict[str, Array]:
    del policy
    return {name: judge(nets, pm, samples) for name, pm in pms.items()}

  return jax.jit(fn)


def make_evaluate(
  nets: Networks, pm_names: tuple[str, ...]
) -> Callable[[Params, Params, Samples], dict[str, Array]]:
  """The jitted evaluate(policy, frozen, samples), [B] each.

  The exact KL to the reference and its estimates (nats a reply), and the raw
  score of every PM named.
  """

  def evaluate(policy, frozen, samples):
    seen = compare(nets, policy, frozen['reference'], samples)
    mask = samples.reply_mask
    log_ratio = (seen['logprobs'] - seen['ref_logprobs']) * mask
    scores = {name: judge(nets, frozen[name], samples) for name in pm_names}
    return {
      'kl': (seen['kl'] * mask).sum(axis=1),
      **{
        f'kl_{name}': kl.estimate(log_ratio, name).sum(axis=1)
        for name in kl.ESTIMATORS
      },
      **scores,
    }

  return jax.jit(evaluate)
