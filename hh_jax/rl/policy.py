"""Teacher-forced passes over sampled replies.

Axis letters: B batch, P prompt, R reply columns, D model, V vocab, N = B * R.
"""

import dataclasses

import jax
import jax.numpy as jnp

from hh_jax import arrays, sampling
from hh_jax.losses.ppo import PolicyFn
from hh_jax.model import Transformer
from hh_jax.types import Array, Params, Rollout

VALUES = ('separate', 'head', 'none')


@dataclasses.dataclass(frozen=True)
class ActorCritic:
  """The functions of a policy and its value network.

  Parameters are {'policy': ...}, and 'value' beside it where `values` is
  'separate'. 'head': the scalar head on the policy's own hidden states.
  'none': all values are 0.
  """

  policy: Transformer
  value: Transformer
  values: str  # one of VALUES
  distribution: sampling.SamplingDistribution
  max_reply: int
  chunk: int  # tokens whose logits exist at a time

  def __post_init__(self):
    if self.values not in VALUES:
      raise ValueError(f'values {self.values!r} is none of {VALUES}')

  def _hidden(
    self, model: Transformer, params: Params, tokens: Array, lengths: Array
  ) -> Array:
    return sampling.reply_hidden(
      model, params, tokens, lengths, max_reply=self.max_reply
    )

  def _head(
    self, params: Params, hidden: Array, tokens: Array, entropy_gradient: bool
  ) -> tuple[Array, Array]:
    """Log-prob and entropy of every reply token, nats, [B, R] each."""

    def of_chunk(h: Array, targets: Array):
      logits = self.distribution.adjust(self.policy.logits(params, h))
      unchanged = logits if entropy_gradient else jax.lax.stop_gradient(logits)
      return (
        arrays.token_logprobs(logits, targets),
        arrays.entropy(unchanged),
      )

    targets = tokens[:, -self.max_reply :]
    flat = (hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1))
    out = arrays.chunked(of_chunk, self.chunk, *flat)
    return tuple(x.reshape(targets.shape) for x in out)

  def __call__(
    self,
    params: Params,
    tokens: Array,
    prompt_lengths: Array,
    *,
    entropy_gradient: bool = False,
  ) -> tuple[Array, Array, Array]:
    """Log-probs and entropies (nats) and values (PM units), [B, R] each.

    tokens [B, P + R]. The value stands before its token.
    """
    policy = params['policy']
    hidden = self._hidden(self.policy, policy, tokens, prompt_lengths)
    logprobs, entropy = self._head(policy, hidden, tokens, entropy_gradient)
    if self.values == 'separate':
      of_value = self._hidden(
        self.value, params['value'], tokens, prompt_lengths
      )
      values = self.value.scores(params['value'], of_value)
    elif self.values == 'head':
      values = self.policy.scores(policy, hidden)
    else:
      values = jnp.zeros_like(logprobs)
    return logprobs, entropy, values

  def logprobs(
    self, policy: Params, tokens: Array, prompt_lengths: Array
  ) -> Array:
    """Log-probs of the reply tokens under one policy, nats, [B, R]."""
    hidden = self._hidden(self.policy, policy, tokens, prompt_lengths)
    return self._head(policy, hidden, tokens, False)[0]

  def policy_fn(self, *, entropy_gradient: bool) -> PolicyFn:
    """Itself on a rollout, as the losses want it."""

    def policy_fn(params: Params, rollout: Rollout):
      return self(
        params,
        rollout.tokens,
        rollout.prompt_lengths,
        entropy_gradient=entropy_gradient,
      )

    return policy_fn


def compare(
  model: Transformer,
  params: Params,
  ref_params: Params,
  tokens: Array,
  prompt_lengths: Array,
  *,
  distribution: sampling.SamplingDistribution,
  max_reply: int,
  chunk: int,
) -> dict[str, Array]:
  """Policy against reference on given replies: float32 [B, R] each, nats.

  `logprobs` and `ref_logprobs` of the reply tokens; `kl`, the exact KL(policy
  || reference) of the next token, summed over the vocabulary.
  """
  hidden, ref_hidden = (
    sampling.reply_hidden(model, p, tokens, prompt_lengths, max_reply=max_reply)
    for p in (params, ref_params)
  )

  def of_chunk(h: Array, ref_h: Array, targets: Array):
    picked, logp = distribution.token_logprobs(model.logits(params, h), targets)
    ref_picked, ref_logp = distribution.token_logprobs(
      model.logits(ref_params, ref_h), targets
    )
    return {
      'logprobs': picked,
      'ref_logprobs': ref_picked,
      'kl': (jnp.exp(logp) * (logp - ref_logp)).sum(axis=-1),
    }

  batch, d = tokens.shape[0], hidden.shape[-1]
  targets = tokens[:, -max_reply:].reshape(-1)
  flat = (hidden.reshape(-1, d), ref_hidden.reshape(-1, d), targets)
  out = arrays.chunked(of_chunk, chunk, *flat)
  return jax.tree.map(lambda x: x.reshape(batch, max_reply), out)
