"""Sampling, scoring and advantages as one device call; updates as another.

Axis letters: B batch, P prompt, R reply columns.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hh_jax import arrays, sampling
from hh_jax.model import Transformer
from hh_jax.rl import advantages, ensemble, rewards
from hh_jax.rl import policy as policy_lib
from hh_jax.types import Array, Params, Prompts, Rollout, Samples, TrainState


@dataclasses.dataclass(frozen=True)
class Networks:
  """The functions of all networks in RL; their parameters travel apart."""

  policy: Transformer  # of the policy and of the reference
  value: Transformer
  pm: Transformer  # of every preference model
  combine: ensemble.CombineFn  # scores of the members of an ensemble
  distribution: sampling.SamplingDistribution
  max_reply: int
  end_id: int  # the end-of-context token
  chunk: int  # tokens whose logits exist at a time


def draw(
  nets: Networks, params: Params, prompts: Prompts, key: Array, row_ids: Array
) -> Samples:
  """One reply of the policy for every prompt."""
  return sampling.sample(
    nets.policy,
    params,
    prompts,
    key,
    distribution=nets.distribution,
    max_reply=nets.max_reply,
    row_ids=row_ids,
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


def make_collect(
  nets: Networks,
  *,
  kl_coef: float,
  gamma: float,
  lam: float,
  no_stop_penalty: float,
) -> Callable[..., tuple[Rollout, dict[str, Array]]]:
  """The jitted collect(params, frozen, prompts, key) -> (rollout, metrics).

  `params` is {'policy', 'value'}; `frozen` is {'reference', 'pm',
  'score_mean'}, the last being subtracted from every PM score.
  """

  def collect(params: Params, frozen: Params, prompts: Prompts, key: Array):
    row_ids = jnp.arange(prompts.tokens.shape[0])
    samples = draw(nets, params['policy'], prompts, key, row_ids)
    pm_score = judge(nets, frozen['pm'], samples) - frozen['score_mean']
    mask = samples.reply_mask
    seen = compare(nets, params['policy'], frozen['reference'], samples)
    values = mask * policy_lib.reply_values(
      nets.value,
      params['value'],
      samples.tokens,
      samples.prompt_lengths,
      max_reply=nets.max_reply,
    )
    score = rewards.policy_score(
      pm_score, samples.is_stopped, no_stop_penalty=no_stop_penalty
    )
    reward = rewards.kl_rewards(
      score, seen['logprobs'], seen['ref_logprobs'], mask, kl_coef=kl_coef
    )
    advs, returns = advantages.gae(reward, values, mask, gamma=gamma, lam=lam)
    rollout = Rollout(
      tokens=samples.tokens,
      prompt_lengths=samples.prompt_lengths,
      reply_mask=mask,
      logprobs=seen['logprobs'] * mask,
      values=values,
      advantages=arrays.whiten(advs, mask),
      returns=returns,
    )
    error = jnp.abs(seen['logprobs'] - samples.logprobs) * mask
    return rollout, {
      'pm_score': pm_score.mean(),
      'pm_score_std': pm_score.std(),
      'reward': reward.sum(axis=1).mean(),
      'kl': (seen['kl'] * mask).sum(axis=1).mean(),
      'kl_k1': (
        ((seen['logprobs'] - seen['ref_logprobs']) * mask).sum(axis=1).mean()
      ),
      'length': samples.reply_lengths.mean(),
      'stop_rate': samples.is_stopped.mean(),
      'sampler_error': error.max(),
    }

  return jax.jit(collect)


def make_update(
  train_step: Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]],
  *,
  shardings: Any,
  num_epochs: int,
  num_minibatches: int,
) -> Callable[[TrainState, Rollout], tuple[TrainState, dict[str, Array]]]:
  """The jitted update(state, rollout): every minibatch of every epoch.

  Minibatches are redrawn each epoch; metrics are [epochs * minibatches].
  `shardings` are those of the state, which it keeps: otherwise the second
  iteration would compile everything again.
  """
  row_sharding = NamedSharding(shardings.step.mesh, P('fsdp'))

  def update(state: TrainState, rollout: Rollout):
    batch = rollout.tokens.shape[0]

    def rows(epoch: Array) -> Array:
      key = jax.random.fold_in(state.key, state.step)
      order = jax.random.permutation(jax.random.fold_in(key, epoch), batch)
      return order.reshape(num_minibatches, -1)

    index = jax.vmap(rows)(jnp.arange(num_epochs))

    def body(state: TrainState, rows: Array):
      # gathered rows would otherwise be whole on every device
      minibatch = jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(x[rows], row_sharding),
        rollout,
      )
      return train_step(state, minibatch)

    index = index.reshape(-1, batch // num_minibatches)
    return jax.lax.scan(body, state, index)

  return jax.jit(
    update, donate_argnames='state', out_shardings=(shardings, None)
  )


def make_evaluate(
  nets: Networks, pm_names: tuple[str, ...]
) -> Callable[..., tuple[Samples, dict[str, Array]]]:
  """The jitted evaluate(policy, frozen, prompts, key, row_ids).

  Returns the samples and, each [B]: the exact KL to the reference and its k1
  estimate (nats a reply), and the raw score of every PM named.
  """

  def evaluate(policy, frozen, prompts, key, row_ids):
    samples = draw(nets, policy, prompts, key, row_ids)
    seen = compare(nets, policy, frozen['reference'], samples)
    mask = samples.reply_mask
    log_ratio = (seen['logprobs'] - seen['ref_logprobs']) * mask
    scores = {name: judge(nets, frozen[name], samples) for name in pm_names}
    return samples, {
      'kl': (seen['kl'] * mask).sum(axis=1),
      'kl_k1': log_ratio.sum(axis=1),
      **scores,
    }

  return jax.jit(evaluate)
